"""The searches by effort. Imports no torch: settings of runs and commands check an effort without it."""

from dataclasses import dataclass

from codec.errors import SettingsError


@dataclass(frozen=True)
class Effort:
    """A search: the number of gradient steps, and the first one's size in bins."""

    steps: int
    step_size: float
    structural: float = 0.0
    """Weight of DISTS, which takes twice the time of all the rest."""
    times: int = 1
    """Factor on the time limit of a picture."""
    side: int = 80
    """Longest side of a tile in latents, as memory below 2 GB allows."""
    margin: int = 6
    """Width at the inner borders of a tile, in latents, that only surrounds what is refined."""


EFFORTS = (Effort(0, 0.0), Effort(3, 0.035, times=10), Effort(10, 0.035, 0.3, times=100, side=48, margin=4))
"""The searches by effort, chosen on held-out photos (tests/benchmarks/results/effort.md)."""


def check_effort(effort: int) -> int:
    """Returns a valid effort. Raises SettingsError for others."""
    if effort not in range(len(EFFORTS)):
        raise SettingsError(f"effort must be one of 0 to {len(EFFORTS) - 1}, not {effort}")
    return effort
