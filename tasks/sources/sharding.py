"""Assigns sources to shards in the order of their keys."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of a shard, in sources and bytes, and of a run, in shards."""

    images_per_shard: int
    bytes_per_shard: int
    shards: int | None = None


class Shards:
    """The row range of each shard, filled in order."""

    def __init__(self, limits: Limits) -> None:
        self.ranges: list[tuple[int, int]] = []
        self._limits = limits
        self._bytes = 0

    def take(self, size: int, members: int = 1, together: int = 0) -> bool:
        """Adds the next source to the last shard or to a new one. Returns False if the run is full.

        This source and the next ones form a group of `members` sources and `together` bytes, which shares a shard if
        it fits into one.
        """
        start, stop = self.ranges[-1] if self.ranges else (0, 0)
        images, bytes_ = self._limits.images_per_shard, self._limits.bytes_per_shard
        if members > images or together > bytes_:
            members, together = 1, size
        full = stop - start + members > images or self._bytes + max(size, together) > bytes_
        if not self.ranges or (full and stop > start):
            if len(self.ranges) == self._limits.shards:
                return False
            self.ranges.append((stop, stop + 1))
            self._bytes = size
        else:
            self.ranges[-1] = (start, stop + 1)
            self._bytes += size
        return True
