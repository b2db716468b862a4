"""The worker pool: results, failures and dead workers, each charged to its own item."""

import os
import sys
import time

import pytest

from molgen.chemistry.processes import Failure, WorkerPool


def work(item):
    """What the workers do; at the top of an importable module, as the pool asks."""
    if item == "die":
        os._exit(3)
    if item == "hang":
        time.sleep(60)
    if item == "raise":
        raise KeyError("no such thing")
    if item == "look":
        return os.environ["OMP_NUM_THREADS"], "torch" in sys.modules
    return item * 2


def test_every_item_gets_its_own_result_or_reason():
    items = [1, "die", 2, "hang", 3, "raise", 4]
    with WorkerPool(work, workers=2, timeout_s=1.5) as pool:
        results = dict(pool.map(items))
        again = dict(pool.map([5, 6]))
    assert {i: r for i, r in results.items() if not isinstance(r, Failure)} == {0: 2, 2: 4, 4: 6, 6: 8}
    assert [results[i].reason for i in (1, 3, 5)] == ["worker died", "time limit", "KeyError"]
    assert results[1].detail == "exit status 3"
    assert again == {0: 10, 1: 12}


def test_workers_are_single_threaded_and_free_of_torch():
    with WorkerPool(work, workers=1) as pool:
        assert dict(pool.map(["look"])) == {0: ("1", False)}


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


def test_workers_that_cannot_start_are_an_error_at_once(monkeypatch):
    monkeypatch.setattr(work, "__module__", "no_such_module")
    with WorkerPool(work, workers=1) as pool, pytest.raises(RuntimeError, match="cannot start: ModuleNotFoundError"):
        list(pool.map([1]))


def test_close_ends_the_processes():
    pool = WorkerPool(work, workers=1)
    process = pool._workers[0].process
    pool.close()
    assert process.poll() is not None


def test_a_function_that_workers_cannot_import_is_refused():
    with pytest.raises(ValueError, match="cannot be imported"):
        WorkerPool(lambda item: item)
    with pytest.raises(ValueError, match="at least 1"):
        WorkerPool(work, workers=0)
