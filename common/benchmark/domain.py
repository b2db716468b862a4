"""`Domain`: what a domain brings to a benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from common.benchmark.config import Benchmark
from common.benchmark.methods import Method
from common.benchmark.verdict import Column, Verdict


@dataclass(frozen=True)
class View:
    """A sample to be turned with the mouse.

    Attributes:
        caption: of it.
        figure: a plotly figure as JSON types, `data` and `layout`.
    """

    caption: str
    figure: Mapping[str, Any]


class Judge(Protocol):
    """Judges samples for one benchmark; what it needs to know of the reference it prepares once."""

    def __call__(self, samples: Path, target: str, keep: Path) -> Verdict:
        """The verdict on a run directory, or on a file of samples.

        Args:
            samples: where they are.
            target: what was asked for, as typed; "" for nothing.
            keep: file for what was judged, so that it can be shown and judged again.

        Raises:
            InputError: there are no samples, or the target cannot be read.
        """
        ...

    def close(self) -> None:
        """End its workers."""
        ...


@dataclass(frozen=True)
class Task:
    """One kind of benchmark.

    Attributes:
        name: as in a benchmark's `task`.
        description: what is asked of the methods, and how it is judged.
        columns: benchmark -> the columns of its table, the most important first.
        needs_target: whether a benchmark of this kind must have targets (True) or none (False); None for either.
        quality: column of the Pareto plots' horizontal axis: what must not suffer.
        references: benchmark -> rows that are computed from the data alone, name -> (description, verdict).
        check_target: raises `InputError` for a target that cannot be judged.
        takes_judges: whether a benchmark of this kind names its `judges`.
        methods: those that can do it; none for all.
        options: benchmark -> verb -> options that the task sets for all methods; the benchmark's own win.
        rewarded_by: who says how good a sample is where the benchmark names no `rewards`.
    """

    name: str
    description: str
    columns: Callable[[Benchmark], Sequence[Column]]
    needs_target: bool | None
    quality: str
    references: Callable[[Benchmark], Mapping[str, tuple[str, Verdict]]] = field(default=lambda benchmark: {})
    check_target: Callable[[str], None] = field(default=lambda target: None)
    takes_judges: bool = False
    methods: Sequence[str] = ()
    options: Callable[[Benchmark], Mapping[str, Mapping[str, Any]]] = field(default=lambda benchmark: {})
    rewarded_by: str = "the judge itself"


@dataclass(frozen=True)
class Domain:
    """A domain as benchmarks see it.

    Attributes:
        program: its command.
        methods: name -> method.
        tasks: name -> task.
        judge: (benchmark, workers) -> the judge.
        published: folder of the tables of published numbers.
        views: (file that the judge kept, count) -> that many samples to look at.
        kept: name of that file.
        what: what samples are called: "molecules".
    """

    program: str
    methods: Mapping[str, Method]
    tasks: Mapping[str, Task]
    judge: Callable[[Benchmark, int | None], Judge]
    published: Path
    views: Callable[[Path, int], Sequence[View]]
    kept: str
    what: str
