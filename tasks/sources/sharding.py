"""Sources put into shards in the order of their keys."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """How many sources a shard and a run may hold."""

    images_per_shard: int
    bytes_per_shard: int
    shards: int | None = None


class Shards:
    """Row ranges, `ranges`, filled in order."""

    def __init__(self, limits: Limits) -> None:
        self.ranges: list[tuple[int, int]] = []
        self._limits = limits
        self._bytes = 0

    def take(self, size: int) -> bool:
        """Put the next source into the last shard, or a new one; False when the run is full."""
        start, stop = self.ranges[-1] if self.ranges else (0, 0)
        full = stop - start == self._limits.images_per_shard or self._bytes + size > self._limits.bytes_per_shard
        if not self.ranges or (full and stop > start):
            if len(self.ranges) == self._limits.shards:
                return False
            self.ranges.append((stop, stop + 1))
            self._bytes = size
        else:
            self.ranges[-1] = (start, stop + 1)
            self._bytes += size
        return True
