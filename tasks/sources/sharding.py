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
        most_images = self._limits.images_per_shard
        most_bytes = self._limits.bytes_per_shard
        if members > most_images or together > most_bytes:
            # No shard can hold this group, so it is cut as single sources are.
            members = 1
            together = size
        has_room = stop - start + members <= most_images and self._bytes + max(size, together) <= most_bytes
        if self.ranges and has_room:
            self.ranges[-1] = (start, stop + 1)
            self._bytes += size
            return True
        if len(self.ranges) == self._limits.shards:
            return False
        self.ranges.append((stop, stop + 1))  # whatever its size: a source above the limit gets a shard of its own
        self._bytes = size
        return True
