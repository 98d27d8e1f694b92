"""Makes OpenMP threads wait passively.

By default they spin first. On a busy machine spinning takes the processors from threads that compute: with another
process on one of two processors, decoding spent five sixths of its time spinning. Threads that sleep at once are slow
to wake, which cost a third of the time on an idle machine. tests/benchmarks/results/busy.md compares both.
"""

import os
from collections.abc import Mapping

PASSIVE: Mapping[str, str] = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}
"""Variables of the standard, GNU's, LLVM's and Intel's runtimes, read when the runtime is loaded with torch.

GNU's threads look a thousand times whether there is work, some ten microseconds, before they sleep.
"""


def passive(environment: Mapping[str, str]) -> Mapping[str, str]:
    """The variables to add to an environment; none if it already sets a policy."""
    is_set = any(name in environment for name in PASSIVE)
    return {} if is_set else PASSIVE


def wait_passively() -> None:
    """Makes this process and its children wait passively. Call it before importing torch."""
    os.environ.update(passive(os.environ))
