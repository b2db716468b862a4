"""Reading EDM checkpoints: a made one in the published format, and files that must be refused."""

import argparse
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from contracts.denoiser import make_batch
from egnn_reference import ReferenceEGNN

from common.errors import InputError
from molgen import load_pretrained
from molgen.models.edm_checkpoint import load_edm_checkpoint, read_arguments
from molgen.pretrained.edm import load_edm_model

ARGUMENTS = {
    "exp_name": "made_here",
    "model": "egnn_dynamics",
    "probabilistic_model": "diffusion",
    "diffusion_steps": 1000,
    "diffusion_noise_schedule": "polynomial_2",
    "diffusion_noise_precision": 1e-5,
    "condition_time": True,
    "n_layers": 2,
    "inv_sublayers": 1,
    "nf": 16,
    "tanh": True,
    "attention": True,
    "norm_constant": 1,
    "sin_embedding": False,
    "dataset": "qm9",
    "conditioning": [],
    "context_node_nf": 0,
    "normalize_factors": [1, 4, 10],
    "remove_h": False,
    "include_charges": True,
    "filter_n_atoms": None,
    "lr": 1e-4,
}


def write_checkpoint(directory: Path, *, name: str = "generative_model_ema.npy", prefix: str = "", **changes):
    """Write `args.pickle` and weights as EDM does; returns the plain network that they describe."""
    arguments = ARGUMENTS | changes
    torch.manual_seed(0)
    reference = ReferenceEGNN(
        n_features=6 if arguments["include_charges"] else 5,
        n_context=arguments["context_node_nf"],
        hidden_nf=16,
        n_layers=2,
        inv_sublayers=arguments["inv_sublayers"],
    )
    state = {f"{prefix}dynamics.egnn.{key}": value for key, value in reference.state_dict().items()}
    state |= {f"{prefix}buffer": torch.zeros(1), f"{prefix}gamma.gamma": torch.linspace(-11, 11, 1001)}
    directory.mkdir(exist_ok=True)
    torch.save(state, directory / name)
    (directory / "args.pickle").write_bytes(pickle.dumps(argparse.Namespace(**arguments)))
    return reference


@pytest.mark.parametrize("changes", [{}, {"inv_sublayers": 2}, {"prefix": "module."}])
def test_loaded_network_is_the_saved_one(tmp_path, changes):
    reference = write_checkpoint(tmp_path, **changes)
    network, settings = load_edm_checkpoint(tmp_path)
    x, t, mask, _ = make_batch(6, dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(network(x, t, mask), reference(x, t, mask), rtol=1e-5, atol=1e-5)
    assert not network.training
    assert (settings.noise_schedule, settings.diffusion_steps) == ("polynomial_2", 1000)
    assert settings.noise_precision == 1e-5
    assert settings.normalize_factors == (1.0, 4.0, 10.0)
    assert settings.norm_biases == (0.0, 0.0, 0.0)
    assert settings.atom_types == (1, 6, 7, 8, 9)
    assert settings.include_charges
    assert settings.context == ()
    assert settings.weights == "generative_model_ema.npy"


def test_conditional_checkpoint_names_its_context(tmp_path):
    reference = write_checkpoint(
        tmp_path,
        conditioning=["alpha"],
        context_node_nf=1,
        include_charges=False,
        dataset="qm9_second_half",
        normalize_factors=[1, 8, 1],
    )
    network, settings = load_edm_checkpoint(tmp_path)
    assert settings.context == ("alpha",)
    assert settings.normalize_factors == (1.0, 8.0, 1.0)
    x, t, mask, context = make_batch(5, 1, dtype=torch.float32)
    with torch.no_grad():
        expected = reference(x, t, mask, context)
        torch.testing.assert_close(network(x, t, mask, context), expected, rtol=1e-5, atol=1e-5)


def test_averaged_weights_come_first(tmp_path):
    write_checkpoint(tmp_path, name="generative_model.npy")
    assert load_edm_checkpoint(tmp_path)[1].weights == "generative_model.npy"
    shutil.copy(tmp_path / "generative_model.npy", tmp_path / "generative_model_ema.npy")
    assert load_edm_checkpoint(tmp_path)[1].weights == "generative_model_ema.npy"


class Malicious:
    """Touches a file when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


class Evaluates(Malicious):
    def __reduce__(self):
        return eval, (f"__import__('pathlib').Path({str(self.marker)!r}).touch()",)


@pytest.mark.parametrize("attack", [Malicious, Evaluates])
def test_malicious_arguments_are_refused_and_not_run(tmp_path, attack):
    marker = tmp_path / "executed"
    write_checkpoint(tmp_path, lr=attack(marker))
    pickle.loads((tmp_path / "args.pickle").read_bytes())
    assert marker.exists(), "the attack does not work: nothing is tested"
    marker.unlink()
    with pytest.raises(InputError, match="refused: it names"):
        load_edm_checkpoint(tmp_path)
    assert not marker.exists()


def test_malicious_weights_are_refused_and_not_run(tmp_path):
    write_checkpoint(tmp_path)
    marker = tmp_path / "executed"
    torch.save({"dynamics.egnn.embedding.weight": Malicious(marker)}, tmp_path / "generative_model_ema.npy")
    with pytest.raises(InputError, match="not a file of plain tensors"):
        load_edm_checkpoint(tmp_path)
    (tmp_path / "generative_model_ema.npy").write_bytes(pickle.dumps(Malicious(marker)))
    with pytest.raises(InputError, match="not a file of plain tensors"):
        load_edm_checkpoint(tmp_path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"not a pickle", pickle.dumps(argparse.Namespace(a=1))[:-4], pickle.dumps({"nf": 1}), b"\x80\x04K"],
)
def test_broken_arguments(tmp_path, content):
    (tmp_path / "args.pickle").write_bytes(content)
    with pytest.raises(InputError, match=r"args\.pickle"):
        read_arguments(tmp_path / "args.pickle")


def test_device_and_path_become_text(tmp_path):
    file = tmp_path / "args.pickle"
    file.write_bytes(pickle.dumps(argparse.Namespace(device=torch.device("cuda", 1), out=Path("/a/b"))))
    assert read_arguments(file)["device"] == "cuda/1"
    assert isinstance(read_arguments(file)["out"], str)


def test_truncated_weights(tmp_path):
    write_checkpoint(tmp_path)
    file = tmp_path / "generative_model_ema.npy"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match="not a file of plain tensors"):
        load_edm_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nf": 32}, "does not fit"),
        ({"n_layers": 3}, "does not fit"),
        ({"nf": "wide"}, "wrong type"),
        ({"normalize_factors": [1, 4]}, "wrong type"),
        ({"model": "gnn_dynamics"}, "expected 'egnn_dynamics'"),
        ({"dataset": "moses"}, "'moses', expected one of"),
        ({"diffusion_noise_schedule": "learned"}, "'learned', expected cosine"),
    ],
)
def test_checkpoints_that_do_not_fit(tmp_path, changes, message):
    write_checkpoint(tmp_path, **changes)
    with pytest.raises(InputError, match=message):
        load_edm_checkpoint(tmp_path)


def test_missing_files(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        load_edm_checkpoint(tmp_path)
    write_checkpoint(tmp_path)
    (tmp_path / "generative_model_ema.npy").unlink()
    with pytest.raises(InputError, match="has no weights"):
        load_edm_checkpoint(tmp_path)


def test_foreign_state_dict(tmp_path):
    write_checkpoint(tmp_path)
    torch.save({"layer.weight": torch.zeros(1)}, tmp_path / "generative_model_ema.npy")
    with pytest.raises(InputError, match=r"'layer\.weight', which no EDM model has"):
        load_edm_checkpoint(tmp_path)


def test_a_published_checkpoint_is_a_whole_model(tmp_path):
    """Its folder generates: EDM's scaling, schedule, atom counts and chain; few steps by another solver too."""
    write_checkpoint(tmp_path)
    model = load_pretrained(tmp_path)
    assert model.sampler.steps == 1001
    assert model.sampler.final_noise
    assert (model.codec.type_scale, model.codec.number_scale, model.codec.n_channels) == (0.25, 0.1, 9)
    samples = model.sample(3, steps=5, solver="dpm2")
    assert len(samples) == 3
    assert set(samples.numbers) <= {1, 6, 7, 8, 9}
    drawn = model.size_law.draw(0, 0, 3000)
    assert drawn.mean() == pytest.approx(18.0, abs=0.2)


def test_a_conditional_checkpoint_is_not_taken_for_an_unconditional_model(tmp_path):
    write_checkpoint(tmp_path, conditioning=["alpha"], context_node_nf=1)
    with pytest.raises(InputError, match="wants the condition alpha"):
        load_edm_model(tmp_path)
