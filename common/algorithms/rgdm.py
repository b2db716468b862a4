"""`Rgdm`: reward-guided diffusion training by pay-off samples (arXiv 2304.07132).

From the paper's abstract, which is all of it that was at hand: policy gradients are taken on samples from a *pay-off
distribution* proportional to exponentially scaled rewards instead of on samples of the policy, which bridges weighted
likelihood and maximum-entropy reinforcement learning and lowers the variance of the gradient; rewards need no gradient
and conditions need not be inputs of the network.

Derived: with q*(x_s | x_t) the pay-off distribution, the flipped divergence KL(q* || p_theta) of a step is, but for a
constant, E_{q*} ||x - mu_theta(x_t)||^2 / (2 sigma_t^2): the diffusion loss with its target replaced.

Our choices: where the candidates come from, their number K, the value of a candidate, and the targets

    kl       q* ~ p_ref(x_s | x_t) exp(v(x_s) / tau)    the optimal kernel of the KL-regularised problem
    payoff   q* ~ exp(v(x_s) / tau)                     the rewards alone, as far as the candidates reach
    policy   q* ~ p_theta(x_s | x_t) exp(v(x_s) / tau)  the policy's own steps, better, round for round

with `anchor` a > 0 `policy` becomes p_theta^(1 - a) p_ref^a exp(v / tau'): Gaussians of one variance, so that its mean
is that of `policy` moved the share a of the way back to the base's. Each round keeps what rewards went on asking for
and forgets the rest. Rounds add up to 1 / a of the tilt of one, of which self-normalised weights of K candidates give
1 - 1 / K; with tau' = tau (1 - 1 / K) / a they settle, where v is linear, at the base's step tilted at the temperature
tau, the same law as that of `kl`.

All by self-normalised importance weights, whose bias falls as 1 / K, with a control variate (`Candidates.mean`),
without which the gradient of a small tilt is all noise. The value of a candidate is the reward of the reference's
estimate x0_hat(x_s) (`look_ahead` 1), which ignores the spread of x_0 given x_s and so pulls too hard at noisy times;
or of a short chain of the reference (`look_ahead` > 1), which draws x_0 but for its last estimate. As it grows to all
the steps left the weights get the right mean, E_ref[exp(r(x_0) / tau) | x_s] = exp(v(x_s) / tau).

Under `Ctrl` the candidates of a state are weighed for several values that might be asked for, not for its chain's
alone. With a few candidates in hundreds of dimensions most of what a state teaches is noise, and what few chains teach
is what all values have in common; here the noise is the same for all values, and how they differ is left. Candidates
come from another value's step then, and its density is divided out.

Known biases: with a short look-ahead the spread of x_0 is too small and the tilt too strong (see the closed-form
suite). The weight p_ref / proposal spreads with the degrees of freedom: explore_std far from 1 leaves few effective
samples in large systems; so does a policy far from the base, where `kl` with few candidates finds no way on. `payoff`,
and `policy` without an anchor, have no divergence that holds them: they contract to the best rewards, `policy` by a
little every round, so that it can be stopped in time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from common.algorithms.algorithm import FromChains, regress, require_temperature, scalars, score
from common.algorithms.experience import Experience
from common.algorithms.rollout import kernel, kernel_of, noise_scale, require_density, rollout, step_times
from common.cost import Cost, Counted
from common.diffusion import DenoiserFunction, Sampler, State, Transition
from common.diffusion.sampler import NoiseSource
from common.errors import InputError
from common.named import nearest
from common.rewards import Reward

TARGETS = ("kl", "payoff", "policy")
PROPOSALS = ("policy", "posterior", "reference")


@dataclass(frozen=True)
class Candidates:
    """K candidates for the next state of each of M states.

    Attributes:
        before: the M states.
        steps: (M,) long, their places among the sampler's times.
        after: (M, K, N, D).
        centre: (M, N, D) to which the tilt is added: the mean of what `plain` weighs for, or on the way from there to
            the base's.
        rewards: (M, K) of each candidate's look-ahead, NaN where that could not be scored.
        weights: (M, K) of the pay-off distribution, summing to 1; 0 in rows without any valid candidate.
        plain: (M, K) the weights that they would have if all rewards were the same, summing to 1.
        cost: of drawing and scoring them.
    """

    before: State
    steps: Tensor
    after: Tensor
    centre: Tensor
    rewards: Tensor
    weights: Tensor
    plain: Tensor
    cost: Cost

    def mean(self) -> Tensor:
        """(M, N, D) the weighted mean, with the noise of the plain mean taken off.

        The plain mean of candidates of the proposal is its mean but for noise of variance std^2 / K; the weighted mean
        has the same noise and more. Their difference, added to the known mean, has the same expectation and less
        variance, sum_k w_k^2 - 1 / K instead of sum_k w_k^2: none where all candidates are equally good.
        """
        return _weighted(self.weights, self.after) - self._noise()

    def sample(self, generator: torch.Generator) -> Tensor:
        """(M, N, D) one candidate each, drawn by weight, with the same noise taken off."""
        usable = self.weights.sum(dim=1, keepdim=True) > 0
        table = torch.where(usable, self.weights, torch.ones_like(self.weights)).cpu()
        chosen = torch.multinomial(table, 1, generator=generator)[:, 0].to(self.steps.device)
        return self.after[torch.arange(len(chosen), device=chosen.device), chosen] - self._noise()

    def _noise(self) -> Tensor:
        return _weighted(self.plain, self.after) - self.centre

    def effective(self) -> Tensor:
        """(M,) effective sample size 1 / sum_k w_k^2, from 1 to K; 0 in rows without any valid candidate."""
        squared = self.weights.square().sum(dim=1)
        return torch.where(squared > 0, 1 / squared.clamp(min=1e-30), torch.zeros_like(squared))


@dataclass(frozen=True)
class Proposed:
    """K candidates for the next state of each of M states, before anybody has asked what they are worth.

    Attributes:
        before: the M states.
        steps: (M,) long, their places among the sampler's times.
        after: (M K, N, D), the candidates of a state together.
        ends: M K clean states (M K, N, D) that they lead to under the base.
        proposal: the law that they were drawn from, of M rows; its std is `explore_std` times the step's.
        base: the base's step, of M rows.
        cost: of all this.
    """

    before: State
    steps: Tensor
    after: Tensor
    ends: State
    proposal: Transition
    base: Transition
    cost: Cost


@dataclass(frozen=True)
class Rgdm(FromChains):
    """Reward-guided training by pay-off samples.

    Attributes:
        sampler: whose reverse steps are trained; see `rollout_sampler`.
        tau: temperature of the law that training settles at, see above; of each round's pay-off where nothing holds it.
        target: `policy` (from where the policy stands), `kl` (with the reference term) or `payoff` (rewards alone).
        proposal: where candidates come from: `policy` (its step, at states of its chains), `reference` (the base's step
            at those states) or `posterior` (q(x_s | x_t, x_0) of clean data, at noised data: no chain is needed).
        candidates: K.
        explore_std: at least 1; inflates the std of the proposal, which the weights correct.
        look_ahead: evaluations of the reference for a candidate's value: 1 takes the reward of x0_hat, more draw x_0.
        resample: learn from one candidate drawn by weight; False takes the weighted mean of all, which has the same
            gradient on average and less variance.
        visited: states a sample that are learnt from, out of its chain or of random times.
        inactive: steps at the end at which the policy is its base whatever its weights: none of them is learnt from.
        anchor: for `policy`, share of the way back to the base's step in each round, from 0 to 1.
        epochs: see `Algorithm`.
    """

    sampler: Sampler
    tau: float
    target: str = "policy"
    proposal: str = "policy"
    candidates: int = 4
    explore_std: float = 1.0
    look_ahead: int = 1
    resample: bool = False
    visited: int = 8
    inactive: int = 0
    anchor: float = 0.2
    epochs: int = 1

    def __post_init__(self) -> None:
        require_density(self.sampler)
        require_temperature(self.tau)
        for name, value, known in (("target", self.target, TARGETS), ("proposal", self.proposal, PROPOSALS)):
            if value not in known:
                raise InputError(f"got {name} '{value}'{nearest(value, known)}; expected one of {', '.join(known)}")
        if not 0 <= self.anchor <= 1:
            raise InputError(f"got anchor {self.anchor}, expected 0 to 1")
        if self.candidates < 2 or not min(self.look_ahead, self.visited, self.explore_std) >= 1:
            raise InputError(
                f"got candidates {self.candidates}, look_ahead {self.look_ahead}, visited {self.visited} and "
                f"explore_std {self.explore_std}; expected at least 2, 1, 1 and 1"
            )
        if not 0 <= self.inactive < self.sampler.steps:
            raise InputError(f"got inactive {self.inactive}, expected 0 to {self.sampler.steps - 1} steps")

    @property
    def needs_data(self) -> bool:
        """See `Algorithm`."""
        return self.proposal == "posterior"

    @property
    def round_tau(self) -> float:
        """The temperature tau' of one round's pay-off."""
        held = self.target == "policy" and self.anchor > 0
        return self.tau * (1 - 1 / self.candidates) / self.anchor if held else self.tau

    def collect(
        self,
        policy: DenoiserFunction,
        reference: DenoiserFunction,
        reward: Reward,
        batch: State,
        noise: NoiseSource,
        generator: torch.Generator,
        others: Sequence[Mapping[str, Tensor]] = (),
    ) -> Experience:
        """See `Algorithm`: rows of one step whose end is the pay-off sample.

        B x `visited` of them for what the batch asks for, then as many for each of `others`, name -> (B,), which are
        asked for instead.
        """
        before, clean, steps, cost = self._states(policy, batch, noise, generator)
        drawn = self.propose(policy, reference, before, steps, generator, clean)
        rows = [self.weigh(policy, reward, drawn)]
        for other in others:
            asked = {name: values.repeat_interleave(self.visited, dim=0) for name, values in other.items()}
            rows.append(self.weigh(policy, reward, drawn, {**before.condition, **asked}))
        after = [row.sample(generator) if self.resample else row.mean() for row in rows]
        conditions = [row.before.condition for row in rows]
        valid = torch.isfinite(rows[0].rewards)
        count = len(rows)
        return Experience(
            torch.stack([before.x.repeat(count, 1, 1), torch.cat(after)], dim=1),
            steps.repeat(count)[:, None],
            before.mask.repeat(count, 1),
            {name: torch.cat([condition[name] for condition in conditions]) for name in before.condition},
            extra={"usable": torch.cat([row.weights.sum(dim=1) > 0 for row in rows]).to(before.x.dtype)},
            metrics=scalars(
                reward=rows[0].rewards[valid].mean(),
                valid=valid.to(before.x.dtype).mean(),
                effective_samples=rows[0].effective().mean(),
                effective_share=rows[0].effective().mean() / self.candidates,
            ),
            cost=sum((row.cost for row in rows), cost + drawn.cost),
        )

    def _states(
        self, policy: DenoiserFunction, batch: State, noise: NoiseSource, generator: torch.Generator
    ) -> tuple[State, Tensor | None, Tensor, Cost]:
        """B x `visited` states to learn at, the clean data behind them, and their places among the times."""
        count, active, device = len(batch), self.sampler.steps - self.inactive, batch.x.device
        rows = torch.arange(count, device=device).repeat_interleave(self.visited)
        # Without repetition within a chain, as far as there are enough steps.
        order = torch.rand(count, active, generator=generator).argsort(dim=1).to(device)
        steps = order[:, torch.arange(self.visited, device=device) % active].flatten()
        if self.proposal == "posterior":
            clean = batch.index(rows)
            t = step_times(self.sampler, clean, steps)
            draws = torch.randn(clean.x.shape, generator=generator, dtype=clean.x.dtype).to(device)
            x_t = self.sampler.process.corrupt(clean.x, clean.mask, t, draws)
            return clean.replace(x=x_t), clean.x, steps, Cost()
        chains = rollout(policy, self.sampler, batch, noise)
        before = State(chains.path[rows, steps], chains.mask[rows], batch.index(rows).condition)
        return before, None, steps, chains.cost

    @torch.no_grad()
    def propose(
        self,
        policy: DenoiserFunction,
        reference: DenoiserFunction,
        before: State,
        steps: Tensor,
        generator: torch.Generator,
        clean: Tensor | None = None,
    ) -> Proposed:
        """Candidates for the state after each of M states.

        Args:
            policy, reference: see `Algorithm.collect`.
            before: M states, each at its own time.
            steps: (M,) long, the places of these times.
            generator: on the CPU.
            clean: (M, N, D) data behind the states, for the proposal `posterior`.
        """
        policy, reference = Counted(policy), Counted(reference)
        base = kernel(reference, self.sampler, before, steps)
        if self.proposal == "posterior":
            if clean is None:
                raise InputError("the proposal 'posterior' needs clean data; got none")
            centre = kernel_of(clean, self.sampler, before, steps)
        else:
            centre = base if self.proposal == "reference" else kernel(policy, self.sampler, before, steps)
        rows = torch.arange(len(before), device=steps.device).repeat_interleave(self.candidates)
        wide = replace(centre, std=centre.std * self.explore_std)
        shape = (len(rows), *before.x.shape[1:])
        after = _rows(wide, rows).sample(
            torch.randn(shape, generator=generator, dtype=before.x.dtype).to(before.x.device)
        )
        ends = self._look_ahead(reference, before.index(rows).replace(x=after), steps[rows], generator)
        cost = Cost(evaluations=policy.evaluations + reference.evaluations)
        return Proposed(before, steps, after, ends, wide, base, cost)

    @torch.no_grad()
    def weigh(
        self,
        policy: DenoiserFunction,
        reward: Reward,
        drawn: Proposed,
        condition: Mapping[str, Tensor] | None = None,
    ) -> Candidates:
        """Candidates scored and weighted.

        Args:
            policy, reward: see `Algorithm.collect`.
            drawn: see `propose`.
            condition: name -> (M, ...) what is asked for; None for what was when they were drawn. Of other things the
                policy's step is the law that they are weighed for, by its density over the proposal's, and the plain
                mean is taken off with these weights: where none of the candidates might have come from that step, one
                of them has all the weight with rewards and without, and nothing is learnt rather than noise.
        """
        policy = Counted(policy)
        other = condition is not None
        before = drawn.before.replace(condition=condition) if condition is not None else drawn.before
        rows = torch.arange(len(before), device=drawn.steps.device).repeat_interleave(self.candidates)
        ends = drawn.ends.replace(condition=before.index(rows).condition) if other else drawn.ends
        scored = score(reward, ends)
        logits = torch.where(scored.valid, scored.values / self.round_tau, torch.full_like(scored.values, -torch.inf))
        ratio = -_rows(drawn.proposal, rows).log_prob(drawn.after)
        prior = drawn.base
        # Candidates of the policy's own step for what was asked for, and no others, have the plain weights 1 / K.
        known = self.proposal == "policy" and not other
        if self.target == "policy":
            prior = drawn.proposal if known else kernel(policy, self.sampler, before, drawn.steps)
            prior = replace(prior, std=drawn.base.std)
        if self.target != "payoff":
            ratio = ratio + _rows(prior, rows).log_prob(drawn.after)
        split = (len(before), self.candidates)
        ratio = ratio.unflatten(0, split)
        weights = torch.nan_to_num((logits.unflatten(0, split) + ratio).softmax(dim=1))
        centre, plain = drawn.proposal.mean, torch.full_like(ratio, 1 / self.candidates)
        if self.target == "policy" and not known:
            centre, plain = prior.mean, ratio.softmax(dim=1)
        # The control variate of the candidates' mean stands at their own mean; only then does the base pull: by as much
        # less as the tilt is smaller than that of K candidates of the same weight, so that the two settle at one law.
        pull = self.anchor * (1 - plain.square().sum(dim=1)) / (1 - 1 / self.candidates)
        centre = centre + pull[:, None, None] * (drawn.base.mean - prior.mean)
        # Of something else that is asked for, samples that have been scored say what they are: see `Remembering`.
        cost = Cost(reward_calls=0 if other else len(rows), evaluations=policy.evaluations)
        return Candidates(
            before, drawn.steps, drawn.after.unflatten(0, split), centre, scored.values.unflatten(0, split), weights,
            plain, cost,
        )  # fmt: skip

    def draw(
        self,
        policy: DenoiserFunction,
        reference: DenoiserFunction,
        reward: Reward,
        before: State,
        steps: Tensor,
        generator: torch.Generator,
        clean: Tensor | None = None,
    ) -> Candidates:
        """What is proposed at M states for what they ask for, scored and weighted; see `propose` and `weigh`."""
        return self.weigh(policy, reward, self.propose(policy, reference, before, steps, generator, clean))

    def _look_ahead(self, reference: DenoiserFunction, ends: State, steps: Tensor, generator: torch.Generator) -> State:
        """Clean states that candidates, which stand behind the step at `steps` (R,), lead to under the reference.

        A chain of `look_ahead` evaluations, or of as many as there are times left, spread evenly over these; after the
        read-out none are.
        """
        process, left = self.sampler.process, self.sampler.steps - 1 - steps
        lengths, x = left.clamp(max=self.look_ahead), ends.x.clone()

        def times(state: State, rows: Tensor, number: int) -> Tensor:
            place = steps[rows] + 1 + torch.div(left[rows] * number, lengths[rows], rounding_mode="floor")
            return step_times(self.sampler, state, place.clamp(max=self.sampler.steps - 1))

        for number in range(self.look_ahead):
            rows = torch.nonzero(lengths > number)[:, 0]
            if not len(rows):
                break
            state = ends.index(rows).replace(x=x[rows])
            t = times(state, rows, number)
            following = reference(state, t)
            if number + 1 < self.look_ahead:
                step = process.posterior(
                    state.x, following, state.mask, t, times(state, rows, number + 1), noise_scale(self.sampler)
                )
                draws = torch.randn(state.x.shape, generator=generator, dtype=x.dtype).to(x.device)
                done = lengths[rows] == number + 1
                following = torch.where(done[:, None, None], following, step.sample(draws))
            x[rows] = following
        return ends.replace(x=x)

    def loss(
        self, policy: DenoiserFunction, reference: DenoiserFunction, experience: Experience
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """||x - mu_theta(x_t)||^2 / (2 sigma_t^2), summed over degrees of freedom, for pay-off samples x."""
        step = kernel(policy, self.sampler, experience.state(0), experience.steps[:, 0])
        loss = regress(step, experience.path[:, 1], experience.extra["usable"])
        return loss, {"regression": loss.detach()}


def _weighted(weights: Tensor, after: Tensor) -> Tensor:
    """(M, N, D) sum_k w_k x_k of weights (M, K) and candidates (M, K, N, D)."""
    return (weights[:, :, None, None] * after).sum(dim=1)


def _rows(step: Transition, rows: Tensor) -> Transition:
    return Transition(step.mean[rows], step.std[rows], step.space, step.mask[rows])
