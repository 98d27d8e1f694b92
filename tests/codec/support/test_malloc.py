"""Freed memory stays with the process where that can be had, and is left alone elsewhere."""

import platform
import subprocess
import sys

import pytest

from codec.support import malloc

FAULTS = """
import resource, sys, torch
from codec.support.malloc import keep_freed_memory
if "kept" in sys.argv:
    keep_freed_memory(large=True)
layer = torch.nn.Conv2d(16, 16, 3, padding=1).requires_grad_(False)
def work():
    x = torch.ones(1, 16, 1000, 1600)
    for _ in range(3):
        x = layer(x)
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
"""How many pages layers of 100 MB fault in the second time."""


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(malloc, "_told", {})


def test_the_c_library_is_told_once_and_a_smaller_wish_does_not_undo_a_larger_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[tuple[int, int]] = []

    class Library:
        def mallopt(self, parameter: int, value: int) -> int:
            told.append((parameter, value))
            return 1

    monkeypatch.setattr(malloc.ctypes, "CDLL", lambda _: Library())
    assert all(malloc.keep_freed_memory(large=large) for large in (True, False, True))
    assert told == [
        (malloc.M_MMAP_MAX, 0),
        (malloc.M_TRIM_THRESHOLD, malloc.MOST_KEPT_BYTES),
        (malloc.M_MMAP_THRESHOLD, malloc.LARGEST_FROM_HEAP),
    ]


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(malloc.ctypes, "CDLL", lambda _: object())
    assert malloc.keep_freed_memory() is False
    assert malloc.keep_freed_memory(large=True) is False


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_large_tensors_find_their_pages_again_and_would_fault_them_in_anew() -> None:
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", FAULTS, word], capture_output=True, check=True).stdout)
        for word in ("kept", "given back")
    )
    assert kept < 0.1 * given_back
