"""Tasks of perception workers that fail on purpose; apart from the test, so that a worker imports nothing more."""

import os
import signal
import sys

from molgen.chemistry import perception

_real_perceive_one = perception.perceive_one


def chunk_with_faults(chunk):
    """A worker's task in which argon hangs, krypton kills its process and xenon fills the memory."""
    perception.perceive_one = _one_with_faults
    return perception.perceive_chunk(chunk)


def _one_with_faults(item):
    numbers = item[0].tolist()
    if 18 in numbers:
        while True:
            pass
    if 36 in numbers:
        os.kill(os.getpid(), signal.SIGKILL)
    if 54 in numbers:
        bytearray(10 * 2**30)
    return _real_perceive_one(item)


def imported_torch(_item):
    return "torch" in sys.modules
