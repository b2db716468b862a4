"""Inference-time control on the command line: the options that `generate` of both commands gets, and what they ask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from common.cli.app import CommonOptions
from common.cli.options import option
from common.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from common.diffusion import DenoiserFunction, Sampler
    from common.guidance import GuidedSampler, Method, NoisyLogWeight
    from common.rewards import Reward


@dataclass(frozen=True, kw_only=True)
class GuidanceOptions(CommonOptions):
    """Options of guidance."""

    guidance: list[str] = option(
        [], "how a model is steered to its --target without training, may be repeated, the innermost first: cfg, "
        "classifier, reconstruction, training-free, and one of best-of-n, value-weighted, smc; or autoguidance, which "
        "makes samples sounder; each with settings of its own, as in 'smc particles=16 tau=0.5'"
    )  # fmt: skip
    classifier: str | None = option(
        None, "predictor of noisy samples for --guidance classifier: a folder of train-classifier"
    )
    weaker: str | None = option(
        None, "weaker model of the same data for --guidance autoguidance: name, model folder, or run directory"
    )
    guidance_scale: float | None = option(
        None, "strength: samples of p(x) exp(scale reward / tau); 0 is no guidance (default: 1)"
    )
    guidance_tau: float | None = option(None, "temperature of the reward, in its units (default: 1)", above=0)
    particles: int | None = option(
        None, "samples among which best-of-n, value-weighted and smc choose (default: 8)", at_least=1
    )

    def guidance_methods(self) -> list[Method]:
        """The methods that were asked for; none for plain sampling.

        Raises:
            InputError: an unknown method or setting, or a setting without a method that has it.
        """
        from common.guidance import Method, with_defaults

        methods = [Method.parse(text) for text in self.guidance]
        repeated = {method.name for method in methods if [other.name for other in methods].count(method.name) > 1}
        if repeated:
            raise InputError(f"got --guidance {', '.join(sorted(repeated))} more than once")
        given = {"scale": self.guidance_scale, "tau": self.guidance_tau, "particles": self.particles}
        return with_defaults(methods, given)


def guided_sampler(
    options: GuidanceOptions,
    sampler: Sampler,
    denoiser: DenoiserFunction,
    *,
    reward: Reward | None = None,
    log_weight: NoisyLogWeight | None = None,
    weaker: DenoiserFunction | None = None,
) -> GuidedSampler:
    """A sampler with the methods that were asked for; see `common.guidance.build_guided_sampler`.

    A batch of `generate_states` holds `guided.particles` states for each sample.
    """
    from common.guidance import build_guided_sampler

    return build_guided_sampler(
        options.guidance_methods(), sampler, denoiser, reward=reward, log_weight=log_weight, weaker=weaker
    )


class GuidedModel(Protocol):
    """A domain's model as guidance needs it."""

    @property
    def description(self) -> Mapping[str, Any]:
        """What `model.json` holds."""
        ...

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        ...


class DenoisingModel(GuidedModel, Protocol):
    """A domain's model that denoises."""

    @property
    def denoiser(self) -> DenoiserFunction:
        """(state_t, t) -> x0_hat."""
        ...


# (name or folder, device) -> model.
LoadModel = Callable[[str, "torch.device | str"], DenoisingModel]


def weaker_denoiser(options: GuidanceOptions, model: GuidedModel, load: LoadModel) -> DenoiserFunction | None:
    """The denoiser of `--weaker`; None where no guidance by one is asked for.

    Args:
        options: with guidance.
        model: what is guided.
        load: of the domain.

    Raises:
        InputError: no weaker model, or one of other states.
    """
    asked = any(method.name == "autoguidance" for method in options.guidance_methods())
    if options.weaker is None:
        if asked:
            raise InputError("guidance 'autoguidance' needs --weaker MODEL, a model of the same data that learnt less")
        return None
    if not asked:
        raise InputError("got --weaker without --guidance autoguidance")
    return denoiser_like(model.description, options.weaker, load, model.device)


def denoiser_like(
    description: Mapping[str, Any], name: str, load: LoadModel, device: torch.device | str
) -> DenoiserFunction:
    """The denoiser of another model, on `device`; an `InputError` if its states are not those of a `description`."""
    from common.diffusion.model_file import check_states

    other = load(name, device)
    check_states(description, other.description, name, "take one with the same codec and schedule")
    return other.denoiser


def classifier_weight(
    options: GuidanceOptions,
    model: GuidedModel,
    networks: Mapping[str, Callable[..., nn.Module]],
    values: Mapping[str, float],
) -> NoisyLogWeight | None:
    """log p(y | x_t) for `--guidance classifier`; None where it is not asked for.

    Args:
        options: with guidance.
        model: what is guided.
        networks: architecture -> constructor, of the domain's predictors of noisy states.
        values: quantity -> the value that a target asks for.

    Raises:
        InputError: no predictor, one of other states than the model's, or no target for what it predicts.
    """
    from common.guidance import NoisyLikelihood, load_noisy_predictor

    if not any(method.name == "classifier" for method in options.guidance_methods()):
        if options.classifier is not None:
            raise InputError("got --classifier without --guidance classifier")
        return None
    if options.classifier is None:
        raise InputError("guidance 'classifier' needs --classifier FOLDER, a predictor that train-classifier makes")
    predictor = load_noisy_predictor(Path(options.classifier), model.description, networks, model.device)
    name = predictor.control.name
    if name not in values:
        raise InputError(f"the classifier predicts {name}; give --target {name}=VALUE")
    return NoisyLikelihood(predictor.control, predictor, value=values[name])
