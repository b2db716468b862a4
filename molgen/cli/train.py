"""`molgen train`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli.app import Verb
from common.cli.options import option
from common.cli.training import TrainingOptions, run_training
from common.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from common.training.fit import FitConfig, FitResult
    from molgen.data.molecules import MoleculeSet

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainOptions(TrainingOptions):
    """Options of `molgen train`."""

    data: str = option("gdb7-xtb", "data set name or molecule file")
    max_atoms: int | None = option(None, "leave larger molecules out (number of atoms)", at_least=1)
    where: list[str] = option(
        [], "learn only from molecules that meet this filter, may be repeated: 'require gap>4', 'forbid stable'"
    )
    where_not: list[str] = option(
        [], "and only from those that do not meet all of these filters: 'require stable, require unique'"
    )
    keep: float = option(
        1.0, "learn from this share of the molecules of each size only (arXiv 2409.19128)", above=0, at_most=1
    )
    keep_by: str = option("density", "which are kept: density (the most typical), or random")
    reweigh: str | None = option(
        None, "draw sizes that this trained model (name or folder) finds hard more often (arXiv 2409.19128)"
    )
    reweigh_strength: float = option(1.0, "how much more often: exp(strength x standardised loss)", above=0)
    network: dict = option({"name": "transformer"}, "network by name, with its hyper-parameters")
    parameterisation: dict = option({"name": "categorical_types"}, "eps, v, x0 or categorical_types, with settings")
    codec: dict = option(
        {"coordinate_scale": 0.75, "type_scale": 1.0}, "coordinate_scale (1/Angstrom), type_scale, number_scale, order"
    )


def run(options: TrainOptions) -> dict[str, Any]:
    """Train and write the model."""
    from molgen.data.sources import learnable, load_data, split_data
    from molgen.pretrained import load_pretrained
    from molgen.train import ModelConfig, new_model, train

    # Everything that can be wrong with the request comes before the folder is made.
    optimiser = options.optimiser_config()
    # Split before anything is left out, so that whoever splits the same data has the same parts.
    everything = load_data(options.data, data_folder=options.data_folder).molecules
    molecules = learnable(everything.select(split_data(options.data, everything)["train"]), options.max_atoms)
    molecules, weights, selection = _selected(molecules, options)
    digest = molecules.digest()
    model = new_model(
        molecules,
        ModelConfig(options.network, options.parameterisation, options.schedule, options.codec, options.sampler),
        name=options.name or f"{Path(options.data).stem}-{options.network.get('name', '?')}",
        seed=options.seed,
        facts={
            "data": options.data,
            "data_hash": digest,
            "task": "unconditional",
            **options.teacher_facts(),
            **selection,
        },
        init_from=options.init_from,
    )
    teacher = options.load_teacher(model, load_pretrained)

    def train_in(directory: Path, config: FitConfig) -> tuple[Mapping[str, Any], FitResult]:
        result = train(
            model, molecules, directory, batch_config=options.batch_config(), optimiser=optimiser, fit_config=config,
            resume=options.resume, measure_samples=options.measure_samples, teacher=teacher,
            weights=weights,
        )  # fmt: skip
        return model.description["training"], result

    facts = {"training_data": options.data, "data_hash": digest}
    return run_training(options, "molgen", "train", model.description["name"], train_in, facts)


def _selected(molecules: MoleculeSet, options: TrainOptions) -> tuple[MoleculeSet, np.ndarray | None, dict[str, Any]]:
    """The molecules that are learnt from, how often each (None: all alike), and what `model.json` says of it."""
    import numpy as np

    from molgen.data.selection import prune, size_weights
    from molgen.pretrained import load_pretrained
    from molgen.rewards.reward import passing

    facts: dict[str, Any] = {}
    for name, filters, wanted in (("where", options.where, True), ("where_not", options.where_not, False)):
        if not filters:
            continue
        met = np.isin(np.arange(len(molecules)), passing(molecules, filters))
        said = f"{'meet' if wanted else 'do not meet all of'} {', '.join(filters)}"
        kept = np.flatnonzero(met == wanted)
        logger.info("%d of %d molecules %s", len(kept), len(molecules), said)
        if not len(kept):
            raise InputError(f"got --{name.replace('_', '-')}: none of {len(molecules)} molecules {said}")
        molecules = molecules.select(kept)
        facts |= {name: filters}
    if options.keep < 1 or options.keep_by != "density":
        molecules = molecules.select(prune(molecules, options.keep, options.keep_by, options.seed))
        facts |= {"keep": options.keep, "keep_by": options.keep_by}
    weights = None
    if options.reweigh is not None:
        facts |= {"reweigh": options.reweigh, "reweigh_strength": options.reweigh_strength}
        model = load_pretrained(options.reweigh)
        weights = size_weights(model.denoiser, model.codec, molecules, options.reweigh_strength, seed=options.seed)
    return molecules, weights, {"selection": facts} if facts else {}


VERB = Verb("train", "train a model on molecules", TrainOptions, run)
