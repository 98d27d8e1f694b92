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


def _split(means: NDArray[np.int64], levels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
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
        whole, indices = _split(means, levels)
        residuals, radii = symbols - whole, self.tables.radii[levels]
        beyond = np.abs(residuals) > radii
        entries = np.where(beyond, 2 * radii + 1, residuals + radii)
        distances = np.abs(residuals) - radii - 1
        self._append(self.tables.models(indices), entries, beyond, 2 * distances + (residuals < 0))

    def _append(
        self, models: list[object], entries: NDArray[np.int64], beyond: NDArray[np.bool_], escapes: NDArray[np.int64]
    ) -> None:
        """Code table entries (n,); where `beyond` the table, the number in `escapes` follows."""
        encode, start, listed = self._coder.encode, 0, entries.tolist()
        for place in [*np.flatnonzero(beyond).tolist(), None]:
            stop = len(listed) if place is None else place + 1
            for entry, model in zip(listed[start:stop], models[start:stop], strict=True):
                encode(entry, model)
            if place is not None:
                self._escape(int(escapes[place]))
            start = stop

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
        if len(data) % 4:
            raise BitstreamError(f"the coded stream has {len(data)} bytes, not a multiple of 4; the file is damaged")
        if not data:
            raise BitstreamError("the coded stream is empty; the file is damaged")
        self.tables = tables
        self._coder = constriction.stream.queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))
        self._data, self._again = data, SymbolEncoder(tables) if canonical else None
        self._room = 8.0 * len(data) + 1  # the one is for what rounding does to the sum of logarithms

    def read(self, means: NDArray[np.int64], levels: NDArray[np.int64], limit: int = SYMBOL_LIMIT) -> Symbols:
        """The next symbols, (n,) int32, of magnitudes up to limit. BitstreamError for what no encoder wrote.

        Past its end the coder reads zeros and would go on for ever. No stream holds symbols of more information than it
        has bits, so that is checked after each call, and a short stream ends the work in the part where it ran out.
        """
        whole, indices = _split(means, levels)
        radii, models = self.tables.radii[levels], self.tables.models(indices)
        decode = self._coder.decode
        found: list[int] = []
        escapes: dict[int, int] = {}
        try:
            for model, last in zip(models, (2 * radii + 1).tolist(), strict=True):
                entry = decode(model)
                if entry == last:
                    escapes[len(found)] = self._escaped()
                found.append(entry)
        except AssertionError:  # how the library reports a state that no encoder produces
            raise BitstreamError("the coded stream is damaged: it holds a state that no encoder writes") from None
        entries = np.array(found, np.int64)
        counts = self.tables.counts[self.tables.starts[indices] + entries]
        self._room -= math.log2(TOTAL) * len(counts) - float(np.log2(counts).sum())
        if self._room < 0:
            raise BitstreamError("the coded stream is shorter than its symbols; the file is damaged")
        residuals = entries - radii
        for place, value in escapes.items():
            magnitude = value // 2 + int(radii[place]) + 1
            residuals[place] = -magnitude if value % 2 else magnitude
        symbols = whole + residuals
        if symbols.size and np.abs(symbols).max() > limit:
            raise BitstreamError(f"the coded stream is damaged: a symbol's magnitude exceeds {limit}")
        if self._again is not None:
            beyond, numbers = np.zeros(len(entries), np.bool_), np.zeros(len(entries), np.int64)
            beyond[list(escapes)], numbers[list(escapes)] = True, list(escapes.values())
            self._again._append(models, entries, beyond, numbers)
        return symbols.astype(np.int32)

    def _escaped(self) -> int:
        """The number that _escape has written."""
        width = 0
        while not self._coder.decode(_BIT):
            width += 1
            if width > LONGEST_PREFIX:
                raise BitstreamError("the coded stream is damaged: an escape code has no end")
        self._room -= 2 * width + 1
        value = 1
        for _ in range(width):
            value = 2 * value + int(self._coder.decode(_BIT))
        return value - 1

    def close(self) -> None:
        """Raise BitstreamError unless the stream may end here."""
        if not self._coder.maybe_exhausted():
            raise BitstreamError("the coded stream is longer than its symbols; the file is damaged")
        if self._again is not None and self._again.finish() != self._data:
            raise BitstreamError("the coded stream is not the one that its symbols have; the file is damaged")
