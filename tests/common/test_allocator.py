"""The allocator's setting, in processes of its own: it can't be undone."""

import platform
import subprocess
import sys

import pytest

COUNT_FAULTS = """
import resource
import numpy as np
from common.allocator import tune_allocator

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.empty(100_000_000, dtype=np.uint8)[:: 4096] = 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
before = faults()
print(tune_allocator(), tune_allocator())
faults()
print(before, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_large_buffers_stay_in_the_process():
    output = subprocess.run(
        [sys.executable, "-c", COUNT_FAULTS], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    assert output[:2] == ["True", "True"]
    before, after = map(int, output[2:])
    assert before > 100
    assert after < before / 10


def test_other_platforms_are_left_alone():
    code = (
        "import platform; platform.libc_ver = lambda: ('', '')\n"
        "from common.allocator import tune_allocator; print(tune_allocator())"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert output.stdout.strip() == "False"
