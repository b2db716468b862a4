"""Workers on a Ray cluster, behind the interface of `common.workers`: the same limits, failures and order of work.

Every worker is an actor that works on one core. The cluster's nodes need this package installed, and a scorer file that
is named on the command line must lie where all of them see it.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Sequence
from typing import Any

from common.errors import InputError
from common.workers import ONE_THREAD, Failure, Ready, load_task, run_item

logger = logging.getLogger(__name__)

INSTALL = "pip install ray==2.60.0"


class RayLauncher:
    """Workers as actors of a Ray cluster.

    Args:
        address: of the cluster; None takes the one that RAY_ADDRESS names, or starts one on this machine.

    Raises:
        InputError: Ray is not installed, or no cluster can be reached or started.
    """

    def __init__(self, address: str | None = None):
        try:
            import ray  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise InputError(f"Ray is not installed, so --workers ray cannot be; {INSTALL}") from error
        self._ray = ray
        if not ray.is_initialized():
            # Ray reports its usage to its makers unless told not to.
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            try:
                ray.init(address=address, include_dashboard=False, log_to_driver=False)
            except Exception as error:  # Ray has no class of its own for this
                cause = " ".join(str(error).split())[:200]
                raise InputError(
                    f"no Ray cluster can be reached or started: {cause}; start one (ray start --head) or say a number"
                ) from error
        logger.info("scoring on a Ray cluster with %d cores", self.capacity())
        # Never restarted and never retried by Ray: the pool counts a death and replaces the worker. Nothing is said of
        # cores: an actor then needs one to be placed and holds none, so that a second pool has room beside an idle one.
        self._actor = ray.remote(max_restarts=0, max_task_retries=0)(Station)

    def capacity(self) -> int:
        """See `Launcher`: the cluster's cores."""
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def launch(self, task: bytes) -> RayWorker:
        """See `Launcher`."""
        return RayWorker(self._ray, self._actor.options(runtime_env={"env_vars": ONE_THREAD}).remote(), task)

    def wait(self, workers: Sequence[RayWorker], timeout_s: float) -> None:
        """See `Launcher`."""
        self._ray.wait([worker.pending for worker in workers], num_returns=1, timeout=timeout_s)


class RayWorker:
    """One actor; the methods are those of `Worker`."""

    def __init__(self, ray: Any, actor: Any, task: bytes):
        self._ray, self._actor = ray, actor
        # The messages that it owes: its first one and, as items may be sent before that came, one more.
        self._owed = deque([actor.start.remote(task)])
        self._epitaph = "unknown"

    @property
    def pending(self) -> Any:
        """Reference of the next message."""
        return self._owed[0]

    def send(self, item: Any, timeout_s: float) -> None:
        """See `Worker`."""
        self._owed.append(self._actor.run.remote(item))

    def poll(self) -> bool:
        """See `Worker`."""
        done, _ = self._ray.wait([self.pending], num_returns=1, timeout=0)
        return bool(done)

    def receive(self) -> Any:
        """See `Worker`."""
        try:
            return self._ray.get(self._owed.popleft())
        except self._ray.exceptions.RayError as error:
            self._epitaph = " ".join(str(error).split())[:200]
            raise EOFError from error

    def epitaph(self) -> str:
        """See `Worker`."""
        return self._epitaph

    def kill(self) -> None:
        """See `Worker`."""
        self._ray.kill(self._actor, no_restart=True)


class Station:
    """What runs in the cluster: the loop of `common.workers.serve`, one call an item."""

    def start(self, task: bytes) -> Ready | Failure:
        """Take the pickled task; the first message to the parent."""
        self._task, message = load_task(task)
        return message

    def run(self, item: Any) -> Any:
        """The result for one item, or a `Failure`."""
        if self._task is None:
            return Failure("no task")
        return run_item(self._task, item)
