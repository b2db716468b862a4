"""A pool of killable workers with a time limit for each item.

Codes that score things hang, crash and clash with other libraries' threads (tblite with torch), and a user's own may do
anything. So their work runs in fresh interpreters that import nothing but the function they serve. A worker that dies
or exceeds its limit costs one item. Unlike `multiprocessing`, no `if __name__ == "__main__"` is asked of the user's
script: nothing re-imports it.

Where workers run is a `Launcher`'s choice: processes of this machine (`ProcessLauncher`, the default) or a Ray cluster
(`common.ray_workers.RayLauncher`). This module imports neither torch nor Ray, because every worker imports it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Protocol

from common.errors import InputError

TIME_LIMIT = "time limit"
DIED = "worker died"

# One thread for every numeric library: the pool itself fills the cores.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

# A busy machine may take long to import RDKit and tblite; that time is not an item's fault.
_START_LIMIT_S = 600.0


@dataclass(frozen=True)
class Failure:
    """An item without a result: `reason` is short and countable, `detail` may hold the message."""

    reason: str
    detail: str = ""


class WorkerStartError(RuntimeError):
    """No worker could get ready, so no item could succeed. `failure` says why."""

    def __init__(self, failure: Failure):
        super().__init__(f"a worker process cannot start: {failure.reason}: {failure.detail}")
        self.failure = failure


class Worker(Protocol):
    """The parent's handle of one worker. Its first message is `Ready` or a `Failure`; then one result an item."""

    def send(self, item: Any, timeout_s: float) -> None:
        """Hand over an item; returns at once."""
        ...

    def poll(self) -> bool:
        """Whether `receive` has something to return or to raise."""
        ...

    def receive(self) -> Any:
        """The next message. Raises EOFError if the worker died instead."""
        ...

    def epitaph(self) -> str:
        """What is known of a dead worker's end."""
        ...

    def kill(self) -> None:
        """End it and whatever it started, busy or not."""
        ...


class Launcher(Protocol):
    """Starts workers and waits for them."""

    def capacity(self) -> int:
        """How many workers there is room for."""
        ...

    def launch(self, task: bytes) -> Worker:
        """Start a worker that serves the pickled callable `task`."""
        ...

    def wait(self, workers: Sequence[Any], timeout_s: float) -> None:
        """Return when one of the workers has a message, or after `timeout_s`."""
        ...


@dataclass(frozen=True)
class Ready:
    """A worker's first message: what the task's `prepare` returned, or None."""

    info: Any = None


def available_cores() -> int:
    """How many cores this process may use (fewer than the machine's in a container or under `taskset`)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class _Slot:
    """A worker and its work. `index` is the item's, None when idle; until `ready` no item's time runs."""

    worker: Worker
    started: float
    index: int | None = None
    ready: bool = False

    def deadline(self, timeout_s: float) -> float:
        return self.started + (timeout_s if self.ready else _START_LIMIT_S)


class Closing(contextlib.AbstractContextManager):
    """A context manager whose end is `close`."""

    @abstractmethod
    def close(self) -> None:
        """Give back what it holds."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class WorkerPool(Closing):
    """Workers that apply one callable to items.

    Args:
        function: called with one picklable item. A function at the top level of an importable module, or a picklable
            object with `__call__`; its method `prepare`, if there is one, is called once in each worker before the
            first item, outside any item's time limit.
        workers: number of workers; None means all that the launcher has room for.
        timeout_s: seconds that one item may take before its worker is killed (its start not counted).
        launcher: where workers run; None means processes of this machine.

    Use as a context manager, or call `close`; either kills the workers.

    Raises:
        ValueError: the function cannot reach a worker, or `workers` or `timeout_s` is not positive.
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        workers: int | None = None,
        timeout_s: float = 60.0,
        launcher: Launcher | None = None,
    ):
        if workers is not None and workers < 1:
            raise InputError(f"got {workers} workers, expected at least 1")
        if not timeout_s > 0:
            raise ValueError(f"the time limit is {timeout_s} s, expected more than 0")
        self._task = _pickled(function)
        self._timeout_s = timeout_s
        self._launcher: Launcher = ProcessLauncher() if launcher is None else launcher
        self._proven: Ready | None = None  # some worker got ready, so that those which don't are accidents
        self._slots = [self._fresh() for _ in range(workers or self._launcher.capacity())]

    @property
    def size(self) -> int:
        """The number of workers."""
        return len(self._slots)

    def close(self) -> None:
        """Kill the workers, busy or not."""
        for slot in self._slots:
            slot.worker.kill()
        self._slots = []

    def start(self) -> Any:
        """Wait until a worker is ready; what the task's `prepare` returned there.

        Raises:
            WorkerStartError: the workers cannot get ready.
        """
        deadline = time.monotonic() + _START_LIMIT_S
        while self._proven is None:
            if time.monotonic() >= deadline:
                raise WorkerStartError(Failure(TIME_LIMIT, f"more than {_START_LIMIT_S:g} s"))
            self._launcher.wait([slot.worker for slot in self._slots], deadline - time.monotonic())
            for slot in self._slots:
                if slot.worker.poll():
                    try:
                        self._receive_ready(slot)
                    except EOFError as error:
                        raise WorkerStartError(Failure(DIED, slot.worker.epitaph())) from error
        return self._proven.info

    def map(self, items: Iterable[Any], timeout_s: float | None = None) -> Iterator[tuple[int, Any]]:
        """Yield (index, result or `Failure`) as results come, in no fixed order.

        The reasons of failures: `TIME_LIMIT`, `DIED`, or the name of the exception that the function raised.

        Args:
            items: read as workers get free, so it may be a generator.
            timeout_s: another time limit than the pool's, for these items.

        Raises:
            WorkerStartError: the workers cannot get ready.
        """
        limit = self._timeout_s if timeout_s is None else timeout_s
        queue = iter(enumerate(items))
        for slot in list(self._slots):
            if slot.index is not None:  # left over from a map that its caller broke off
                self._replace(slot)
        for slot in list(self._slots):
            self._feed(slot, queue, limit)
        while busy := [(slot, slot.index) for slot in self._slots if slot.index is not None]:
            nearest = min(slot.deadline(limit) for slot, _ in busy)
            self._launcher.wait([slot.worker for slot, _ in busy], max(0.0, nearest - time.monotonic()))
            for slot, index in busy:
                # Asked anew for each worker: the caller may have taken its time since the last yield.
                if slot.worker.poll():
                    try:
                        if not slot.ready:
                            self._receive_ready(slot)
                            continue
                        result = slot.worker.receive()
                    except EOFError:
                        result = Failure(DIED, slot.worker.epitaph())
                        if self._proven is None:
                            raise WorkerStartError(result) from None
                        slot = self._replace(slot)
                elif time.monotonic() >= slot.deadline(limit):
                    result = Failure(TIME_LIMIT, f"more than {limit:g} s")
                    slot = self._replace(slot)
                else:
                    continue
                self._feed(slot, queue, limit)
                yield index, result

    def _fresh(self) -> _Slot:
        return _Slot(self._launcher.launch(self._task), time.monotonic())

    def _replace(self, slot: _Slot) -> _Slot:
        slot.worker.kill()
        fresh = self._fresh()
        self._slots[self._slots.index(slot)] = fresh
        return fresh

    def _receive_ready(self, slot: _Slot) -> None:
        message = slot.worker.receive()
        if isinstance(message, Failure):
            raise WorkerStartError(message)
        slot.ready, slot.started, self._proven = True, time.monotonic(), message

    def _feed(self, slot: _Slot, queue: Iterator[tuple[int, Any]], timeout_s: float) -> None:
        slot.index = None
        for index, item in queue:
            slot.index = index
            if slot.ready:
                slot.started = time.monotonic()
            slot.worker.send(item, timeout_s)
            return


def _pickled(function: Callable[[Any], Any]) -> bytes:
    name = getattr(function, "__qualname__", type(function).__qualname__)
    if function.__module__ == "__main__":
        raise ValueError(f"'{name}' of __main__ cannot be imported by a worker; put it at the top of a module")
    try:
        return pickle.dumps(function)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(f"'{name}' cannot be imported by a worker; put it at the top of a module ({error})") from error


def choose_workers(typed: int | str | None) -> tuple[int | None, Launcher | None]:
    """What `--workers` says: (number, launcher) for a `WorkerPool`; None leaves either to its default.

    Args:
        typed: None for one worker a core of this machine, a number, or `ray` for the cores of a Ray cluster.

    Raises:
        InputError: it is something else, or Ray is not installed.
    """
    if typed is None or (isinstance(typed, int) and typed >= 1):
        return typed, None
    if typed == "ray":
        from common.ray_workers import RayLauncher

        return None, RayLauncher()
    raise InputError(f"got --workers {typed}, expected a number from 1 on, or ray")


class ProcessLauncher:
    """Workers as processes of this machine."""

    def capacity(self) -> int:
        """See `Launcher`: the cores of this process."""
        return available_cores()

    def launch(self, task: bytes) -> ProcessWorker:
        """See `Launcher`."""
        return ProcessWorker(task)

    def wait(self, workers: Sequence[ProcessWorker], timeout_s: float) -> None:
        """See `Launcher`."""
        wait([worker.connection for worker in workers], timeout=timeout_s)


class ProcessWorker:
    """One process and the parent's end of its socket; the methods are those of `Worker`."""

    def __init__(self, task: bytes):
        here, there = socket.socketpair()
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"from common.workers import serve; serve({there.fileno()})"],
            pass_fds=[there.fileno()],
            # A session of its own: Ctrl-C is the parent's to handle, and what the worker starts dies with it.
            start_new_session=True,
            env=os.environ | ONE_THREAD | {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)},
        )
        there.close()
        self.connection = Connection(here.detach())
        self._send(task)

    def send(self, item: Any, timeout_s: float) -> None:
        """See `Worker`."""
        self._send((item, timeout_s))

    def poll(self) -> bool:
        """See `Worker`."""
        return self.connection.poll()

    def receive(self) -> Any:
        """See `Worker`."""
        try:
            return self.connection.recv()
        except ConnectionResetError as error:
            raise EOFError from error

    def epitaph(self) -> str:
        """See `Worker`."""
        try:
            return f"exit status {self.process.wait(timeout=5)}"
        except subprocess.TimeoutExpired:
            return "exit status unknown"

    def kill(self) -> None:
        """See `Worker`."""
        self.connection.close()
        # The group is gone where the process has ended and left nothing behind.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()

    def _send(self, message: Any) -> None:
        # A worker that died while idle is noticed when the parent reads: the item is then reported.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(message)


def serve(file_descriptor: int) -> None:
    """A process's loop: read the task, then items until the parent closes the socket."""
    # What a task prints must not mix with the results on the command's stdout.
    os.dup2(2, 1)
    connection = Connection(file_descriptor)
    try:
        task, message = load_task(connection.recv())
        connection.send(message)
        if task is None:
            return
        with open(os.devnull, "w") as nowhere:
            while True:
                item, timeout_s = connection.recv()
                # The parent enforces the limit; this ends a hanging worker whose parent was killed.
                faulthandler.dump_traceback_later(2 * timeout_s + 60, exit=True, file=nowhere)
                result = run_item(task, item)
                faulthandler.cancel_dump_traceback_later()
                connection.send(result)
    except (EOFError, ConnectionResetError, BrokenPipeError):
        return


def load_task(task: bytes) -> tuple[Callable[[Any], Any] | None, Ready | Failure]:
    """In the worker: the unpickled and prepared callable (None if that failed), and the first message to the parent."""
    try:
        function = pickle.loads(task)
        prepare = getattr(function, "prepare", None)
        return function, Ready(None if prepare is None else prepare())
    except Exception as error:  # whatever it is, the parent raises it: no item could succeed
        return None, Failure(type(error).__name__, str(error))


def run_item(function: Callable[[Any], Any], item: Any) -> Any:
    """In the worker: the result for one item, or a `Failure` named after the exception."""
    try:
        return function(item)
    except Exception as error:  # reported to the parent, which counts it
        return Failure(type(error).__name__, str(error))
