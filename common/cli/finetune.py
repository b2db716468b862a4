"""What the verb `finetune` of both commands shares: a trained model steered by rewards, or given control inputs."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from common.cli.options import argument, default_of, option
from common.cli.training import OPTIMISER_HELP, ParallelRunOptions, check_half, run_training
from common.errors import InputError

if TYPE_CHECKING:
    import torch

    from common.algorithms.ctrl import ControlTerm
    from common.diffusion import State
    from common.diffusion.control import ControlledDenoiser
    from common.rewards import Reward, RewardResult
    from common.training.fit import FitConfig, FitResult
    from common.training.task import ControlRequest, Task

logger = logging.getLogger(__name__)

_CONTROL = re.compile(
    r"(?P<name>[^\s=<>±,]+?)"
    r"(?:(?:\s*(?P<measured>±|\+/?-)|\s+tolerance\s*=?)\s*(?P<tolerance>[\d.eE+-]+)(?P<percent>\s*%)?)?"
    r"(?:\s+weight\s*=?\s*(?P<gamma>[\d.eE+-]+))?"
)


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(ParallelRunOptions):
    """Options of `finetune` in both domains."""

    base: str = argument("what to start from: name of a shipped model, a model folder, or a run directory")
    method: str = option(
        "rgdm", "rgdm, ctrl, policy_gradient, reward_weighted, backprop, path_consistency, adjoint_matching; "
        "hindsight: --control learned from data that a predictor labels; or likelihood: from labelled data alone, the "
        "conditional baseline"
    )  # fmt: skip
    target: list[str] = option(
        [], "what samples shall be, may be repeated: 'gap=4.5±0.2', 'maximise qed', my_score.py:score; beside "
        "--control, whatever is asked for"
    )  # fmt: skip
    control: list[str] = option(
        [], "an input that the model shall get, may be repeated: 'gap' (by a learned predictor), 'gap tolerance 0.2' "
        "(the same, give or take that) or 'gap±0.2' (by the scorer itself), each with 'weight 2' for another gamma"
    )  # fmt: skip
    aggregate: str = option("weighted_sum", "how several targets become one: weighted_sum, product or lexicographic")
    floor: float | None = option(None, "reward of failures, and the lowest there is (default: the worst of the batch)")
    judge: list[str] = option([], "independent opinion that is measured and never trained on, as --target")
    tau: float | None = option(
        None,
        "temperature: weight of the divergence from the base against the reward (default: 1; 0.27 for rgdm)",
        above=0,
    )
    settings: dict = option({}, "settings of the method, such as candidates, clip, truncation (docs/papers.md)")
    rollout_steps: int = option(20, "network evaluations of a chain in training", at_least=1)
    exponent: float = option(1.0, "times of a chain are linspace(1, 0, steps) ** exponent", above=0)
    null_share: float | None = option(
        None,
        "share of the chains that a control is left out of (default: 0; 0.2 of several, which then work alone, too)",
        at_least=0,
        at_most=1,
    )
    even_share: float = option(0.7, "share of the chains that are asked for a value anywhere in the data's range, not "
                                    "drawn from the data (--control)", at_least=0, at_most=1)  # fmt: skip
    values_each: int | None = option(
        None, "values asked for that the candidates of one state are weighed for (--method rgdm --control; default: 4)",
        at_least=1,
    )  # fmt: skip
    rank: int = option(16, "rank of the adapters that are trained; 0 for all weights (without --control)", at_least=0)
    active_from: float = option(
        0.15, "adapters act at times from here to 1, noise; the base finishes a sample", at_least=0, at_most=1
    )
    predictor: str | None = option(None, "predictor of the controls: a folder of train-predictor, or of "
                                    "train-classifier, which makes more of few labels (default: shipped)")  # fmt: skip
    data: str | None = option(None, "data set of the controls' values, and of methods that train on data (default: "
                                    "that of the base)")  # fmt: skip
    half: str = option("all", "take labels and data from one half of the training part: b where a judge has learnt "
                              "from a (train-predictor --half); or all")  # fmt: skip
    labels: int = option(
        0, "labelled samples that --control may use; 0 for all of the training part, or of its half", at_least=0
    )
    steps: int = option(30, "batches of chains of the whole run")
    batch_size: int = option(32, "chains a process and step")
    minibatch: int = option(
        64, "rows of experience an update (a row is a step of a chain, or a chain); 0 for all", at_least=0
    )
    chunk: int = option(256, "rows of one forward and backward pass, which bounds the memory", at_least=0)
    optimiser: dict = option(
        {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.0, "warmup_steps": 3, "decay_fraction": 0.5},
        OPTIMISER_HELP,
    )
    ema_decay: float = option(0.95, "memory of the weight average")
    precision: str = option("float32", "float32, bf16 (autocast) or auto")
    measure_every: int = option(10, "steps between measurements; 0 for none")
    measure_samples: int = option(64, "samples a measurement")
    early_stop: bool = option(False, "stop when the reward rises while judge, validity or diversity falls")
    log_every: int = option(1, "steps between entries in the logs")
    workers: int | str | None = option(
        None, "processes for scoring (default: one a core), or ray for a Ray cluster", at_least=1
    )
    time_limit: float = option(60.0, "seconds for one sample and one kind of calculation", above=0)

    def check(self) -> None:
        """See `CommonOptions.check`."""
        super().check()
        if not self.target and not self.control:
            raise InputError("nothing to aim at; give --target 'gap=4.5±0.2' or --control gap")
        check_half(self.half)
        if not self.control:
            for name in ("predictor", "labels", "null_share", "even_share"):
                if getattr(self, name) != default_of(type(self), name):
                    raise InputError(f"got --{name.replace('_', '-')} without --control, which it is about; drop one")
        if self.early_stop and not self.measure_every:
            raise InputError("got --early-stop with --measure-every 0, but it goes by the measurements; drop one")


def parse_control(text: str) -> ControlRequest:
    """`gap`, `gap±0.2`, `gap tolerance 0.2`, `gap tolerance 20%`, `gap weight 2`; an `InputError` for anything else."""
    from common.training.task import ControlRequest

    match = _CONTROL.fullmatch(text.strip())
    try:
        if match is None:
            raise ValueError
        numbers = {key: float(match[key]) for key in ("tolerance", "gamma") if match[key] is not None}
    except ValueError:
        raise InputError(
            f"cannot read --control '{text}'; expected such as gap, 'gap±0.2', 'gap tolerance 0.2', 'gap weight 2'; "
            "values are asked for later, by generate --target"
        ) from None
    if not all(0 < number < math.inf for number in numbers.values()):
        raise InputError(f"got --control '{text}', expected numbers above 0")
    relative = match["percent"] is not None
    if relative:
        numbers["tolerance"] /= 100
    return ControlRequest(match["name"], **numbers, measured=match["measured"] is not None, relative=relative)


def check_learnt_from(terms: Sequence[ControlTerm], half: str, data: str | None) -> None:
    """Raise `InputError` for a rewarding predictor that has seen labels of the other half, which is for judges."""
    from common.predictors import PropertyFunction

    if half == "all":
        return
    for predictor in (term.predictor for term in terms):
        if not isinstance(predictor, PropertyFunction):
            continue
        description = predictor.predictor.description
        if (description.get("half"), description.get("data")) != (half, data):
            raise InputError(
                f"got --half {half} and a predictor that has learnt from half {description.get('half')} of "
                f"{description.get('data')}; give --predictor, a folder of train-predictor --data {data} --half {half}"
            )


class FinetuneTask(Protocol):
    """A domain's `Task`, with what the options need beside it."""

    @property
    def task(self) -> Any:
        """See `common.training.task.Task`."""
        ...

    def reward(self, texts: Sequence[str], cache: Path | None) -> AbstractContextManager[Reward]:
        """The reward that was typed; an `InputError` for what cannot be read."""
        ...

    def default_judge(self, texts: Sequence[str]) -> list[str]:
        """Conditions for the judge where none were typed: the scorers behind predictors."""
        ...

    def terms(self, requests: Sequence[ControlRequest], most: int) -> list[ControlTerm]:
        """The controls, each with its predictor and the values of the data; see `with_labels`."""
        ...

    def control_judge(self, terms: Sequence[ControlTerm]) -> Callable[[State], RewardResult] | None:
        """Scorers' opinion on the controls; None where a control has no scorer."""
        ...

    def save(self, denoiser: torch.nn.Module, facts: dict[str, Any], directory: Path) -> None:
        """Write the tuned model."""
        ...


def run_finetune(options: FinetuneOptions, program: str, domain: FinetuneTask, device: str) -> dict[str, Any]:
    """Train and write the tuned model.

    Args:
        options: checked.
        program: the command, for what is printed.
        domain: the domain's side, its networks on `device`.
        device: of the run.
    """
    from common.algorithms import Conditional
    from common.algorithms.rollout import rollout_sampler
    from common.diffusion.control import ControlledDenoiser
    from common.diffusion.model_file import weights_digest
    from common.training.finetune import Method, finetune, policies, reward_of
    from common.training.labels import MEASURED
    from common.training.module import Pieces
    from common.training.task import Check, prompts
    from common.training.watch import Guard, Watch

    task: Task = domain.task
    base: Any = task.model.denoiser
    origin = {"base": options.base, "base_hash": weights_digest(base)}
    active_from = options.active_from if options.rank else 0.0
    null_share = options.null_share
    if null_share is None:
        # What is always asked for together would not work alone.
        null_share = 0.2 if len(options.control) > 1 else 0.0
    # Where labels are not what is learnt from, a part of those that have to be measured tells their law.
    most = 0 if options.method == "likelihood" else MEASURED
    terms = domain.terms([parse_control(text) for text in options.control], most)
    if options.method != "likelihood":
        check_learnt_from(terms, options.half, options.data or task.model.description.get("data"))
    if isinstance(base, ControlledDenoiser):
        _check_adapters(options, base)
    pair = policies(base, terms, rank=options.rank, active_from=active_from, seed=options.seed)
    method = Method(
        options.method, options.tau, options.settings, options.rollout_steps, options.exponent,
        null_share=null_share, even_share=options.even_share, values_each=options.values_each,
        # A model that was tuned before acts from where it did.
        active_from=getattr(pair.policy, "active_from", 0.0),
    )  # fmt: skip
    algorithm = method.algorithm(pair.policy.process, task.n_channels, terms)  # type: ignore[arg-type]
    # Only likelihood learns from the labels themselves; other methods have a predictor of them, for any data.
    labels = [term.control.name for term in terms] if isinstance(algorithm, Conditional) else []
    optimiser = options.optimiser_config()
    # What cannot work is said before the run directory is made.
    with _reward(domain, options.target, None) as reward, _reward(domain, options.judge, None):
        reward_of(algorithm, reward)

    def train_in(directory: Path, config: FitConfig) -> tuple[Mapping[str, Any], FitResult]:
        with (
            _reward(domain, options.target, directory / "reward.sqlite") as reward,
            _reward(domain, options.judge or domain.default_judge(options.target), directory / "judge.sqlite") as judge,
        ):
            check = Check(
                task, reward_of(algorithm, reward), pair.reference,
                rollout_sampler(base.process, options.rollout_steps, options.exponent), terms,
                judge=domain.control_judge(terms) if terms and judge is None else judge,
                count=options.measure_samples, seed=options.seed + 1_000_003, device=device,
            )  # fmt: skip
            guards = [Guard("valid", 0.02), *([Guard("judge")] if check.judge is not None else []), *task.guards]
            result = finetune(
                pair, algorithm, reward,
                task.data(options.batch_size, options.seed, labels) if algorithm.needs_data
                else prompts(task, options.batch_size, options.seed),
                directory,
                optimiser=optimiser, fit_config=config, pieces=Pieces(options.minibatch, options.chunk),
                measure=check, watch=Watch(guards), stop_early=options.early_stop, resume=options.resume,
            )  # fmt: skip
        facts = {
            "training": {
                **result.facts(),
                "reward_calls": result.cost.reward_calls,
                # Training on data collects nothing: each sample is evaluated once.
                "network_evaluations": result.cost.evaluations or result.samples_seen,
                **({"labels": max(len(term.outcomes) for term in terms)} if terms else {}),
                "stopped_early": result.stopped_early,
            },
            "finetuning": {
                "base": options.base, "method": options.method, "target": options.target, "control": options.control,
                "tau": getattr(getattr(algorithm, "inner", algorithm), "tau", None), "settings": options.settings,
                # Where controls have their values from; `generate` draws from the same law.
                **({"data": data, "half": options.half} if terms or algorithm.needs_data else {}),
            },
        }  # fmt: skip
        if result.is_first_process:
            domain.save(result.denoiser, {**facts, "name": name}, directory / "model")
        return facts["training"], result

    data = options.data or task.model.description.get("data")
    name = options.name or f"{task.model.description['name']}-{options.method}"
    hint = "".join(f" --target {term.control.name}=..." for term in terms)
    return run_training(options, program, "finetune", name, train_in, origin, hint)


def _check_adapters(options: FinetuneOptions, base: ControlledDenoiser) -> None:
    """Raise `InputError` where other adapters are asked for than the model has, which was tuned before."""
    for name in ("rank", "active_from"):
        asked, has = getattr(options, name), getattr(base, name)
        if asked not in (has, default_of(type(options), name)):
            raise InputError(
                f"got --{name.replace('_', '-')} {asked}, but {options.base} was tuned before and keeps its {has}; "
                "leave it out, or start at its base"
            )
    logger.info(
        "%s was tuned before: its adapters (rank %d, active from %g) are trained further, held to the base behind it",
        options.base, base.rank, base.active_from,
    )  # fmt: skip


@contextmanager
def _reward(domain: FinetuneTask, texts: Sequence[str], cache: Path | None) -> Iterator[Reward | None]:
    if not texts:
        yield None
        return
    with domain.reward(texts, cache) as reward:
        if cache is not None:
            logger.info("%s: %s", cache.stem, reward)
        yield reward
