"""A second range coder, written from sections 2 and 3 of FORMAT.md in whole numbers of Python."""

import numpy as np
from numpy.typing import NDArray

from codec.entropy.tables import Tables

WHOLE = 2**64


class RangeDecoder:
    """Reads symbols as codec.entropy.coder.SymbolDecoder does. `tables` only gives the bundle's counts."""

    def __init__(self, tables: Tables, data: bytes, *, canonical: bool = False) -> None:
        self.words = [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 4)]
        self.counts = tables.counts
        self.starts = tables.starts
        self.place = 0
        self.range = WHOLE - 1
        high = self._next()
        self.offset = high << 32 | self._next()

    def _next(self) -> int:
        self.place += 1
        if self.place > len(self.words):
            return 0  # FORMAT.md, section 3: words beyond the end are zero
        return self.words[self.place - 1]

    def entry(self, counts: list[int]) -> int:
        """The next entry of a table whose counts sum to 2**24."""
        scale = self.range >> 24
        target = self.offset // scale
        assert target < 2**24
        found = 0
        below = 0
        while below + counts[found] <= target:
            below += counts[found]
            found += 1
        self.offset -= scale * below
        self.range = scale * counts[found]
        if self.range < 2**32:
            self.range <<= 32
            self.offset = self.offset << 32 | self._next()
        return found

    def escape(self) -> int:
        """The next number in Exp-Golomb bits (section 2), each bit an entry of a table of two equal counts."""
        half = [2**23, 2**23]
        zeros = 0
        while self.entry(half) == 0:
            zeros += 1
        value = 1
        for _ in range(zeros):
            value = 2 * value + self.entry(half)
        return value - 1

    def read(self, means: NDArray[np.int64], levels: NDArray[np.int64], limit: int = 2**15 - 1) -> NDArray[np.int32]:
        symbols = []
        for mean, level in zip(means.tolist(), levels.tolist(), strict=True):
            table = level * 32 + mean % 32
            counts = self.counts[self.starts[table] : self.starts[table + 1]].tolist()
            reach = len(counts) // 2 - 1
            residual = self.entry(counts) - reach
            # The last entry says that the residual lies outside the table, and follows as a zigzag number.
            if residual > reach:
                value = self.escape()
                residual = value // 2 + reach + 1
                if value % 2 == 1:
                    residual = -residual
            symbols.append(mean // 32 + residual)
            assert abs(symbols[-1]) <= limit
        return np.array(symbols, np.int32)

    def close(self) -> None:
        assert len(self.words) in (self.place - 1, self.place), "one or two words end a stream"


class RangeEncoder:
    """Writes entries of tables."""

    def __init__(self) -> None:
        self.range = WHOLE - 1
        self.low = 0  # never cut to 64 bits, so that a carry runs through by itself
        self.renewed = 0

    def entry(self, counts: list[int], entry: int) -> None:
        """Append an entry of a table whose counts sum to 2**24."""
        scale = self.range >> 24
        self.low += scale * sum(counts[:entry])
        self.range = scale * counts[entry]
        if self.range < 2**32:
            self.range <<= 32
            self.low <<= 32
            self.renewed += 1

    def finish(self) -> bytes:
        """The stream: section 3 states the one form that it has."""
        last = self.low + 2**32 - 1 >> 32
        words = [last >> 32 * i & 2**32 - 1 for i in reversed(range(self.renewed + 1))]
        # FORMAT.md, section 3, "At the end": this word alone could lie outside the interval.
        if words[-1] == (self.low + self.range >> 32) & 2**32 - 1:
            words.append(0)
        return b"".join(word.to_bytes(4, "little") for word in words)
