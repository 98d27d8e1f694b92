"""Freed memory kept at hand: glibc gives a freed tensor's pages back, and each new tensor then faults them in again."""

import ctypes
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_FROM_HEAP = 32 * 2**20
"""The most that glibc allows: larger tensors are mapped and given back as before."""
KEPT_BYTES = 512 * 2**20


@cache
def keep_freed_memory() -> bool:
    """Let this process keep up to KEPT_BYTES that it has freed; returns whether the C library could be told.

    The exact networks make and drop tensors of a few megabytes for each attention window: a quarter of their time went
    into page faults (tests/benchmarks/results/entropy_speed.md). Anything but glibc is left as it is.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_FROM_HEAP) and mallopt(M_TRIM_THRESHOLD, KEPT_BYTES))
