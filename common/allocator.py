"""Keep freed tensors in the process: glibc's default hands large buffers back to the system after every use.

A step on the CPU allocates and frees the same large tensors again and again. By default glibc maps each of them
freshly and unmaps it, so that every first touch is a page fault; with the settings below the pages stay.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import platform

logger = logging.getLogger(__name__)

# Parameter numbers of mallopt(3), from glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4

_TOP_PAD_BYTES = 256 * 1024**2


@functools.cache
def tune_allocator() -> bool:
    """Tell glibc's malloc to keep freed memory for reuse; call it once, before the first large tensor.

    Serve every allocation from the heap (M_MMAP_MAX = 0), never trim it (M_TRIM_THRESHOLD = -1) and grow it by
    256 MiB at a time (M_TOP_PAD). The process's resident memory then stays at its peak, which is what a training
    or a long generation wants and a small worker process does not. Later calls do nothing.

    Returns:
        True if all settings were taken, False where there is no glibc (then nothing was changed).
    """
    if platform.libc_ver()[0] != "glibc":
        logger.debug("no glibc: the allocator is left as it is")
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError) as error:
        logger.debug("no mallopt in this process (%s): the allocator is left as it is", error)
        return False
    mallopt.argtypes = (ctypes.c_int, ctypes.c_int)
    mallopt.restype = ctypes.c_int
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, _TOP_PAD_BYTES))
    # mallopt returns 1 on success. No early stop: each setting helps on its own.
    taken = [mallopt(parameter, value) == 1 for parameter, value in settings]
    return all(taken)
