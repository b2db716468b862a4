"""`BatchedMuon` against PyTorch's Muon, and the orthogonalisation against the singular value decomposition."""

import pytest
import torch

from common import precision
from common.training.muon import BatchedMuon, orthogonalise

SHAPES = ((24, 16), (16, 24), (24, 16), (16, 16))


def parameters() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


@pytest.mark.parametrize("adjust_lr_fn", [None, "match_rms_adamw"])
def test_the_same_steps_as_pytorch(adjust_lr_fn):
    """PyTorch rounds to bf16 within a step; five of them stay within that rounding."""
    ours, theirs = parameters(), parameters()
    settings = {"lr": 0.1, "weight_decay": 0.1, "momentum": 0.9, "nesterov": True, "adjust_lr_fn": adjust_lr_fn}
    optimisers = BatchedMuon(ours, **settings), torch.optim.Muon(theirs, **settings)
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            other.grad = mine.grad.clone()
        for optimiser in optimisers:
            optimiser.step()
    moved = max(float((p - q).detach().abs().max()) for p, q in zip(ours, parameters(), strict=True))
    for mine, other in zip(ours, theirs, strict=True):
        assert float((mine - other).detach().abs().max()) < 0.02 * moved


def test_a_checkpoint_of_pytorchs_muon_goes_on():
    theirs = torch.optim.Muon(parameters(), lr=0.1)
    for parameter in theirs.param_groups[0]["params"]:
        parameter.grad = torch.ones_like(parameter)
    theirs.step()
    ours = BatchedMuon(parameters(), lr=0.1)
    ours.load_state_dict(theirs.state_dict())
    first = ours.param_groups[0]["params"][0]
    assert float(ours.state[first]["momentum_buffer"].mean()) == pytest.approx(0.05)


@pytest.mark.parametrize("shape", [(3, 20, 8), (3, 8, 20)])
def test_singular_values_come_near_one_and_vectors_stay(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    made = orthogonalise(matrices, (3.4445, -4.7750, 2.0315), 5)
    values = torch.linalg.svdvals(made)
    assert made.shape == matrices.shape
    assert values.min() > 0.5
    assert values.max() < 1.3
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    assert torch.einsum("kim,kin,kjn->kmj", u, made, vh).diagonal(dim1=1, dim2=2).min() > 0.5


def test_parameters_without_gradient_stay():
    untouched = parameters()
    BatchedMuon(untouched, lr=0.1).step()
    for mine, other in zip(untouched, parameters(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "float32")])
def test_auto_precision_asks_the_machine(monkeypatch, native, expected):
    monkeypatch.setattr(precision, "native_bf16", lambda device: native)
    assert precision.pick_precision("auto", "cpu") == expected
    assert precision.pick_precision("bf16", "cpu") == "bf16"
