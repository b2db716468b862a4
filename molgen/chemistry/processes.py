"""A pool of killable worker processes with a time limit for each item.

Chemistry codes hang, crash and clash with other libraries' threads (tblite with torch), so their work runs in fresh
interpreters that import nothing but the function they serve. A worker that dies or exceeds its limit costs one item.
Unlike `multiprocessing`, no `if __name__ == "__main__"` is asked of the user's script: nothing re-imports it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any

# One thread for every numeric library: the pool itself fills the cores.
_ENVIRONMENT = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

# A busy machine may take long to import RDKit and tblite; that time is not an item's fault.
_START_LIMIT_S = 600.0


@dataclass(frozen=True)
class Failure:
    """An item without a result: `reason` is short and countable, `detail` may hold the message."""

    reason: str
    detail: str = ""


def available_cores() -> int:
    """How many cores this process may use (fewer than the machine's in a container or under `taskset`)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WorkerPool:
    """Processes that apply one importable function to items.

    Args:
        function: a function at the top level of an importable module, called with one picklable item.
        workers: number of processes; None means all cores that this process may use.
        timeout_s: seconds that one item may take before its worker is killed (its start not counted).

    Use as a context manager, or call `close`; either kills the workers.
    """

    def __init__(self, function: Callable[[Any], Any], workers: int | None = None, timeout_s: float = 60.0):
        if workers is not None and workers < 1:
            raise ValueError(f"workers is {workers}, expected at least 1")
        self._target = (function.__module__, function.__qualname__)
        if self._target[0] == "__main__" or "." in self._target[1]:
            raise ValueError(f"{self._target} cannot be imported by a worker; put it at the top of a module")
        self._timeout_s = timeout_s
        self._workers = [_Worker(self._target) for _ in range(workers or available_cores())]

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def size(self) -> int:
        """The number of workers."""
        return len(self._workers)

    def close(self) -> None:
        """Kill the workers, busy or not."""
        for worker in self._workers:
            worker.kill()
        self._workers = []

    def map(self, items: Iterable[Any]) -> Iterator[tuple[int, Any]]:
        """Yield (index, result or `Failure`) as results come, in no fixed order.

        The reasons of failures: "time limit", "worker died", or the name of the exception that the function raised.

        Raises:
            RuntimeError: the workers cannot import the function.
        """
        queue = iter(enumerate(items))
        for worker in self._workers:
            if worker.index is not None:  # left over from a map that its caller broke off
                self._replace(worker)
        for worker in list(self._workers):
            self._feed(worker, queue)
        while busy := [(worker, worker.index) for worker in self._workers if worker.index is not None]:
            deadlines = [worker.deadline(self._timeout_s) for worker, _ in busy]
            wait([worker.connection for worker, _ in busy], timeout=max(0.0, min(deadlines) - time.monotonic()))
            for worker, index in busy:
                # Asked anew for each worker: the caller may have taken its time since the last yield.
                if worker.connection.poll():
                    try:
                        if not worker.ready:
                            worker.receive_ready()
                            continue
                        result = worker.connection.recv()
                    except (EOFError, ConnectionResetError):
                        result = Failure("worker died", f"exit status {worker.exit_status()}")
                        worker = self._replace(worker)
                elif time.monotonic() >= worker.deadline(self._timeout_s):
                    result = Failure("time limit", f"more than {self._timeout_s:g} s")
                    worker = self._replace(worker)
                else:
                    continue
                self._feed(worker, queue)
                yield index, result

    def _feed(self, worker: _Worker, queue: Iterator[tuple[int, Any]]) -> None:
        worker.index = None
        for index, item in queue:
            worker.send(index, item)
            return

    def _replace(self, worker: _Worker) -> _Worker:
        worker.kill()
        fresh = _Worker(self._target)
        self._workers[self._workers.index(worker)] = fresh
        return fresh


class _Worker:
    """One process and the parent's end of its socket. `index` is the item at work, None when idle."""

    def __init__(self, target: tuple[str, str]):
        here, there = socket.socketpair()
        command = f"from molgen.chemistry.processes import serve; serve({there.fileno()})"
        self.process = subprocess.Popen(
            [sys.executable, "-c", command],
            pass_fds=[there.fileno()],
            env=os.environ | _ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)},
        )
        there.close()
        self.connection = Connection(here.detach())
        self.connection.send(target)
        self.index: int | None = None
        self.ready = False  # it has imported its function; until then no item's time runs
        self.started = time.monotonic()

    def deadline(self, timeout_s: float) -> float:
        return self.started + (timeout_s if self.ready else _START_LIMIT_S)

    def receive_ready(self) -> None:
        answer = self.connection.recv()
        if isinstance(answer, Failure):
            raise RuntimeError(f"a worker process cannot start: {answer.reason}: {answer.detail}")
        self.ready, self.started = True, time.monotonic()

    def send(self, index: int, item: Any) -> None:
        self.index = index
        if self.ready:
            self.started = time.monotonic()
        # A worker that died while idle is noticed when the parent reads: the item is then reported.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(item)

    def exit_status(self) -> int | None:
        try:
            return self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.wait()


def serve(file_descriptor: int) -> None:
    """The worker's loop: read the function's name, then items until the parent closes the socket."""
    # Ctrl-C reaches the whole process group; the parent decides when a worker ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(file_descriptor)
    try:
        module, name = connection.recv()
        try:
            function = getattr(import_module(module), name)
        except Exception as error:  # the parent raises it: no item could succeed
            connection.send(Failure(type(error).__name__, str(error)))
            return
        connection.send("ready")
        while True:
            item = connection.recv()
            try:
                result = function(item)
            except Exception as error:  # reported to the parent, which counts it
                result = Failure(type(error).__name__, str(error))
            connection.send(result)
    except (EOFError, ConnectionResetError, BrokenPipeError):
        return
