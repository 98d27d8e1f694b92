"""Keeps freed memory in the process: glibc returns a freed tensor's pages, and each new tensor faults them in."""

import ctypes

# parameters of mallopt, from glibc's malloc.h
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_MMAP_MAX = -4
LARGEST_FROM_HEAP = 32 * 2**20
"""glibc's largest threshold: larger tensors are still mapped and returned, unless mapping is off."""
KEPT_BYTES = 512 * 2**20
MOST_KEPT_BYTES = 2**31 - 1
"""mallopt takes an int."""

_told: dict[int, int] = {}


def keep_freed_memory(*, large: bool = False) -> bool:
    """Lets this process keep up to KEPT_BYTES of freed memory. Returns whether the C library supports it.

    The exact networks make and drop tensors of a few megabytes for each attention window: a quarter of their time went
    into page faults (tests/benchmarks/results/entropy_speed.md). With `large`, tensors of any size are kept, up to
    MOST_KEPT_BYTES, for a process that only measures: a VGG16 makes and drops a hundred megabytes a layer,
    and spent a quarter of its time so (tests/benchmarks/results/metrics_speed.md). Gaps in the heap cost memory.
    Other C libraries are left alone.
    """
    if large:
        return _tell(M_MMAP_MAX, 0) and _tell(M_TRIM_THRESHOLD, MOST_KEPT_BYTES)
    return _tell(M_MMAP_THRESHOLD, LARGEST_FROM_HEAP) and _tell(M_TRIM_THRESHOLD, KEPT_BYTES)


def return_freed_memory() -> bool:
    """Returns what this process keeps to the system, now. Returns whether the C library supports it."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return False
    return True


def _tell(parameter: int, value: int) -> bool:
    """Sets a malloc parameter, unless it already has a larger value."""
    if _told.get(parameter, -1) >= value:
        return True
    try:
        done = bool(ctypes.CDLL(None).mallopt(parameter, value))
    # musl and others have no mallopt, Windows no CDLL(None): computing is slower there, and as right
    except (AttributeError, OSError, TypeError):
        return False
    if done:
        _told[parameter] = value
    return done
