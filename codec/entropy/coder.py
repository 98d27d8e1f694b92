"""Symbols to bytes and back with a range coder (constriction), by integer tables alone."""

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
"""Zeros that the Exp-Golomb code of an escape may start with."""

Symbols = NDArray[np.int32]
_BIT = constriction.stream.model.Uniform(2)


def table_of(means: NDArray[np.int64], levels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Means in 1/32 -> their integer parts, and each symbol's table."""
    whole = means // FRACTIONS
    return whole, levels * FRACTIONS + (means - whole * FRACTIONS)


class SymbolEncoder:
    """Codes arrays of symbols one after the other into one stream."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self._coder = constriction.stream.queue.RangeEncoder()

    def write(self, symbols: Symbols, means: NDArray[np.int64], levels: NDArray[np.int64]) -> None:
        """Append symbols (n,) with their means in 1/32 and scale levels. ValueError beyond SYMBOL_LIMIT."""
        if symbols.size and np.abs(symbols).max() > SYMBOL_LIMIT:
            raise ValueError(f"a symbol's magnitude exceeds {SYMBOL_LIMIT}")
        whole, indices = table_of(means, levels)
        residuals, radii = symbols - whole, self.tables.radii[levels]
        encode, model = self._coder.encode, self.tables.model
        for residual, radius, index in zip(residuals.tolist(), radii.tolist(), indices.tolist(), strict=True):
            if -radius <= residual <= radius:
                encode(residual + radius, model(index))
            else:
                encode(2 * radius + 1, model(index))
                self._escape(2 * (residual - radius - 1) if residual > 0 else 2 * (-residual - radius - 1) + 1)

    def _escape(self, value: int) -> None:
        """Exp-Golomb code of order zero: as many zeros as value + 1 has further bits, then value + 1."""
        width = (value + 1).bit_length()
        for bit in [0] * (width - 1) + [(value + 1) >> i & 1 for i in reversed(range(width))]:
            self._coder.encode(bit, _BIT)

    @property
    def bits(self) -> int:
        """Bits that the stream would have if it ended here."""
        return int(self._coder.num_bits())

    def finish(self) -> bytes:
        """The stream: 32-bit words, little-endian."""
        return bytes(self._coder.get_compressed().astype("<u4").tobytes())


class SymbolDecoder:
    """Reads the arrays back in the order they were written.

    With `canonical`, what is read is encoded again beside it, and a stream that differs from the result is refused:
    then symbols have one stream only.
    """

    def __init__(self, tables: Tables, data: bytes, *, canonical: bool = False) -> None:
        self._begin(tables, data, SymbolEncoder(tables) if canonical else None)
        self._coder = constriction.stream.queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))

    def _begin(self, tables: Tables, data: bytes, again: SymbolEncoder | None) -> None:
        if len(data) % 4:
            raise BitstreamError(f"the coded stream has {len(data)} bytes, not a multiple of 4; the file is damaged")
        if not data:
            raise BitstreamError("the coded stream is empty; the file is damaged")
        self.tables, self._data, self._again = tables, data, again
        self._room = 8.0 * len(data) + 1  # the one is for what rounding does to the sum of logarithms

    def read(self, means: NDArray[np.int64], levels: NDArray[np.int64], limit: int = SYMBOL_LIMIT) -> Symbols:
        """The next symbols, (n,) int32, of magnitudes up to limit. BitstreamError for what no encoder wrote.

        Past its end the coder reads zeros and would go on for ever. No stream holds symbols of more information than it
        has bits, so that is checked after each call, and a short stream ends the work in the part where it ran out.
        """
        whole, indices = table_of(means, levels)
        entries, residuals = self._entries(indices, self.tables.radii[levels])
        counts = self.tables.counts[self.tables.starts[indices] + entries]
        self._room -= math.log2(TOTAL) * len(counts) - float(np.log2(counts).sum())
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
        """The next entries of some tables, and the residuals they stand for; escapes take their bits of the room."""
        entries, residuals = np.empty(len(tables), np.int64), np.empty(len(tables), np.int64)
        decode, model = self._coder.decode, self.tables.model
        try:
            for place, (radius, index) in enumerate(zip(radii.tolist(), tables.tolist(), strict=True)):
                entries[place] = entry = decode(model(index))
                residuals[place] = entry - radius if entry <= 2 * radius else self._escaped(radius)
        except AssertionError:  # how the library reports a state that no encoder produces
            raise BitstreamError("the coded stream is damaged: it holds a state that no encoder writes") from None
        return entries, residuals

    def _escaped(self, radius: int) -> int:
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
        """Raise BitstreamError unless the stream may end here."""
        if not self._may_end():
            raise BitstreamError("the coded stream is longer than its symbols; the file is damaged")
        if self._again is not None and self._again.finish() != self._data:
            raise BitstreamError("the coded stream is not the one that its symbols have; the file is damaged")

    def _may_end(self) -> bool:
        """Whether all words were read."""
        return bool(self._coder.maybe_exhausted())
