"""Random numbers for training, functions of (seed, step) and the sample's index in the global batch."""

import numpy as np
import torch
from torch import Tensor


class Draws:
    """The draws of one step. Each call draws for the whole global batch and keeps this process's slice.

    The numbers do not depend on the number of processes or on interruptions.
    """

    def __init__(
        self, seed: int, step: int, *, rank: int = 0, world: int = 1, device: torch.device | str = "cpu"
    ) -> None:
        state = np.random.SeedSequence([seed, step]).generate_state(2, np.uint64)
        # on the processor, whose generator gives the same numbers on every machine; 63 bits fit its signed seed
        self.generator = torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))
        self.step = step
        self.rank = rank
        self.world = world
        self.device = device

    def uniform(self, batch: int, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """(batch, *shape) from the uniform density, batch being this process's share."""
        return low + (high - low) * self._slice(torch.rand((batch * self.world, *shape), generator=self.generator))

    def log_uniform(self, batch: int, low: float, high: float) -> Tensor:
        """(batch,) log-uniform between low and high."""
        return low * (high / low) ** self.uniform(batch)

    def normal(self, batch: int, *shape: int) -> Tensor:
        """(batch, *shape) from the standard normal density."""
        return self._slice(torch.randn((batch * self.world, *shape), generator=self.generator))

    def number(self, low: float, high: float) -> float:
        """One number between low and high for the whole batch."""
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def permutation(self, count: int) -> Tensor:
        """0..count - 1 in random order, the same for the whole batch."""
        return torch.randperm(count, generator=self.generator).to(self.device)

    def _slice(self, values: Tensor) -> Tensor:
        share = len(values) // self.world
        return to_device(values[self.rank * share : (self.rank + 1) * share], self.device)


def to_device(values: Tensor, device: torch.device | str) -> Tensor:
    """Moves values to a device, through pinned memory for a GPU so that nothing blocks."""
    if torch.device(device).type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
