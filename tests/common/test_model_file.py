import json
import pickle

import pytest
import torch
from torch import nn

from common.diffusion.model_file import build_denoiser, load_weights, read_description, read_weights, save_model
from common.errors import InputError
from common.named import build_named


class Network(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)


DESCRIPTION = {
    "network": {"name": "net", "width": 4},
    "schedule": {"name": "cosine", "limit": 9.0},
    "space": {"name": "centered"},
    "parameterisation": {"name": "v"},
}


def test_round_trip(tmp_path):
    first = build_denoiser(DESCRIPTION, {"net": Network})
    save_model(tmp_path / "m", first.state_dict(), DESCRIPTION)
    second = build_denoiser(read_description(tmp_path / "m"), {"net": Network})
    load_weights(second, read_weights(tmp_path / "m"), "m")
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert second.process == first.process


def test_a_pickle_is_refused_and_never_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    for name in ("model.safetensors", "model.pt"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(InputError, match="pickle"):
            read_weights(folder)
    assert not (tmp_path / "ran").exists()


def test_foreign_folders_are_one_line(tmp_path):
    with pytest.raises(InputError, match="is not a model"):
        read_description(tmp_path)
    (tmp_path / "model.json").write_text("{broken")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        read_description(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(InputError, match="format 99, expected 1"):
        read_description(tmp_path)


def test_weights_that_do_not_fit_are_named():
    with pytest.raises(InputError, match=r"1 tensors missing \(first: linear.bias\)"):
        load_weights(Network(), {"linear.weight": torch.zeros(3, 3)}, "w")
    with pytest.raises(InputError, match=r"linear.weight has shape \(4, 4\), expected \(3, 3\)"):
        load_weights(Network(3), Network(4).state_dict(), "w")
    astray = {name: torch.full_like(value, torch.nan) for name, value in Network(3).state_dict().items()}
    with pytest.raises(InputError, match=r"w: \S+ has values that are not finite"):
        load_weights(Network(3), astray, "w")


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"name": "nett"}, "did you mean 'net'"),
        ({"name": "net", "widht": 3}, r"no setting 'widht' \(did you mean 'width'"),
        ({}, "got network None"),
    ],
)
def test_unknown_names_and_settings_name_the_nearest(description, message):
    with pytest.raises(InputError, match=message):
        build_named(description, {"net": Network}, "network")
