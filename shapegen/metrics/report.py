"""`evaluate`: every metric of a set of shapes that the reference and the training set allow, over all and by class."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from common.errors import InputError
from common.metrics import Metric, from_draws, proportion, resamples
from common.workers import WorkerPool, available_cores
from shapegen.metrics.distances import Kind, distance_matrix, distance_pool, pair_seconds
from shapegen.metrics.generation import divergence_metrics, matrix_metrics
from shapegen.metrics.protocols import MIN_SHAPES, Protocol, find_protocol

logger = logging.getLogger(__name__)

# A sample is novel (unique) when it is farther from the training set (from other samples) than this share of the
# references is from the training set (from other references): a perfect sampler scores 95 %.
_CLOSE_SHARE = 0.05
# What takes longer on one core is announced.
_LONG_S = 60.0
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Comparison:
    """Metrics of one group of shapes.

    Attributes:
        metrics: of the samples, in reading order.
        oracle: the same with training shapes in the samples' place: what a perfect sampler would get. Empty without a
            training set.
    """

    metrics: tuple[Metric, ...]
    oracle: tuple[Metric, ...]

    def as_json(self) -> dict[str, Any]:
        """Both lists as rows."""
        return {"metrics": [m.as_row() for m in self.metrics], "oracle": [m.as_row() for m in self.oracle]}


@dataclass(frozen=True)
class Evaluation:
    """The verdict on a set of shapes.

    Attributes:
        n_samples: how many were given.
        metrics: of the samples, in reading order.
        oracle: the same with training shapes in the samples' place; empty without a training set.
        per_class: class -> its comparison.
        omitted: what was not measured -> why.
        protocol: sizes that were asked for.
        frame: centre (3,) and scale of the frame of JSD: (x - centre) * scale.
    """

    n_samples: int
    metrics: tuple[Metric, ...]
    oracle: tuple[Metric, ...]
    per_class: Mapping[str, Comparison]
    omitted: Mapping[str, str]
    protocol: Protocol
    frame: tuple[tuple[float, ...], float]

    def __getitem__(self, name: str) -> Metric:
        """The metric of the samples called `name`; KeyError if it was not measured."""
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise KeyError(name)

    def value(self, name: str) -> float:
        """The value of the metric called `name`, NaN if it was not measured."""
        return next((metric.value for metric in self.metrics if metric.name == name), math.nan)

    def as_json(self) -> dict[str, Any]:
        """What metrics.json holds."""
        return {
            "n_samples": self.n_samples,
            "protocol": asdict(self.protocol),
            "metrics": [metric.as_row() for metric in self.metrics],
            "oracle": [metric.as_row() for metric in self.oracle],
            "per_class": {name: one.as_json() for name, one in self.per_class.items()},
            "omitted": dict(self.omitted),
            "jsd_frame": {"centre": list(self.frame[0]), "scale": self.frame[1]},
        }


def unit_frame(reference: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre (3,) and scale that put all reference shapes (R, P, 3) into the sphere of radius 1/2 around the origin."""
    flat = np.asarray(reference, dtype=np.float64).reshape(-1, 3)
    centre = (flat.min(axis=0) + flat.max(axis=0)) / 2
    return centre, 0.5 / max(float(np.linalg.norm(flat - centre, axis=1).max()), 1e-300)


def evaluate(
    samples: np.ndarray,
    reference: np.ndarray,
    train: np.ndarray | None = None,
    *,
    mode: str | Protocol = "quick",
    sample_classes: Sequence[str] | None = None,
    reference_classes: Sequence[str] | None = None,
    train_classes: Sequence[str] | None = None,
    frame: tuple[np.ndarray, float] | None = None,
    seed: int = 0,
    workers: int | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Evaluation:
    """Judge samples against held-out shapes; all sets in the same unit and normalisation.

    Sets are drawn down to equal numbers of shapes and points. Samples with NaN or infinite coordinates are never
    dropped: each counts as a shape collapsed into the centre of the references.

    Args:
        samples: (S, P, 3).
        reference: (R, Q, 3) held-out shapes.
        train: (T, Q', 3) training shapes, for the oracle row, novelty and uniqueness.
        mode: `quick`, `full`, or sizes of one's own.
        sample_classes, reference_classes, train_classes: the class of each shape.
        frame: of JSD, centre (3,) and scale; `unit_frame` of the reference where None.
        seed: of draws and bootstrap.
        workers: processes at most; all cores by default.
        device: of the Chamfer matrices: `cpu` (processes), or a device of torch.
        progress: called with (what, pairs done, pairs in all).

    Raises:
        InputError: wrong shapes, NaN in the reference or training set, fewer than 5 shapes, or an unknown mode.
    """
    protocol = mode if isinstance(mode, Protocol) else find_protocol(mode)
    reference, train = _checked(reference, "reference"), None if train is None else _checked(train, "training")
    samples, broken = _mended(samples, reference)
    classes = [
        _classes(given, len(clouds), what)
        for given, clouds, what in (
            (sample_classes, samples, "samples"),
            (reference_classes, reference, "reference shapes"),
            (train_classes, train if train is not None else (), "training shapes"),
        )
    ]
    omitted: dict[str, str] = {}
    if train is None:
        omitted["oracle"] = "no training set was given: nothing says what a perfect sampler would get"
        omitted["novelty"] = omitted["oracle"].split(":")[0]
    if frame is None:
        frame = unit_frame(reference)

    share = _percentage(
        "finite_percent",
        ~broken,
        "samples without NaN or infinite coordinates; the others count as collapsed into one point",
    )
    with distance_pool(workers or available_cores()) as pool:
        judge = _Judge(protocol, seed, pool, device, progress)
        metrics, oracle = [share], []
        sizes: tuple[tuple[Kind, int | None, int | None], ...] = (
            ("cd", protocol.cd_shapes, protocol.cd_points),
            ("emd", protocol.emd_shapes, protocol.emd_points),
        )
        for kind, shapes, points in sizes:
            found = judge.compare(kind, samples, reference, train, shapes, points, kind)
            metrics += found.metrics
            oracle += found.oracle
        found = judge.divergence(samples, reference, train, frame)
        metrics += found.metrics
        oracle += found.oracle
        if train is not None:
            found = judge.closeness(samples, reference, train, broken)
            metrics += found.metrics
            oracle += found.oracle
        per_class = judge.by_class(samples, reference, train, classes, omitted)
    centre = tuple(float(x) for x in np.asarray(frame[0]))
    return Evaluation(
        len(samples), tuple(metrics), tuple(oracle), per_class, omitted, protocol, (centre, float(frame[1]))
    )


@dataclass(frozen=True)
class _Judge:
    """The comparisons of one evaluation, which share sizes, seed and workers."""

    protocol: Protocol
    seed: int
    pool: WorkerPool
    device: str
    progress: Progress | None

    def compare(
        self,
        kind: Kind,
        samples: np.ndarray,
        reference: np.ndarray,
        train: np.ndarray | None,
        shapes: int | None,
        points: int | None,
        stage: str,
    ) -> Comparison:
        """MMD, COV and 1-NNA under one distance, of the samples and of as many training shapes."""
        count = _least(shapes, len(samples), len(reference))
        sets = [samples, reference, *([] if train is None else [train])]
        points = _least(points, *(one.shape[1] for one in sets))
        ours, theirs, *known = (self._drawn(one, count, points, k) for k, one in enumerate(sets))
        pairs = count**2 * (3.5 if known else 2)
        seconds = pairs * pair_seconds(kind, points, points)
        if seconds > _LONG_S:
            logger.info("%s: %d distances, about %.0f core-minutes", stage, pairs, seconds / 60)
        within_reference = self._matrix(kind, theirs, None, f"{stage}: references")
        rows = [
            matrix_metrics(
                kind,
                self._matrix(kind, one, None, f"{stage}: {what}"),
                self._matrix(kind, one, theirs, f"{stage}: {what} to references"),
                within_reference,
                f"{len(one)} {what}, {count} references, {points} points each",
                self.seed,
            )
            for one, what in zip((ours, *known), ("samples", "training shapes"), strict=False)
        ]
        return Comparison(tuple(rows[0]), tuple(rows[1]) if known else ())

    def divergence(
        self, samples: np.ndarray, reference: np.ndarray, train: np.ndarray | None, frame: tuple[np.ndarray, float]
    ) -> Comparison:
        """JSD of the samples and of as many training shapes."""
        count = _least(self.protocol.cd_shapes, len(samples), len(reference))
        sets = [samples, reference, *([] if train is None else [train])]
        points = _least(self.protocol.cd_points, *(one.shape[1] for one in sets))
        centre, scale = frame
        ours, theirs, *known = ((self._drawn(one, count, points, k) - centre) * scale for k, one in enumerate(sets))
        text = f"coordinates (x - {np.round(centre, 6).tolist()}) * {scale:.6g}"
        rows = [tuple(divergence_metrics(one, theirs, text, self.seed)) for one in (ours, *known)]
        return Comparison(rows[0], rows[1] if known else ())

    def closeness(
        self, samples: np.ndarray, reference: np.ndarray, train: np.ndarray, broken: np.ndarray
    ) -> Comparison:
        """Novelty and uniqueness, on the scale of the references; broken samples (S,) bool are neither."""
        count = _least(self.protocol.cd_shapes, len(samples), len(reference))
        points = _least(self.protocol.train_points, samples.shape[1], reference.shape[1], train.shape[1])
        ours, theirs = (self._drawn(one, count, points, k) for k, one in enumerate((samples, reference)))
        whole = ~broken[_chosen(self._random(0), len(samples), count)]
        known = self._drawn(train, _least(self.protocol.train_shapes, len(train)), points, 2)
        to_train = [
            self._matrix("cd", one, known, f"novelty: {what}").min(axis=1)
            for one, what in ((ours, "samples"), (theirs, "references"))
        ]
        to_own = []
        for one, what in ((ours, "samples"), (theirs, "references")):
            matrix = self._matrix("cd", one, None, f"uniqueness: {what}")
            np.fill_diagonal(matrix, np.inf)
            to_own.append(matrix.min(axis=1))
        weights = resamples(count, self.seed)
        sizes = f"CD, {count} samples, {count} references, {len(known)} training shapes, {points} points each"
        rows: list[list[Metric]] = [[], []]
        for k in range(2):  # the samples, then the references in their place
            for name, distances, of in (
                ("novelty_percent", to_train, "the nearest training shape"),
                ("uniqueness_percent", to_own, "the nearest other of the set"),
            ):
                limit = float(np.quantile(distances[1], _CLOSE_SHARE))
                far = distances[k] > limit
                rule = f"farther from {of} than {limit:.3g}, which 95 % of the references are; {sizes}"
                rows[k].append(_percentage(name, far & whole if k == 0 else far, rule))
            rows[k].append(_median("nearest_train_cd", to_train[k], weights, f"median to the nearest; {sizes}"))
        return Comparison(tuple(rows[0]), tuple(rows[1]))

    def by_class(
        self,
        samples: np.ndarray,
        reference: np.ndarray,
        train: np.ndarray | None,
        classes: list[np.ndarray | None],
        omitted: dict[str, str],
    ) -> dict[str, Comparison]:
        """The comparison of each class that has enough shapes; why not, in `omitted`."""
        of_samples, of_reference, of_train = classes
        if of_samples is None or of_reference is None:
            omitted["per_class"] = "the classes of samples and references were not given"
            return {}
        found: dict[str, Comparison] = {}
        counts = Counter(of_samples.tolist()), Counter(of_reference.tolist())
        for name in sorted(counts[0] | counts[1]):
            have = counts[0][name], counts[1][name]
            if min(have) < MIN_SHAPES:
                omitted[f"class {name}"] = (
                    f"{have[0]} samples and {have[1]} references, at least {MIN_SHAPES} are needed"
                )
                continue
            known = train[of_train == name] if train is not None and of_train is not None else None
            if known is not None and len(known) < MIN_SHAPES:
                known = None
                omitted[f"oracle of class {name}"] = f"fewer than {MIN_SHAPES} training shapes"
            parts = [
                self.compare(
                    kind,
                    samples[of_samples == name],
                    reference[of_reference == name],
                    known,
                    self.protocol.class_shapes,
                    self.protocol.class_points,
                    f"{kind} of {name}",
                )
                for kind in self.protocol.class_kinds
            ]
            found[name] = Comparison(
                tuple(m for part in parts for m in part.metrics), tuple(m for part in parts for m in part.oracle)
            )
        if train is not None and of_train is None:
            omitted["oracle by class"] = "the classes of the training shapes were not given"
        return found

    def _random(self, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, stream])

    def _drawn(self, clouds: np.ndarray, shapes: int, points: int, stream: int) -> np.ndarray:
        """At most so many shapes, and exactly so many points of each, drawn without repetition."""
        rng = self._random(stream)
        clouds = clouds[_chosen(rng, len(clouds), shapes)]
        if points == clouds.shape[1]:
            return np.asarray(clouds)
        return np.stack([cloud[rng.choice(len(cloud), points, replace=False)] for cloud in clouds])

    def _matrix(self, kind: Kind, a: np.ndarray, b: np.ndarray | None, what: str) -> np.ndarray:
        def report(done: int, total: int) -> None:
            if self.progress is not None:
                self.progress(what, done, total)

        return distance_matrix(kind, a, b, pool=self.pool, device=self.device, progress=report)


def _median(name: str, distances: np.ndarray, weights: np.ndarray, rule: str) -> Metric:
    draws = np.array([np.median(np.repeat(distances, w)) for w in weights])
    return from_draws(name, float(np.median(distances)), draws, len(distances), rule)


def _chosen(rng: np.random.Generator, given: int, shapes: int) -> np.ndarray:
    """Places of at most so many of the given shapes, in order, drawn without repetition."""
    return np.sort(rng.choice(given, shapes, replace=False)) if shapes < given else np.arange(given)


def _percentage(name: str, hits: np.ndarray, rule: str) -> Metric:
    """The share of hits (S,) bool in per cent, with Wilson's interval: it has a width at 0 and 100 %, too."""
    share = proportion(name, int(hits.sum()), len(hits), rule)
    return replace(share, value=100 * share.value, low=100 * share.low, high=100 * share.high)


def _least(*sizes: int | None) -> int:
    return min(size for size in sizes if size is not None)


def _checked(clouds: np.ndarray, what: str) -> np.ndarray:
    clouds = np.asarray(clouds)
    if clouds.ndim != 3 or clouds.shape[2] != 3 or clouds.shape[1] == 0:
        raise InputError(f"the {what} set has the shape {clouds.shape}, expected (shapes, points, 3)")
    if len(clouds) < MIN_SHAPES:
        raise InputError(f"the {what} set has {len(clouds)} shapes, at least {MIN_SHAPES} are needed to compare sets")
    if not np.isfinite(clouds).all():
        raise InputError(f"the {what} set has NaN or infinite coordinates; leave those shapes out")
    return clouds


def _mended(samples: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The samples with broken ones collapsed, and which were (S,) bool."""
    samples = np.asarray(samples)
    if samples.ndim != 3 or not len(samples):
        return _checked(samples, "sample"), np.zeros(0, dtype=bool)
    broken = np.logical_not(np.isfinite(samples).all(axis=(1, 2)))
    if broken.any():
        samples = samples.copy()
        samples[broken] = reference.reshape(-1, 3).mean(axis=0)
    return _checked(samples, "sample"), broken


def _classes(given: Sequence[str] | None, count: int, what: str) -> np.ndarray | None:
    if given is None:
        return None
    if len(given) != count:
        raise InputError(f"got {len(given)} classes for {count} {what}, expected one for each")
    return np.asarray([str(name) for name in given])
