"""Freed memory kept at hand: glibc gives a freed tensor's pages back, and each new tensor then faults them in again."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
LARGEST_FROM_HEAP = 32 * 2**20
"""The most that glibc allows as threshold: larger tensors are mapped and given back as before, unless nothing is."""
KEPT_BYTES, MOST_KEPT_BYTES = 512 * 2**20, 2**31 - 1

_told: dict[int, int] = {}


def keep_freed_memory(*, large: bool = False) -> bool:
    """Let this process keep up to KEPT_BYTES that it has freed; returns whether the C library could be told.

    The exact networks make and drop tensors of a few megabytes for each attention window: a quarter of their time went
    into page faults (tests/benchmarks/results/entropy_speed.md). With `large`, tensors of any size are kept, up to
    MOST_KEPT_BYTES, for a process that does nothing but measure: a VGG16 makes and drops a hundred megabytes a layer,
    and spent a quarter of its time so (tests/benchmarks/results/metrics_speed.md). The gaps in the heap cost memory.
    Anything but glibc is left as it is.
    """
    if large:
        return _tell(M_MMAP_MAX, 0) and _tell(M_TRIM_THRESHOLD, MOST_KEPT_BYTES)
    return _tell(M_MMAP_THRESHOLD, LARGEST_FROM_HEAP) and _tell(M_TRIM_THRESHOLD, KEPT_BYTES)


def _tell(parameter: int, value: int) -> bool:
    """Set a parameter of malloc, unless it is set to as much already."""
    if _told.get(parameter, -1) >= value:
        return True
    try:
        done = bool(ctypes.CDLL(None).mallopt(parameter, value))
    except (AttributeError, OSError, TypeError):
        return False
    if done:
        _told[parameter] = value
    return done
