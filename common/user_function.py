"""A user's own scoring function: named on the command line, loaded and run in workers only.

    my_score.py:score                  a function of a file
    package.module:score               a function of an importable module
    name                               an entry point of an installed package

The contract: a list of samples in, a list of as many floats out, None for what cannot be scored. What the function may
say about itself, as attributes: `score.unit = "eV"`, `score.tolerance` (what a target without ± means), `score.bounds`
(lowest and highest value), `score.batch_size` (samples a call; 1 unless set), `score.takes` (the form of the samples,
where a domain has several).

Loading code is running it: nothing here is imported by the parent, and workers load exactly what was named. This module
imports no torch, because workers import it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.named import nearest
from common.workers import Failure, Launcher, WorkerPool, WorkerStartError


@dataclass(frozen=True)
class FunctionInfo:
    """What a loaded function says about itself.

    Attributes:
        origin: the file that it came from.
        digest: hash of that file (not of what it imports): another text is another function, whose old scores don't
            count.
        description: the first line of its docstring.
        unit: None if it states none.
        tolerance, bounds: as in `common.rewards.Quantity`.
        batch_size: how many samples it takes at once.
        takes: the form of the samples; "" if it does not say.
    """

    origin: str
    digest: str
    description: str = ""
    unit: str | None = None
    tolerance: float | None = None
    bounds: tuple[float, float] | None = None
    batch_size: int = 1
    takes: str = ""


@dataclass(frozen=True)
class UserFunction:
    """A task for a `WorkerPool`: a list of encoded samples -> as many floats or `Failure`s.

    Attributes:
        source: as named by the user.
        group: entry-point group in which bare names are looked up.
        decode: encoded sample -> what the function takes; importable.
        gather: list of decoded samples -> what the function is called with; importable.
    """

    source: str
    group: str
    decode: Callable[[Any], Any]
    gather: Callable[[list[Any]], Any] = list

    def prepare(self) -> FunctionInfo:
        """In a worker: load the function; errors of any kind reach the parent as the reason why workers can't start."""
        return _describe(_load(self.source, self.group))

    def __call__(self, items: Sequence[Any]) -> list[float | Failure]:
        """In a worker: score."""
        answer = _load(self.source, self.group)(self.gather([self.decode(item) for item in items]))
        if isinstance(answer, str) or not hasattr(answer, "__len__") or not hasattr(answer, "__iter__"):
            wrong = Failure("no list", f"got {type(answer).__name__}, expected a list of {len(items)} floats")
            return [wrong] * len(items)
        if len(answer) != len(items):
            return [Failure("wrong length", f"got {len(answer)} values for {len(items)} samples")] * len(items)
        return [as_score(value) for value in answer]

    def inspect(self, launcher: Launcher | None = None) -> FunctionInfo:
        """What the function says about itself, asked in a worker.

        Raises:
            InputError: it cannot be loaded.
        """
        with WorkerPool(self, workers=1, launcher=launcher) as pool:
            try:
                return pool.start()
            except WorkerStartError as error:
                failure = error.failure
                cause = failure.detail if failure.reason == "InputError" else f"{failure.reason}: {failure.detail}"
                raise InputError(f"'{self.source}' cannot be loaded: {' '.join(cause.split())}") from error


def as_score(value: Any) -> float | Failure:
    """What counts as a score: a finite number (numpy's and one-element tensors too). Anything else is a failure."""
    if value is None:
        return Failure("None")
    if isinstance(value, (str, bytes, complex)):
        return Failure("not a number", type(value).__name__)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # tensors of several elements raise RuntimeError
        return Failure("not a number", type(value).__name__)
    if math.isnan(number):
        return Failure("NaN")
    return number if math.isfinite(number) else Failure("infinite")


def installed_functions(group: str) -> dict[str, EntryPoint]:
    """Name -> entry point of installed packages; nothing is loaded."""
    return {point.name: point for point in entry_points(group=group)}


@cache
def _load(source: str, group: str) -> Callable[[list[Any]], Any]:
    place, colon, name = source.rpartition(":")
    if not colon:
        function = installed_functions(group)[source].load()
    else:
        module = _load_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
        if not hasattr(module, name):
            known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
            raise InputError(
                f"{place} has no '{name}'{nearest(name, known)}; it has {', '.join(known) or 'no function'}"
            )
        function = getattr(module, name)
    if not callable(function):
        raise InputError(f"'{source}' is a {type(function).__name__}, expected a function of a list of samples")
    return function


def _load_file(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    # So that it finds its neighbours; last, so that they hide no installed package.
    sys.path.append(str(path.resolve().parent))
    name = f"user_file_{path.stem}"  # a file called json.py must not become the module json
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    # Where pickle and dataclasses of the user's file look for it.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _describe(function: Callable[..., Any]) -> FunctionInfo:
    module = sys.modules.get(getattr(function, "__module__", None) or type(function).__module__)
    origin = getattr(module, "__file__", None) or ""
    text = Path(origin).read_bytes() if origin else b""
    unit, tolerance, bounds = (getattr(function, key, None) for key in ("unit", "tolerance", "bounds"))
    batch_size, takes = getattr(function, "batch_size", 1), getattr(function, "takes", "")
    if unit is not None and not isinstance(unit, str):
        raise InputError(f"its unit is {unit!r}, expected a text such as 'eV'")
    if tolerance is not None and not (isinstance(tolerance, (int, float)) and tolerance > 0):
        raise InputError(f"its tolerance is {tolerance!r}, expected a positive number")
    if bounds is not None and not (len(bounds) == 2 and bounds[0] < bounds[1]):
        raise InputError(f"its bounds are {bounds!r}, expected (lowest, highest)")
    if not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(f"its batch_size is {batch_size!r}, expected a number from 1 on")
    if not isinstance(takes, str):
        raise InputError(f"its takes is {takes!r}, expected a text such as 'mesh'")
    return FunctionInfo(
        origin=origin,
        digest=hashlib.sha256(text).hexdigest()[:16],
        description=next(iter((function.__doc__ or "").strip().splitlines()), ""),
        unit=unit,
        tolerance=None if tolerance is None else float(tolerance),
        bounds=None if bounds is None else (float(bounds[0]), float(bounds[1])),
        batch_size=batch_size,
        takes=takes,
    )
