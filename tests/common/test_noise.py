import pytest
import torch

from common.diffusion import SampleNoise, sample_seeds, size_mask


def test_a_samples_noise_depends_on_its_own_seed_alone():
    together = SampleNoise(sample_seeds(0, 0, 3))
    first, second = (together(size_mask(torch.tensor([2, 5, 3])), 4) for _ in range(2))
    alone = SampleNoise(sample_seeds(0, 2, 1))
    for batch in (first, second):
        torch.testing.assert_close(alone(size_mask(torch.tensor([3]), 7), 4)[0, :3], batch[2, :3], rtol=0, atol=0)
        assert not batch[0, 2:].any()


def test_seeds_do_not_depend_on_how_a_run_is_cut():
    assert sample_seeds(7, 0, 6) == sample_seeds(7, 0, 2) + sample_seeds(7, 2, 4)
    assert len(set(sample_seeds(0, 0, 1000)) | set(sample_seeds(1, 0, 1000))) == 2000


def test_one_seed_a_sample():
    with pytest.raises(ValueError, match="one seed a sample"):
        SampleNoise([1, 2])(size_mask(torch.tensor([3])), 4)
