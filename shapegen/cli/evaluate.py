"""`shapegen evaluate`: judge any shapes, generated here or elsewhere, against held-out ones."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli.app import CommonOptions, Verb, print_table
from common.cli.generation import kept_facts
from common.cli.options import argument, option
from common.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from common.metrics import Metric
    from shapegen.data.records import ReadReport
    from shapegen.data.shapes import ShapeSet
    from shapegen.metrics.report import Comparison, Evaluation

logger = logging.getLogger(__name__)

# Seconds between two words about one matrix of distances.
_PROGRESS_S = 20.0
# Metrics whose rules, with the sizes of the sets, stand for the others' under the table; metrics.json has all.
_RULES = ("mmd_cd", "mmd_emd", "jsd", "novelty_percent", "uniqueness_percent")
# Columns of the table by class.
_BY_CLASS = ("1nna_cd_percent", "1nna_cd_samples_percent", "1nna_cd_references_percent", "cov_cd_percent", "mmd_cd")


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(CommonOptions):
    """Options of `shapegen evaluate`."""

    samples: str = argument("run directory, or a folder or file of shapes")
    reference: str = option(
        "",
        "data set name, folder or file to compare with: its test part is held out, its training part gives the row of "
        "the training set (default: the data of the run's model)",
    )
    train: str = option("", "training shapes, by name, folder or file; then all of --reference is held out")
    full: bool = option(False, "all shapes and points (hours) instead of subsets with wider intervals (minutes)")
    shapes: int | None = option(
        None, "shapes of each set for Chamfer distances and JSD, and of each class (default: 100 and 40; --full: all)"
    )
    data_folder: str = option("data", "folder that holds the named data sets")
    classes: list[str] | None = option(None, "only these classes (default: all)")
    count_per_class: int | None = option(
        None, "procedural: shapes of each class (default: as in the training)", at_least=1
    )
    unit: str | None = option(None, "unit of files that do not say theirs: m, cm or mm")
    up: str | None = option(
        None, "the axis that is up in files that do not say it: z, y or -y (default: as in the training, or z)"
    )
    points: int | None = option(None, "points of each mesh (default: as in the training)", at_least=1)
    device: str = option("auto", "of the Chamfer distances: auto, cpu (all cores), cuda or mps")
    output_dir: str = option("", "also write metrics.json there (a run directory is updated in place)")
    workers: int | None = option(None, "processes (default: one a core)", at_least=1)
    seed: int = option(0, "seed of the subsets and of the bootstrap intervals", at_least=0)


def run(options: EvaluateOptions) -> dict[str, Any]:
    """Judge and print."""
    from common.cli.doctor import pick_device
    from shapegen.metrics.protocols import find_protocol
    from shapegen.metrics.report import evaluate
    from shapegen.results import RAW_SAMPLES

    protocol = find_protocol("full" if options.full else "quick")
    if options.shapes is not None:
        protocol = protocol.with_shapes(options.shapes)
    device = pick_device(options.device)
    path = Path(options.samples)
    is_run = (path / RAW_SAMPLES).exists()
    samples, skipped = _read_samples(options, path)
    model = _model_of(path, needed=not options.reference) if is_run else {}
    reference, train = _comparison_sets(options, model)
    samples, reference, train = _comparable(samples, reference, train, model)
    names = _known_classes(samples, reference)
    evaluation = evaluate(
        samples.points,
        reference.points,
        None if train is None else train.points,
        mode=protocol,
        sample_classes=names,
        reference_classes=None if names is None else _labels(reference),
        train_classes=None if names is None or train is None else _labels(train),
        seed=options.seed,
        workers=options.workers,
        device=device,
        progress=_progress(),
    )
    sizes = {"samples": len(samples), "held_out": len(reference), "training": 0 if train is None else len(train)}
    result = {**evaluation.as_json(), "sets": sizes, "skipped": skipped}
    output_dir = Path(options.output_dir) if options.output_dir else path if is_run else None
    if output_dir is not None:
        _write(output_dir, result)
    if not options.json:
        print_evaluation(evaluation, sizes)
        if skipped:
            print(f"{skipped} shapes could not be read and are not in these numbers (see above)")
    return result


def print_evaluation(evaluation: Evaluation, sizes: Mapping[str, int]) -> None:
    """The metrics as tables on stdout: all shapes, then by class; the training set in the samples' place beside them.

    Args:
        evaluation: what to print.
        sizes: number of shapes in the sets `samples`, `held_out` and `training`.
    """
    oracle = {metric.name: metric for metric in evaluation.oracle}
    rows = [(m.name, *_value(m), *_value(oracle.get(m.name)), m.n) for m in evaluation.metrics]
    sets = f"{sizes['samples']} samples, {sizes['held_out']} held-out shapes, {sizes['training']} of the training set"
    title = f"metrics ({evaluation.protocol.name} mode): {sets}"
    print_table(title, ("metric", "samples", "95 % interval", "training set", "95 % interval", "n"), rows)
    for metric in evaluation.metrics:
        if metric.name in _RULES:
            print(f"{metric.name}: {metric.rule}")
    if evaluation.per_class:
        _print_classes(evaluation.per_class)
    for name, why in evaluation.omitted.items():
        print(f"{name}: not measured: {why}")


def _print_classes(per_class: Mapping[str, Comparison]) -> None:
    rows = []
    for name, comparison in per_class.items():
        for who, metrics in (("samples", comparison.metrics), ("training set", comparison.oracle)):
            found = {metric.name: metric for metric in metrics}
            if found:
                first = found[_BY_CLASS[0]]
                interval = _value(first)[1]
                values = [_value(found[key])[0] for key in _BY_CLASS]
                rows.append((name, who, values[0], interval, *values[1:], first.n))
    columns = ("class", "set", "1-NNA CD %", "95 % interval", "among samples", "among references", "COV CD %", "MMD CD")
    print_table("by class (ideal 1-NNA: 50)", (*columns, "n"), rows)


def _value(metric: Metric | None) -> tuple[str, str]:
    if metric is None or metric.value != metric.value:
        return "-", "-"
    return f"{metric.value:.4g}", f"{metric.low:.4g} ... {metric.high:.4g}"


def _read_samples(options: EvaluateOptions, path: Path) -> tuple[ShapeSet, int]:
    """The shapes to judge, and how many could not be read."""
    from shapegen.data.files import read_shapes
    from shapegen.data.shapes import ShapeSet
    from shapegen.data.sources import POINTS
    from shapegen.results import RAW_SAMPLES

    if (path / RAW_SAMPLES).exists():
        # A run's own samples are judged whole, without the reader's checks: broken ones count as failures.
        shapes = ShapeSet.load(path / RAW_SAMPLES, memory_map=True)
        if not len(shapes):
            raise InputError(f"{path} holds no samples: nothing was generated there")
        return shapes if options.classes is None else shapes.select_classes(options.classes), 0
    if (path / "run.json").exists():
        raise InputError(f"{path} holds no samples; expected a run of `shapegen generate`, or shapes")
    report = read_shapes(
        path, points=options.points or POINTS, unit=options.unit, up=options.up or "z", classes=options.classes,
        workers=options.workers, seed=options.seed,
    )  # fmt: skip
    return report.shapes, len(report.skipped)


def _model_of(run: Path, needed: bool) -> Mapping[str, Any]:
    """`model.json` of the model that made a run's samples; empty where that model is gone and not `needed`."""
    from common.cli.run_directory import RunDirectory
    from common.diffusion.model_file import model_directory, read_description

    try:
        where = RunDirectory(run).read_json("run.json").get("model")
        return read_description(model_directory(Path(where or "")))
    except InputError as error:
        if needed:
            raise InputError(f"the model of {run} is not at hand ({error}); name its data by --reference") from error
        logger.warning("the model of %s is not at hand: its samples are compared as they are", run)
        return {}


def _comparison_sets(options: EvaluateOptions, model: Mapping[str, Any]) -> tuple[ShapeSet, ShapeSet | None]:
    """The held-out shapes, and the training shapes."""
    from shapegen.data.sources import split_data

    if options.train:
        if not options.reference:
            raise InputError("got --train without --reference; name the held-out shapes by --reference")
        return _load(options, options.reference, {}).shapes, _load(options, options.train, {}).shapes
    name = options.reference or model.get("data")
    if not name:
        raise InputError("nothing to compare with; name a data set, a folder or a file: --reference FOLDER")
    own = name == model.get("data")
    report = _load(options, name, model)
    parts = split_data(report)
    if not len(parts["test"]):
        raise InputError(f"{name} has no test part: too few shapes to hold any out; give --reference and --train")
    train = report.shapes.select(parts["train"])
    # Classes that were left out are left out of the hash too.
    if own and options.classes is None and train.digest() != model.get("data_hash"):
        logger.warning(
            "the training part of %s is not what this model was trained on (other options or other files): the row of "
            "the training set, novelty, and what is held out may be off",
            name,
        )
    return report.shapes.select(parts["test"]), train


def _load(options: EvaluateOptions, name: str, model: Mapping[str, Any]) -> ReadReport:
    """A data set, with the options of the model's training, where it is its own and none are typed."""
    from shapegen.data.sources import load_data, options_of_training

    known = options_of_training(model, name)
    typed = {
        "points": options.points, "count_per_class": options.count_per_class, "unit": options.unit,
        "classes": options.classes, "up": options.up,
    }  # fmt: skip
    known |= {key: value for key, value in typed.items() if value is not None}
    return load_data(name, data_folder=options.data_folder, workers=options.workers, **known)


def _comparable(
    samples: ShapeSet, reference: ShapeSet, train: ShapeSet | None, model: Mapping[str, Any]
) -> tuple[ShapeSet, ShapeSet, ShapeSet | None]:
    """The sets in one unit, and with the places and sizes that the model of the samples knows."""
    from common.named import build
    from shapegen.data.codec import ShapeCodec

    if model:
        codec = build(ShapeCodec, model["codec"], "codec")
        reference = codec.as_generated(reference)
        train = None if train is None else codec.as_generated(train)
    for shapes, what in ((samples, "samples"), (train, "training shapes")):
        if shapes is not None and "unitless" in {shapes.unit, reference.unit} and shapes.unit != reference.unit:
            raise InputError(
                f"got {what} in '{shapes.unit}' and a reference in '{reference.unit}': their sizes do not compare; "
                "--unit m, cm or mm says the unit of files that do not say theirs"
            )
    return samples.in_unit(reference.unit), reference, None if train is None else train.in_unit(reference.unit)


def _known_classes(samples: ShapeSet, reference: ShapeSet) -> list[str] | None:
    """The class of each sample, or None where the two sets do not share the names of classes."""
    there = {name for name, count in samples.class_counts.items() if count}
    held_out = {name for name, count in reference.class_counts.items() if count}
    if len(held_out) < 2 or not there <= held_out:
        return None
    if there < held_out:
        missing = sorted(held_out - there)
        logger.warning(
            "%d of the %d held-out classes have no sample (%s): the rows over all compare with every class; --classes "
            "leaves some out",
            len(missing), len(held_out), ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else ""),
        )  # fmt: skip
    return _labels(samples)


def _labels(shapes: ShapeSet) -> list[str]:
    return [shapes.class_names[index] for index in shapes.class_index]


def _progress() -> Callable[[str, int, int], None]:
    last = time.monotonic()

    def report(what: str, done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > _PROGRESS_S:
            last = time.monotonic()
            logger.info("%s: %d of %d distances", what, done, total)

    return report


def _write(directory: Path, result: Mapping[str, Any]) -> None:
    """`metrics.json`; what `generate` wrote there about itself stays."""
    from common.atomic import write_json

    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "metrics.json", {**result, **kept_facts(directory)})


VERB = Verb("evaluate", "judge shapes from a file, a folder or a run", EvaluateOptions, run)
