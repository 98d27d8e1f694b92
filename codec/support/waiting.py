"""How OpenMP's threads wait for each other: asleep.

By default they spin first. On a machine with something else to do, that takes the processors from those who compute: a
decoding with two threads, one of whose processors another process held, spent five sixths of its time so.
"""

import os
from collections.abc import Mapping

PASSIVE: Mapping[str, str] = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
"""What the standard, GNU's runtime, and LLVM's and Intel's read; each of them when it is loaded, with torch."""


def passive(environment: Mapping[str, str]) -> Mapping[str, str]:
    """The variables to add to an environment: none where it says itself how to wait."""
    return {} if any(name in environment for name in PASSIVE) else PASSIVE


def wait_passively() -> None:
    """Let this process and those it starts wait asleep; to be called before torch is imported."""
    os.environ.update(passive(os.environ))
