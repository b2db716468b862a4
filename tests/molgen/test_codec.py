import numpy as np
import pytest
import torch

from common.errors import InputError
from molgen.data.codec import MoleculeCodec
from molgen.data.molecules import MoleculeSet


@pytest.fixture
def molecules() -> MoleculeSet:
    rng = np.random.default_rng(0)
    return MoleculeSet.from_molecules(
        [(rng.choice([1, 6, 7, 8, 9], size), rng.normal(size=(size, 3)) * 2 + 5) for size in (3, 7, 1, 5)]
    )


@pytest.mark.parametrize(
    "codec",
    [
        MoleculeCodec((1, 6, 7, 8, 9), 1.0, 0.25, 0.1),  # EDM's scaling
        MoleculeCodec((1, 6, 7, 8, 9), 0.75, 1.0),
        MoleculeCodec((9, 8, 7, 6, 1)),
    ],
)
def test_round_trip(molecules, codec):
    state = codec.encode(molecules, n_points=9)
    assert state.x.shape == (4, 9, codec.n_channels)
    assert not state.x[~state.mask].any()
    assert state.x[..., :3].sum(1).abs().max() < 1e-5
    back = codec.decode(state)
    np.testing.assert_array_equal(back.numbers, molecules.numbers)
    for (_, found), (_, expected) in zip(back, molecules, strict=True):
        np.testing.assert_allclose(found, expected - expected.mean(0), atol=1e-5)


def test_channels_carry_the_scales(molecules):
    codec = MoleculeCodec((1, 6, 7, 8, 9), 1.0, 0.25, 0.1)
    features = codec.encode(molecules).x[0, :, 3:][:3]
    numbers = molecules[0][0]
    for row, number in zip(features, numbers, strict=True):
        assert row[codec.elements.index(number)] == 0.25
        assert row[:5].sum() == 0.25
        assert row[5] == pytest.approx(0.1 * number)


def test_unknown_elements_are_named():
    chlorine = MoleculeSet.from_molecules([(np.array([17, 1]), np.eye(2, 3))])
    with pytest.raises(InputError, match="got element Cl, expected H C"):
        MoleculeCodec((1, 6)).encode(chlorine)


def test_decoding_takes_the_largest_channel():
    codec = MoleculeCodec((1, 6, 7))
    state = codec.encode(MoleculeSet.from_molecules([(np.array([6, 1]), np.eye(2, 3))]))
    state = state.replace(x=state.x + torch.tensor([0, 0, 0, 0.1, -0.05, 0.1]))
    assert codec.decode(state).numbers.tolist() == [6, 1]
