import pytest
import torch

from common.algorithms.likelihood import Likelihood
from common.diffusion import Cosine, Denoiser, Euclidean, Process, State, V
from common.errors import InputError


class Recorder(torch.nn.Module):
    """Keeps the times that it is asked for."""

    def forward(self, x, t, mask, context):
        self.t = t
        return torch.zeros_like(x)


def times(likelihood: Likelihood, count: int = 4000) -> torch.Tensor:
    network = Recorder()
    x = torch.zeros(count, 1, 1)
    batch = State(x, torch.ones(count, 1, dtype=torch.bool))
    likelihood.loss(Denoiser(network, Process(Cosine(), Euclidean()), V()), batch, torch.Generator().manual_seed(0))
    return network.t.sort().values


def test_times_are_stratified():
    even = (torch.arange(4000) + 0.5) / 4000
    assert (times(Likelihood()) - even).abs().max() <= 0.5 / 4000 + 1e-6


def test_focused_times_follow_their_law():
    t = times(Likelihood(focus=(1.0, -0.8, 0.9)))
    logit = torch.logit(t)
    assert logit.mean() == pytest.approx(-0.8, abs=0.01)
    assert logit.std() == pytest.approx(0.9, abs=0.01)


def test_the_share_of_focused_times():
    # Below 0.01 the focused law has next to nothing, the even one its hundredth.
    t = times(Likelihood(focus=(0.6, -0.8, 0.9)))
    assert (t < 0.01).float().mean() == pytest.approx(0.004, abs=0.001)
    assert 0.0 <= t.min() <= t.max() <= 1.0


def test_an_unusable_focus_is_refused():
    with pytest.raises(InputError, match="got focus"):
        Likelihood(focus=(1.5, 0.0, 1.0))
