"""The range coder of FORMAT.md, section 3, compiled by numba, without the GIL.

Replaces constriction's coder when a GPU computes the network, since the coder then dominates. Both give the same bytes
(tests/codec/entropy/test_compiled.py). Compiling takes seconds per process, so single pictures use constriction.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from codec.entropy.coder import LONGEST_PREFIX, SYMBOL_LIMIT, SymbolDecoder, SymbolEncoder, Symbols, table_of
from codec.entropy.tables import Tables
from codec.errors import BitstreamError

Words = NDArray[np.uint32]

PRECISION = np.uint64(24)
HALF = np.uint64(2**23)
"""Count of a bit of probability 1/2."""
WORD = np.uint64(32)
LOW_WORD = np.uint64(2**32 - 1)
FULL_RANGE = np.uint64(2**64 - 1)
ZERO = np.uint64(0)
ONE = np.uint64(1)
LONGEST = 1 + (2 * LONGEST_PREFIX + 1)
"""Upper bound on entries per symbol: an escape and its bits. An entry emits at most one word."""
NO_STATE = -1
"""Return value of decoding for an invalid state."""
NO_END = -2
"""Return value of decoding for an endless escape."""


@njit(nogil=True)
def _put(state, words, below, count):  # type: ignore[no-untyped-def]
    """Appends an entry; state is (range, low, words so far)."""
    scale = state[0] >> PRECISION
    low = state[1] + scale * below
    if low < state[1]:  # the carry propagates into earlier words
        index = np.int64(state[2]) - 1
        while index >= 0 and words[index] == LOW_WORD:
            words[index] = 0
            index -= 1
        words[index] += np.uint32(1)
    width = scale * count
    if width >> WORD == ZERO:
        words[np.int64(state[2])] = np.uint32(low >> WORD)
        state[2] += ONE
        low = low << WORD
        width = width << WORD
    state[0] = width
    state[1] = low


@njit(nogil=True)
def _write(state, words, residuals, radii, tables, starts, below, counts):  # type: ignore[no-untyped-def]
    for i in range(len(residuals)):
        residual = residuals[i]
        radius = radii[i]
        start = starts[tables[i]]
        if -radius <= residual <= radius:
            entry = start + residual + radius
            _put(state, words, below[entry], counts[entry])
            continue
        entry = start + 2 * radius + 1
        _put(state, words, below[entry], counts[entry])
        value = 2 * (abs(residual) - radius - 1)
        if residual < 0:
            value += 1
        width = 0
        while (value + 1) >> (width + 1):
            width += 1
        for _ in range(width):
            _put(state, words, ZERO, HALF)
        for bit in range(width, -1, -1):
            _put(state, words, HALF if (value + 1) >> bit & 1 else ZERO, HALF)


@njit(nogil=True)
def _take(state, words):  # type: ignore[no-untyped-def]
    """Position of the next entry in 0..2^24; state is (range, offset, words read)."""
    return state[1] // (state[0] >> PRECISION)


@njit(nogil=True)
def _drop(state, words, below, count):  # type: ignore[no-untyped-def]
    """Removes an entry from the state and reads a word if one is due."""
    scale = state[0] >> PRECISION
    offset = state[1] - scale * below
    width = scale * count
    if width >> WORD == ZERO:
        index = np.int64(state[2])
        following = np.uint64(words[index]) if index < len(words) else ZERO  # as constriction: zeros past the end
        state[2] += ONE
        offset = offset << WORD | following
        width = width << WORD
    state[0] = width
    state[1] = offset


@njit(nogil=True)
def _read(state, words, entries, residuals, radii, tables, starts, below, counts):  # type: ignore[no-untyped-def]
    """Fills entries and residuals. Returns the bits of escapes, or NO_STATE or NO_END."""
    total = ONE << PRECISION
    extra = 0
    for i in range(len(residuals)):
        radius = radii[i]
        start = starts[tables[i]]
        target = _take(state, words)
        if target >= total:
            return NO_STATE
        # bisection for the entry whose interval holds the target; the escape is entry 2 R + 1
        low = 0
        high = 2 * radius + 2
        while high - low > 1:
            middle = (low + high) // 2
            if below[start + middle] <= target:
                low = middle
            else:
                high = middle
        _drop(state, words, below[start + low], counts[start + low])
        entries[i] = low
        if low <= 2 * radius:
            residuals[i] = low - radius
            continue
        # an escape: `width` zeros, a one, and `width` bits of the value
        width = 0
        value = 1
        for position in range(2 * LONGEST_PREFIX + 1):
            target = _take(state, words)
            if target >= total:
                return NO_STATE
            bit = 1 if target >= HALF else 0
            _drop(state, words, HALF if bit else ZERO, HALF)
            if value == 1 and position == width and not bit:
                width += 1
                if width > LONGEST_PREFIX:
                    return NO_END
                continue
            if position > width:
                value = 2 * value + bit
            if position == 2 * width:
                break
        extra += 2 * width + 1
        value -= 1
        magnitude = value // 2 + radius + 1
        residuals[i] = -magnitude if value % 2 else magnitude
    return extra


class _Counts:
    """Tables for compiled code: counts and their cumulative sums within each table."""

    def __init__(self, tables: Tables) -> None:
        self.starts = np.ascontiguousarray(tables.starts, np.int64)
        self.counts = tables.counts.astype(np.uint64)
        sums = np.cumsum(tables.counts, dtype=np.int64) - tables.counts
        lengths = np.diff(self.starts)
        self.below = (sums - np.repeat(sums[self.starts[:-1]], lengths)).astype(np.uint64)


def _of(tables: Tables) -> _Counts:
    kept: _Counts | None = getattr(tables, "compiled", None)
    if kept is None:
        kept = _Counts(tables)
        tables.compiled = kept  # type: ignore[attr-defined]
    return kept


class CompiledEncoder(SymbolEncoder):
    """A SymbolEncoder without constriction."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self._counts = _of(tables)
        self._state = np.array([FULL_RANGE, ZERO, ZERO], np.uint64)
        self._words = np.zeros(1024, np.uint32)

    def write(self, symbols: Symbols, means: NDArray[np.int64], levels: NDArray[np.int64]) -> None:
        """As in SymbolEncoder."""
        if symbols.size and np.abs(symbols).max() > SYMBOL_LIMIT:
            raise ValueError(f"a symbol's magnitude exceeds {SYMBOL_LIMIT}")
        whole, tables = table_of(means, levels)
        residuals = symbols - whole
        radii = self.tables.radii[levels]
        # compiled code cannot grow the array, so there is room for the worst case beforehand
        escapes = int((np.abs(residuals) > radii).sum())
        room = int(self._state[2]) + len(residuals) + LONGEST * escapes + 2
        if room > len(self._words):
            self._words = np.concatenate([self._words, np.zeros(max(room, len(self._words)), np.uint32)])
        counts = self._counts
        _write(self._state, self._words, residuals, radii, tables, counts.starts, counts.below, counts.counts)

    @property
    def bits(self) -> int:
        """Bits that the stream would have if it ended here."""
        return 8 * len(self.finish())

    def finish(self) -> bytes:
        """The stream: 32-bit words, little-endian."""
        width, low, count = (int(value) for value in self._state)
        before = self._words[:count].astype("<u4").tobytes()
        is_untouched = not count and width == int(FULL_RANGE) and not low
        if is_untouched:
            return b""
        # the end of constriction's coder: the shortest words that lie in the last interval whatever follows them
        last = low + 2**32 - 1 >> 32
        if last >> 32:  # a carry: adds one to the words so far, taken as one big-endian number
            number = int.from_bytes(self._words[:count][::-1].astype("<u4").tobytes(), "little") + 1
            before = np.frombuffer(number.to_bytes(4 * count, "little"), "<u4")[::-1].tobytes()
        last &= 2**32 - 1
        words = [last]
        if last == (low + width >> 32) & 2**32 - 1:
            words.append(0)
        return before + b"".join(word.to_bytes(4, "little") for word in words)


class CompiledDecoder(SymbolDecoder):
    """A SymbolDecoder without constriction, for canonical streams."""

    def __init__(self, tables: Tables, data: bytes) -> None:
        self._begin(tables, data, CompiledEncoder(tables))
        self._counts = _of(tables)
        self._words = np.frombuffer(data, "<u4").astype(np.uint32)
        first = int(self._words[0])
        second = int(self._words[1]) if len(self._words) > 1 else 0
        self._state = np.array([FULL_RANGE, first << 32 | second, 2], np.uint64)

    def _entries(
        self, tables: NDArray[np.int64], radii: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        entries = np.empty(len(tables), np.int64)
        residuals = np.empty(len(tables), np.int64)
        counts = self._counts
        extra = _read(
            self._state, self._words, entries, residuals, radii, tables, counts.starts, counts.below, counts.counts
        )
        if extra == NO_STATE:
            raise BitstreamError("the coded stream is damaged: it holds a state that no encoder writes")
        if extra == NO_END:
            raise BitstreamError("the coded stream is damaged: an escape code has no end")
        self._room -= extra
        return entries, residuals

    def _may_end(self) -> bool:
        return int(self._state[2]) >= len(self._words)
