"""Range coding of symbols (constriction) with integer tables only."""

import math

import constriction
import numpy as np
from numpy.typing import NDArray

from codec.entropy.distribution import FRACTIONS
from codec.entropy.tables import TOTAL, Tables
from codec.errors import BitstreamError

SYMBOL_LIMIT = 2**15 - 1
"""Largest magnitude of a symbol."""
LONGEST_PREFIX = 17
"""Upper bound on leading zeros of an escape's Exp-Golomb code."""

Symbols = NDArray[np.int32]
_BIT = constriction.stream.model.Uniform(2)


def table_of(means: NDArray[np.int64], levels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Splits means in 1/32 into integer parts and each symbol's table."""
    whole = means // FRACTIONS
    return whole, levels * FRACTIONS + (means - whole * FRACTIONS)


class SymbolEncoder:
    """Encodes arrays of symbols, one after the other, into one stream."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self._coder = constriction.stream.queue.RangeEncoder()

    def write(self, symbols: Symbols, means: NDArray[np.int64], levels: NDArray[np.int64]) -> None:
        """Appends symbols (n,) with their means in 1/32 and scale levels. Raises ValueError beyond SYMBOL_LIMIT."""
        if symbols.size and np.abs(symbols).max() > SYMBOL_LIMIT:
            raise ValueError(f"a symbol's magnitude exceeds {SYMBOL_LIMIT}")
        whole, indices = table_of(means, levels)
        residuals = symbols - whole
        radii = self.tables.radii[levels]
        # symbol by symbol: constriction encodes arrays only with tables of one size, and these differ by level
        encode = self._coder.encode
        model = self.tables.model
        for residual, radius, index in zip(residuals.tolist(), radii.tolist(), indices.tolist(), strict=True):
            if -radius <= residual <= radius:
                encode(residual + radius, model(index))
                continue
            encode(2 * radius + 1, model(index))
            beyond = abs(residual) - radius - 1
            sign = 1 if residual < 0 else 0
            self._escape(2 * beyond + sign)

    def _escape(self, value: int) -> None:
        """Exp-Golomb code of order zero: one zero per bit of value + 1 after the first, then value + 1."""
        width = (value + 1).bit_length()
        for _ in range(width - 1):
            self._coder.encode(0, _BIT)
        for position in reversed(range(width)):
            self._coder.encode((value + 1) >> position & 1, _BIT)

    @property
    def bits(self) -> int:
        """Length of the stream in bits if it ended here."""
        return int(self._coder.num_bits())

    def finish(self) -> bytes:
        """The stream: 32-bit words, little-endian."""
        return bytes(self._coder.get_compressed().astype("<u4").tobytes())


class SymbolDecoder:
    """Decodes the arrays in the order in which they were written.

    With `canonical`, re-encodes the symbols and refuses a stream that differs, so that symbols have exactly one stream.
    """

    def __init__(self, tables: Tables, data: bytes, *, canonical: bool = False) -> None:
        self._begin(tables, data, SymbolEncoder(tables) if canonical else None)
        self._coder = constriction.stream.queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))

    def _begin(self, tables: Tables, data: bytes, again: SymbolEncoder | None) -> None:
        if len(data) % 4:
            raise BitstreamError(f"the coded stream has {len(data)} bytes, not a multiple of 4; the file is damaged")
        if not data:
            raise BitstreamError("the coded stream is empty; the file is damaged")
        self.tables = tables
        self._data = data
        self._again = again
        # information that the stream can still hold, in bits; one more for rounding in the sum of logarithms
        self._room = 8.0 * len(data) + 1

    def read(self, means: NDArray[np.int64], levels: NDArray[np.int64], limit: int = SYMBOL_LIMIT) -> Symbols:
        """Decodes the next symbols, (n,) int32, of magnitudes up to limit. Raises BitstreamError for invalid streams.

        Past its end the coder reads zeros without limit. A stream cannot hold more information than its bits, which is
        checked after each call, so a short stream fails in the part where it ran out.
        """
        whole, indices = table_of(means, levels)
        entries, residuals = self._entries(indices, self.tables.radii[levels])
        counts = self.tables.counts[self.tables.starts[indices] + entries]
        self._room -= math.log2(TOTAL) * len(counts) - float(np.log2(counts).sum())
        # without this check a truncated stream would decode to plausible symbols from zeros
        if self._room < 0:
            raise BitstreamError("the coded stream is shorter than its symbols; the file is damaged")
        symbols = whole + residuals
        if symbols.size and np.abs(symbols).max() > limit:
            raise BitstreamError(f"the coded stream is damaged: a symbol's magnitude exceeds {limit}")
        found = symbols.astype(np.int32)
        if self._again is not None:
            self._again.write(found, means, levels)
        return found

    def _entries(
        self, tables: NDArray[np.int64], radii: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Decodes the next entries of some tables and their residuals; escapes consume bits of the remaining room."""
        entries = np.empty(len(tables), np.int64)
        residuals = np.empty(len(tables), np.int64)
        decode = self._coder.decode
        model = self.tables.model
        try:
            for position, (radius, index) in enumerate(zip(radii.tolist(), tables.tolist(), strict=True)):
                entry = decode(model(index))
                entries[position] = entry
                if entry <= 2 * radius:
                    residuals[position] = entry - radius
                else:
                    residuals[position] = self._escaped(radius)
        except AssertionError:  # the library's error for an invalid state
            raise BitstreamError("the coded stream is damaged: it holds a state that no encoder writes") from None
        return entries, residuals

    def _escaped(self, radius: int) -> int:
        """The residual of an escape: the code counts magnitudes beyond the radius; its lowest bit is the sign."""
        width = 0
        while not self._coder.decode(_BIT):
            width += 1
            if width > LONGEST_PREFIX:
                raise BitstreamError("the coded stream is damaged: an escape code has no end")
        self._room -= 2 * width + 1
        value = 1
        for _ in range(width):
            value = 2 * value + int(self._coder.decode(_BIT))
        value -= 1
        magnitude = value // 2 + radius + 1
        return -magnitude if value % 2 else magnitude

    def close(self) -> None:
        """Raises BitstreamError unless the stream may end here."""
        if not self._may_end():
            raise BitstreamError("the coded stream is longer than its symbols; the file is damaged")
        if self._again is not None and self._again.finish() != self._data:
            raise BitstreamError("the coded stream is not the canonical one of its symbols; the file is damaged")

    def _may_end(self) -> bool:
        """Whether all words have been read."""
        return bool(self._coder.maybe_exhausted())
