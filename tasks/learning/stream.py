"""An iterable dataset over an archive: shuffled, divided among ranks and workers, and resumable."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch.distributed
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info

from codec.errors import SettingsError
from tasks.learning.pictures import ArchivePictures, Sample


@dataclass(frozen=True)
class Order:
    """The order of samples in an epoch: a function of seed and epoch alone."""

    seed: int = 0
    shuffle: bool = True

    def indices(self, count: int, epoch: int, rank: int, world: int) -> NDArray[np.int64]:
        """The samples of a rank. Each rank has the same number, so that none waits for another: at most world - 1
        samples of an epoch are left out, others in each."""
        order = np.arange(count, dtype=np.int64)
        if self.shuffle:
            order = np.random.default_rng([self.seed, epoch]).permutation(order)
        each = count // world
        return order[: each * world][rank::world]


class ArchiveStream(IterableDataset[Sample]):
    """The samples of ArchivePictures in Order, for a DataLoader with the same `batch_size`.

    The order does not depend on the number of workers. Rank and world are those of torch.distributed if it is
    initialized, unless given. After `resume(epoch, samples)`, with the number of samples that the rank has consumed in
    that epoch, it goes on behind them. Each iteration is one epoch; the next begins by itself.
    """

    def __init__(
        self,
        pictures: ArchivePictures,
        batch_size: int,
        *,
        order: Order = Order(),  # frozen
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        if batch_size < 1:
            raise SettingsError(f"batch_size must be at least 1, not {batch_size}")
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.pictures = pictures
        self.batch_size = batch_size
        self.order = order
        self.rank = rank if rank is not None else (torch.distributed.get_rank() if distributed else 0)
        self.world = world if world is not None else (torch.distributed.get_world_size() if distributed else 1)
        if not 0 <= self.rank < self.world:
            raise SettingsError(f"rank {self.rank} is not one of {self.world}")
        self.resume(0, 0)

    def resume(self, epoch: int, samples: int) -> None:
        """Goes on in an epoch, behind a rank's first samples, at the next iteration."""
        if epoch < 0 or not 0 <= samples <= len(self) or (samples % self.batch_size and samples < len(self)):
            raise SettingsError(f"an epoch of {len(self)} samples cannot go on after {samples} of epoch {epoch}")
        self.epoch = epoch
        self.done = samples

    def __len__(self) -> int:
        return len(self.pictures) // self.world

    def __iter__(self) -> Iterator[Sample]:
        indices = self.order.indices(len(self.pictures), self.epoch, self.rank, self.world)[self.done :]
        worker = get_worker_info()
        own, count = (0, 1) if worker is None else (worker.id, worker.num_workers)
        # a DataLoader takes whole batches from its workers in turn
        starts = range(own * self.batch_size, len(indices), count * self.batch_size)
        self.epoch += 1
        self.done = 0
        for start in starts:
            for index in indices[start : start + self.batch_size].tolist():
                yield self.pictures[index]
