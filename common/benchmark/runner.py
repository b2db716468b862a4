"""Runs trials: each a few commands in processes of their own, then the judge. What is done is not done again."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from common.atomic import write_json
from common.benchmark.methods import Step, Trial
from common.benchmark.spending import Spending, stated
from common.benchmark.verdict import Verdict
from common.errors import InputError

logger = logging.getLogger(__name__)

RECORD = "trial.json"
# A command that is asked to stop may save first.
_STOP_S = 120.0
_KIB = 2**10 if sys.platform != "darwin" else 1
_LOG_TAIL = 4000


@dataclass(frozen=True)
class StepRecord:
    """A command that was run, and what it took.

    Attributes:
        stage: "training" or "sampling".
        command: as typed.
        output_dir: its run directory. Trials that share a step have a record of it each.
        spending: measured and stated.
    """

    stage: str
    command: str
    output_dir: str
    spending: Spending


@dataclass(frozen=True)
class TrialRecord:
    """What a trial leaves on disk.

    Attributes:
        method, target, seed: of the trial.
        done: whether there is a verdict.
        reason: why not; "" if there is.
        commands: all of the trial, as typed.
        steps: those that were run.
        verdict: the judge's.
        foreign: the samples were made elsewhere.
    """

    method: str
    target: str
    seed: int
    done: bool
    reason: str = ""
    commands: tuple[str, ...] = ()
    steps: tuple[StepRecord, ...] = ()
    verdict: Verdict | None = None
    foreign: bool = False

    def write(self, directory: Path) -> None:
        """`trial.json`: with `done` in it, the trial is not run again."""
        directory.mkdir(parents=True, exist_ok=True)
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        steps = [asdict(step) for step in self.steps]
        verdict = self.verdict.as_json() if self.verdict else None
        write_json(directory / RECORD, {**fields, "steps": steps, "verdict": verdict})

    @classmethod
    def read(cls, directory: Path) -> TrialRecord | None:
        """The record of a directory; None where there is none yet.

        Raises:
            InputError: one that this program did not write.
        """
        try:
            row = json.loads((directory / RECORD).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, json.JSONDecodeError) as error:
            raise InputError(
                f"{directory / RECORD} cannot be read: {error}; delete the folder to do it again"
            ) from error
        try:
            steps = tuple(
                StepRecord(**{**step, "spending": Spending.from_json(step["spending"])}) for step in row["steps"]
            )
            verdict = Verdict.from_json(row["verdict"]) if row["verdict"] else None
            return cls(**{**row, "steps": steps, "verdict": verdict, "commands": tuple(row["commands"])})
        except (KeyError, TypeError) as error:
            raise InputError(f"{directory / RECORD} is not a trial of this version ({error})") from error


class Stopped(Exception):
    """The user has asked to stop."""


class StepFailed(Exception):
    """A command ended with an error; the text is its last complaint."""


class Runner:
    """Runs trials on several workers.

    Args:
        recipe: trial -> its steps, the last of which makes the samples.
        judge: (folder of the samples, trial) -> the verdict; called by one trial at a time, since it uses all cores.
        interpreter: what the words of a command are handed to.
    """

    def __init__(
        self,
        recipe: Callable[[Trial], Sequence[Step]],
        judge: Callable[[Path, Trial], Verdict],
        interpreter: Sequence[str] = (sys.executable, "-m"),
    ) -> None:
        self._recipe, self._judge, self._interpreter = recipe, judge, tuple(interpreter)
        self._judging = threading.Lock()
        self._locks: dict[Path, threading.Lock] = {}
        self._guard = threading.Lock()
        self._children: set[subprocess.Popen] = set()
        self._stop = threading.Event()

    def run(self, trials: Sequence[Trial], workers: int = 1) -> list[TrialRecord]:
        """The records of the trials, in their order. One that fails says why and stops no other.

        Raises:
            KeyboardInterrupt: after all commands have been asked to save and stop.
        """
        waiting = [trial for trial in trials if not self._is_done(trial)]
        if len(waiting) < len(trials):
            logger.info("%d of %d runs are there already", len(trials) - len(waiting), len(trials))
        began = time.monotonic()
        with _interruptible(), ThreadPoolExecutor(workers) as pool:
            futures = {pool.submit(self._trial, trial): trial for trial in waiting}
            try:
                for count, future in enumerate(as_completed(futures), 1):
                    record, trial = future.result(), futures[future]
                    left = (time.monotonic() - began) / count * (len(waiting) - count)
                    outcome = "done" if record.done else f"FAILED: {record.reason}"
                    logger.info("%d/%d  %s: %s  (about %.0f s left)", count, len(waiting), trial.name, outcome, left)
            except BaseException:
                self._end(futures)
                raise
        records = [TrialRecord.read(trial.directory) for trial in trials]
        return [record for record in records if record is not None]

    def _is_done(self, trial: Trial) -> bool:
        record = TrialRecord.read(trial.directory)
        if record is None or not record.done:
            return False
        if record.commands != tuple(map(str, self._recipe(trial))):
            raise InputError(
                f"{trial.directory} was made by other commands; --overwrite starts the benchmark anew, or take another "
                "--output-dir"
            )
        return True

    def _trial(self, trial: Trial) -> TrialRecord:
        """Run one trial and write its record."""
        steps = list(self._recipe(trial))
        record = TrialRecord(trial.method, trial.target, trial.seed, False, commands=tuple(map(str, steps)))
        trial.directory.mkdir(parents=True, exist_ok=True)
        try:
            for step in steps:
                spent = StepRecord(step.stage, str(step), str(step.output_dir), self._step(step))
                record = replace(record, steps=(*record.steps, spent))
            with self._judging:
                if self._stop.is_set():
                    raise Stopped
                verdict = self._judge(steps[-1].output_dir, trial)
            record = replace(record, done=True, verdict=verdict)
        except (StepFailed, InputError) as error:
            record = replace(record, reason=str(error))
        except (OSError, RuntimeError, ValueError) as error:
            # One broken row must not cost the others; the reason stands in the report.
            logger.debug("%s", trial.name, exc_info=error)
            record = replace(record, reason=f"{type(error).__name__}: {' '.join(str(error).split())}")
        record.write(trial.directory)
        return record

    def _step(self, step: Step) -> Spending:
        """Run a command unless it is done already, possibly for another trial; what it took."""
        with self._guard:
            lock = self._locks.setdefault(step.output_dir, threading.Lock())
        with lock:
            return self._locked_step(step)

    def _locked_step(self, step: Step) -> Spending:
        marker = step.output_dir.with_name(step.output_dir.name + ".step.json")
        before = _read_marker(marker, step)
        if not before["finished"]:
            words = list(step.words)
            # The verb itself knows how to go on.
            if (step.output_dir / "run.json").exists():
                words.append("--resume")
            step.output_dir.parent.mkdir(parents=True, exist_ok=True)
            log = step.output_dir.with_name(step.output_dir.name + ".log")
            spent, code = self._execute(words, log)
            before["seconds"] += spent["seconds"]
            before["cpu_seconds"] += spent["cpu_seconds"]
            before["peak_memory_mb"] = max(before["peak_memory_mb"], spent["peak_memory_mb"])
            before["finished"] = code == 0
            write_json(marker, before)
            if self._stop.is_set() and code != 0:
                raise Stopped
            if code != 0:
                raise StepFailed(f"{_last_complaint(log)} (exit code {code}; {log})")
        measured = {name: before[name] for name in ("seconds", "cpu_seconds", "peak_memory_mb")}
        return Spending(**measured, **stated(step.output_dir))

    def _execute(self, words: Sequence[str], log: Path) -> tuple[dict[str, float], int]:
        """Run a command to its end; what it took, and its exit code."""
        began = time.monotonic()
        with self._guard:
            if self._stop.is_set():
                raise Stopped
            with open(log, "ab") as file:
                # A session of its own, so that a stop reaches the command and all that it started, once.
                child = subprocess.Popen(
                    [*self._interpreter, *words], stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                    start_new_session=True,
                )  # fmt: skip
            self._children.add(child)
        usage = _wait(child)
        with self._guard:
            self._children.discard(child)
        spent = {
            "seconds": time.monotonic() - began,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "peak_memory_mb": usage.ru_maxrss * _KIB / 1e6,
        }
        return spent, child.returncode

    def _end(self, futures: Sequence[Any] | dict[Any, Trial]) -> None:
        """Ask all commands to save and stop; after a while, end them."""
        self._stop.set()
        for future in futures:
            future.cancel()
        logger.info("stopping: running commands save first")
        self._signal(signal.SIGINT)
        deadline = time.monotonic() + _STOP_S
        while self._children and time.monotonic() < deadline:
            time.sleep(0.05)
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with self._guard:
            for child in self._children:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, number)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGINT interrupt, also where it was ignored, as behind `nohup ... &`: commands inherit that, and a shell or
    program that starts with it ignored could not be asked to save."""
    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    if not ignored or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def records_of(folder: Path) -> Iterator[TrialRecord]:
    """All records of a benchmark's folder, by name."""
    for path in sorted((folder / "trials").glob(f"*/{RECORD}")):
        record = TrialRecord.read(path.parent)
        if record is not None:
            yield record


def _read_marker(path: Path, step: Step) -> dict[str, Any]:
    """What is known of a step from before.

    Raises:
        InputError: its folder was made by another command.
    """
    fresh = {"words": list(step.words), "seconds": 0.0, "cpu_seconds": 0.0, "peak_memory_mb": 0.0, "finished": False}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return fresh
    if found.get("words") != fresh["words"]:
        if not found.get("finished") and not (step.output_dir / "run.json").exists():
            # It failed before it made anything, so nothing can be mixed up.
            return fresh
        raise InputError(
            f"{step.output_dir} was made by another command; --overwrite starts the benchmark anew, or take another "
            "--output-dir"
        )
    return {**fresh, **found}


def _wait(child: subprocess.Popen) -> resource.struct_rusage:
    """Wait for a child and take its account, which `Popen.wait` throws away."""
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    return usage


def _last_complaint(log: Path) -> str:
    """The last line of a log that says what went wrong."""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - _LOG_TAIL))
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    complaints = [line for line in lines if ": error:" in line or ": incomplete:" in line or "Error" in line]
    return (complaints or lines or ["it said nothing"])[-1]
