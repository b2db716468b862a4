"""The worker pool: results, failures and dead workers, each charged to its own item."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from common.errors import InputError
from common.workers import Failure, WorkerPool, WorkerStartError


def work(item):
    """What the workers do; at the top of an importable module, as the pool asks."""
    if item == "die":
        os._exit(3)
    if item == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if item == "leave":
        sys.exit(4)
    if item == "hang":
        time.sleep(60)
    if item == "raise":
        raise KeyError("no such thing")
    if item == "look":
        return os.environ["OMP_NUM_THREADS"], "torch" in sys.modules
    if item == "print":
        print("not for stdout")
    if item == "start a child and hang":
        subprocess.Popen(["sleep", "61.5"])
        time.sleep(60)
    return item * 2


@dataclass(frozen=True)
class Scaled:
    """A task with settings and a preparation."""

    factor: float
    fault: str = ""

    def prepare(self):
        if self.fault == "raise":
            raise OSError("no licence")
        if self.fault == "die":
            os._exit(5)
        time.sleep(0.3)
        return {"unit": "eV"}

    def __call__(self, item):
        return self.factor * item


def test_every_item_gets_its_own_result_or_reason():
    items = [1, "die", 2, "hang", 3, "raise", 4, "segfault", "leave"]
    with WorkerPool(work, workers=2, timeout_s=1.5) as pool:
        results = dict(pool.map(items))
        again = dict(pool.map([5, 6]))
    assert {i: r for i, r in results.items() if not isinstance(r, Failure)} == {0: 2, 2: 4, 4: 6, 6: 8}
    reasons = [results[i].reason for i in (1, 3, 5, 7, 8)]
    assert reasons == ["worker died", "time limit", "KeyError", "worker died", "worker died"]
    assert [results[i].detail for i in (1, 7, 8)] == ["exit status 3", "exit status -11", "exit status 4"]
    assert again == {0: 10, 1: 12}


def test_workers_are_single_threaded_and_free_of_torch():
    with WorkerPool(work, workers=1) as pool:
        assert dict(pool.map(["look"])) == {0: ("1", False)}


def test_what_a_task_prints_stays_off_stdout(capfd):
    with WorkerPool(work, workers=1) as pool:
        assert dict(pool.map(["print"])) == {0: "printprint"}
    assert capfd.readouterr().out == ""


def test_a_map_that_was_broken_off_leaves_no_stale_results():
    with WorkerPool(work, workers=2) as pool:
        for _ in pool.map(range(100)):
            break
        assert dict(pool.map([7, 8, 9])) == {0: 14, 1: 16, 2: 18}


def test_the_caller_may_take_its_time():
    with WorkerPool(work, workers=2, timeout_s=1.0) as pool:
        results = {}
        for index, result in pool.map([1, 2, 3]):
            time.sleep(1.2)
            results[index] = result
    assert results == {0: 2, 1: 4, 2: 6}


def test_one_map_may_have_another_limit():
    with WorkerPool(work, workers=1, timeout_s=60) as pool:
        assert dict(pool.map(["hang", 1], timeout_s=0.3)) == {0: Failure("time limit", "more than 0.3 s"), 1: 2}


def test_a_task_may_be_an_object_that_prepares_itself_outside_the_limit():
    with WorkerPool(Scaled(0.5), workers=2, timeout_s=0.2) as pool:
        assert pool.start() == {"unit": "eV"}
        assert pool.start() == {"unit": "eV"}
        assert dict(pool.map([1, 2, 3, 4])) == {0: 0.5, 1: 1.0, 2: 1.5, 3: 2.0}


@pytest.mark.parametrize(("fault", "reason"), [("raise", "OSError: no licence"), ("die", "worker died: exit status 5")])
def test_workers_that_cannot_start_are_an_error_at_once(fault, reason):
    with WorkerPool(Scaled(1.0, fault), workers=1) as pool, pytest.raises(WorkerStartError, match=reason):
        list(pool.map([1]))
    with WorkerPool(Scaled(1.0, fault), workers=1) as pool, pytest.raises(WorkerStartError, match=reason):
        pool.start()


def test_close_ends_the_processes():
    pool = WorkerPool(work, workers=1)
    process = pool._slots[0].worker.process
    pool.close()
    assert process.poll() is not None


def test_what_a_killed_worker_started_ends_with_it():
    def children() -> str:
        return subprocess.run(["pgrep", "-f", "^sleep 61.5$"], capture_output=True, text=True, check=False).stdout

    with WorkerPool(work, workers=1, timeout_s=1.0) as pool:
        results = dict(pool.map(["start a child and hang"]))
    assert results[0].reason == "time limit"
    deadline = time.monotonic() + 5
    while children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not children()


def test_what_workers_cannot_import_is_refused():
    with pytest.raises(ValueError, match="cannot be imported"):
        WorkerPool(lambda item: item)
    with pytest.raises(ValueError, match="at least 1"):
        WorkerPool(work, workers=0)
    with pytest.raises(ValueError, match="more than 0"):
        WorkerPool(work, timeout_s=0)


class RayInThreads:
    """The few calls of Ray that the launcher makes, with a thread for each actor."""

    class exceptions:
        class RayError(Exception):
            pass

    class _Method:
        def __init__(self, thread, function):
            self.thread, self.function = thread, function

        def remote(self, *arguments):
            return self.thread.submit(self.function, *arguments)

    class _Actor:
        def __init__(self, station):
            self._station, self._thread = station, ThreadPoolExecutor(1)

        def __getattr__(self, name):
            return RayInThreads._Method(self._thread, getattr(self._station, name))

    def __init__(self):
        self.killed = 0

    def is_initialized(self):
        return True

    def cluster_resources(self):
        return {"CPU": 2.0}

    def remote(self, **_settings):
        def decorate(station):
            handle = SimpleNamespace(remote=lambda: self._Actor(station()))
            return SimpleNamespace(options=lambda **_settings: handle)

        return decorate

    def wait(self, references, num_returns, timeout):
        assert num_returns == 1
        done, pending = wait(references, timeout, FIRST_COMPLETED)
        return list(done), list(pending)

    def get(self, reference):
        try:
            return reference.result()
        except SystemExit as error:
            raise self.exceptions.RayError("the actor died") from error

    def kill(self, _actor, no_restart):
        assert no_restart
        self.killed += 1


RELEASE = threading.Event()


def work_in_a_thread(item):
    if item == "hang":
        RELEASE.wait(60)
    return work(item)


def test_the_ray_launcher_keeps_the_order_of_messages(monkeypatch):
    """Against a stand-in for Ray, which says nothing about Ray itself: that is the next test's business."""
    from common.ray_workers import RayLauncher

    ray = RayInThreads()
    monkeypatch.setitem(sys.modules, "ray", ray)
    try:
        with WorkerPool(work_in_a_thread, timeout_s=0.5, launcher=RayLauncher()) as pool:
            assert pool.size == 2
            results = dict(pool.map([1, "leave", 2, "hang", 3, "raise", 4]))
            assert dict(pool.map([5])) == {0: 10}
    finally:
        RELEASE.set()
    assert [results[i] for i in (0, 2, 4, 6)] == [2, 4, 6, 8]
    assert [results[i].reason for i in (1, 3, 5)] == ["worker died", "time limit", "KeyError"]
    assert ray.killed == 4


def test_a_cluster_that_cannot_be_reached_is_one_line(monkeypatch):
    from common.ray_workers import RayLauncher

    def init(**_):
        raise ConnectionError("no\nroute")

    ray = RayInThreads()
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init, raising=False)
    monkeypatch.setitem(sys.modules, "ray", ray)
    with pytest.raises(InputError, match="no Ray cluster can be reached or started: no route"):
        RayLauncher()


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_the_error_says_how_to_get_it():
    from common.ray_workers import RayLauncher

    with pytest.raises(InputError, match="pip install ray"):
        RayLauncher()


@pytest.mark.slow
def test_a_local_ray_gives_what_processes_give():
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    from common.ray_workers import RayLauncher

    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}},
    )
    try:
        with WorkerPool(work, workers=2, timeout_s=2.0, launcher=RayLauncher()) as pool:
            results = dict(pool.map([1, "die", 2, "hang", 3, "raise", "look"]))
    finally:
        ray.shutdown()
    assert [results[i] for i in (0, 2, 4)] == [2, 4, 6]
    assert [results[i].reason for i in (1, 3, 5)] == ["worker died", "time limit", "KeyError"]
    assert results[6] == ("1", False)
