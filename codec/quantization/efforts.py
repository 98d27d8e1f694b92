"""The searches by effort. Imports no torch: settings of runs and commands check an effort without it."""

from dataclasses import dataclass

from codec.errors import SettingsError


@dataclass(frozen=True)
class Effort:
    """A search: the number of gradient steps, and the first one's size in bins."""

    steps: int
    step_size: float
    structural: float
    """Weight of DISTS, which takes twice the time of all the rest."""
    times: int
    """Factor on the time limit of a picture."""


EFFORTS = (Effort(0, 0.0, 0.0, 1), Effort(3, 0.035, 0.0, 10), Effort(12, 0.035, 0.3, 100))
"""The searches by effort, chosen on held-out photos (tests/benchmarks/results/effort.md)."""


def check_effort(effort: int) -> int:
    """Returns a valid effort. Raises SettingsError for others."""
    if effort not in range(len(EFFORTS)):
        raise SettingsError(f"effort must be one of 0 to {len(EFFORTS) - 1}, not {effort}")
    return effort
