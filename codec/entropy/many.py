"""Codes symbols of many pictures of one size: one run of the exact network, one range coder per picture.

The network's integers do not depend on the batch, so streams and symbols equal those of codec.entropy.stream. The
coders run on threads; on a GPU each pass of the network is one graph.
"""

import functools
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.entropy.coder import SymbolDecoder, SymbolEncoder
from codec.entropy.distribution import distributions
from codec.entropy.dither import UNITS
from codec.entropy.entroformer import CHANNELS
from codec.entropy.integer import ExactEntropyModel
from codec.entropy.rate import HYPER_LIMIT
from codec.entropy.stream import CodedStream, Size, Symbols, compress, decompress, symbol_offsets, tiles
from codec.entropy.tables import Tables
from codec.entropy.windows import anchor_mask
from codec.errors import BitstreamError
from codec.support import processors
from codec.support.graphs import Graphs

GRAPHED_ON = ("cuda",)
"""Devices on which the network is captured as graphs."""
COMPILED_ON = ("cuda",)
"""Devices that use compiled range coders: the network is fast, and compiling pays."""
Numbers = NDArray[np.int64]
Item = TypeVar("Item")
Result = TypeVar("Result")


@torch.no_grad()
def prepare_many(
    model: ExactEntropyModel,
    tables: Tables,
    symbols: Sequence[Symbols],
    hyper: Sequence[Sequence[Symbols]],
    codes: Tensor,
) -> Callable[[], list[CodedStream]]:
    """Runs the network and returns a function that runs the coders and gives stream.compress of each picture.

    symbols are (4, h, w) of one shape, hyper the hyper-latents of each one's tiles, codes (B, 4).
    """
    if not _together(model, len(symbols)):

        def one_by_one() -> list[CodedStream]:
            every = zip(symbols, hyper, codes.split(1), strict=True)
            return [compress(model, tables, own, list(z), code) for own, z, code in every]

        return one_by_one
    compiled = model.device.type in COMPILED_ON
    network = _Network(model, codes)
    priors = network.priors()
    offsets = symbol_offsets(model, symbols[0].shape)
    passes = []
    for number, (rows, columns) in enumerate(tiles(*symbols[0].shape[1:])):
        tile = _Tile(np.stack([own[:, rows, columns] for own in symbols]), offsets[:, rows, columns])
        z = torch.from_numpy(np.stack([own[number] for own in hyper]))
        for positions, means, levels in network.passes(z, tile):
            passes.append((tile.known[..., positions], means, levels))

    def code(picture: int) -> CodedStream:
        coder = _encoder(tables, compiled=compiled)
        for z in hyper[picture]:
            coder.write(z.ravel(), *priors.of(picture, z.shape))
        hyper_bits = coder.bits
        for known, means, levels in passes:
            coder.write(known[picture].ravel(), means[picture].ravel(), levels[picture].ravel())
        data = coder.finish()
        return CodedStream(data, hyper_bits, 8 * len(data) - hyper_bits)

    def code_all() -> list[CodedStream]:
        with _threads(len(symbols)) as each:
            return each(code, range(len(symbols)))

    return code_all


def compress_many(
    model: ExactEntropyModel,
    tables: Tables,
    symbols: Sequence[Symbols],
    hyper: Sequence[Sequence[Symbols]],
    codes: Tensor,
) -> list[CodedStream]:
    """The result of prepare_many's function."""
    return prepare_many(model, tables, symbols, hyper, codes)()


@torch.no_grad()
def decompress_many(
    model: ExactEntropyModel,
    tables: Tables,
    streams: Sequence[bytes],
    shape: Size,
    codes: Tensor,
    *,
    canonical: bool = True,
) -> list[Symbols | BitstreamError]:
    """stream.decompress of each of the streams, all of latents of one shape, with alpha codes (B, 4).

    An invalid stream yields its error and does not affect the others.
    """
    if not _together(model, len(streams)):
        return [
            _decompressed(model, tables, data, shape, code, canonical=canonical)
            for data, code in zip(streams, codes.split(1), strict=True)
        ]
    compiled = canonical and model.device.type in COMPILED_ON
    readers = [_Reader(tables, data, canonical=canonical, compiled=compiled) for data in streams]
    network = _Network(model, codes)
    priors = network.priors()
    symbols = np.zeros((len(streams), CHANNELS, *shape), np.int32)
    offsets = symbol_offsets(model, symbols.shape[1:])
    cuts = list(tiles(*shape))
    with _threads(len(readers)) as each:

        def read_hyper(picture: int) -> list[Symbols]:
            found = []
            for rows, columns in cuts:
                z_shape = model.hyper_shape(rows.stop - rows.start, columns.stop - columns.start)
                found.append(readers[picture].read(*priors.of(picture, z_shape), HYPER_LIMIT).reshape(z_shape))
            return found

        def read(tile: _Tile, positions: Numbers, means: Numbers, levels: Numbers) -> None:
            def read_one(picture: int) -> None:
                found = readers[picture].read(means[picture].ravel(), levels[picture].ravel())
                tile.known[picture][:, positions] = found.reshape(CHANNELS, -1)

            each(read_one, range(len(readers)))

        hyper = each(read_hyper, range(len(readers)))
        for number, (rows, columns) in enumerate(cuts):
            tile = _Tile(symbols[:, :, rows, columns], offsets[:, rows, columns])
            z = torch.from_numpy(np.stack([own[number] for own in hyper]))
            for positions, means, levels in network.passes(z, tile):
                read(tile, positions, means, levels)
            symbols[:, :, rows, columns] = tile.symbols()
        each(lambda picture: readers[picture].close(), range(len(readers)))
    return [reader.error or own for reader, own in zip(readers, symbols, strict=True)]


def _decompressed(
    model: ExactEntropyModel, tables: Tables, data: bytes, shape: Size, code: Tensor, *, canonical: bool
) -> Symbols | BitstreamError:
    try:
        return decompress(model, tables, data, shape, code, canonical=canonical)
    except BitstreamError as error:
        return error


def _together(model: ExactEntropyModel, count: int) -> bool:
    """Whether a model supports batches: parallel order and no channel conditioning."""
    settings = model.settings
    if settings.order == "serial" or settings.channel_conditioning:
        return False
    return count > 1 or model.device.type == "cuda"  # on a GPU even one picture gains from graphs


class _Tile:
    """A tile of pictures (B, 4, h, w): its known symbols (B, 4, h w), and their offsets (4, h w) in 1/32."""

    def __init__(self, symbols: Symbols, offsets: Numbers) -> None:
        self.size: Size = (symbols.shape[2], symbols.shape[3])
        self.known = symbols.reshape(*symbols.shape[:2], -1).copy()
        self.offsets = offsets.reshape(CHANNELS, -1)

    def seen(self) -> Tensor:
        """The symbols as seen by the network, (B, h w, 4) float64."""
        seen = self.known - self.offsets * (1 / UNITS)
        return torch.from_numpy(np.ascontiguousarray(seen.transpose(0, 2, 1)))

    def symbols(self) -> Symbols:
        """(B, 4, h, w)."""
        return self.known.reshape(*self.known.shape[:2], *self.size)


class _Priors:
    """Means in 1/32 and levels of the hyper-latents' channels, (B, Z) each."""

    def __init__(self, means: Numbers, levels: Numbers) -> None:
        self._means = means
        self._levels = levels

    def of(self, picture: int, shape: tuple[int, ...]) -> tuple[Numbers, Numbers]:
        """A picture's, repeated for each position of a hyper-latent of this shape."""
        area = int(np.prod(shape[1:]))
        return np.repeat(self._means[picture], area), np.repeat(self._levels[picture], area)


class _Network:
    """An exact model on pictures with these alpha codes (B, 4).

    With graphs, batch sizes are powers of two: the batch is padded with its first picture, which changes no other
    result.
    """

    def __init__(self, model: ExactEntropyModel, codes: Tensor) -> None:
        self._model = model
        self._count = len(codes)
        self._room = self._count
        if (
            model.device.type in GRAPHED_ON
        ):  # each batch size needs a graph of its own; powers of two bound their number
            self._room = 1 << (self._count - 1).bit_length()
        self._codes = self._filled(codes)

    def priors(self) -> _Priors:
        """Of all pictures."""
        means, levels = self._model.prior(self._codes[: self._count])
        return _Priors(means.cpu().numpy(), levels.cpu().numpy())

    def passes(self, z: Tensor, tile: _Tile) -> Iterator[tuple[Numbers, Numbers, Numbers]]:
        """Both passes over a tile: raster indices (n,), means in 1/32 and levels (B, 4, n) of the symbols there.

        z is (B, Z, h', w'). The second pass uses the anchors, which are then known.
        """
        size = tile.size
        graphs = _graphs(self._model)
        first = anchor_mask(*size)
        positions = first.nonzero()[:, 0].numpy()
        hyper, means, levels = graphs.run(("first", size), self._first(size), self._filled(z), self._codes)
        yield positions, self._numbers(means) + tile.offsets[:, positions], self._numbers(levels)

        positions = (~first).nonzero()[:, 0].numpy()
        seen = self._filled(tile.seen())  # after the yield: the caller has read the anchors by now
        means, levels = graphs.run(("second", size), self._second(size), hyper, seen, self._codes)
        yield positions, self._numbers(means) + tile.offsets[:, positions], self._numbers(levels)

    def _filled(self, values: Tensor) -> Tensor:
        values = values.to(self._model.device)
        if self._room == self._count:
            return values
        filling = values[:1].expand(self._room - self._count, *values.shape[1:])
        return torch.cat([values, filling])

    def _numbers(self, values: Tensor) -> Numbers:
        return values[: self._count].cpu().numpy().astype(np.int64)

    def _first(self, size: Size) -> Callable[..., tuple[Tensor, ...]]:
        model = self._model
        positions = anchor_mask(*size).nonzero()[:, 0].to(model.device)

        def run(z: Tensor, codes: Tensor) -> tuple[Tensor, ...]:
            hyper = model.hyper(z, codes, size)
            return hyper, *self._distributions(hyper.index_select(1, positions), None, codes)

        return run

    def _second(self, size: Size) -> Callable[..., tuple[Tensor, ...]]:
        model = self._model
        first = anchor_mask(*size, model.device)
        wanted = ~first
        positions = wanted.nonzero()[:, 0]

        def run(hyper: Tensor, seen: Tensor, codes: Tensor) -> tuple[Tensor, ...]:
            context = model.context(seen, codes, size, first, wanted)
            return self._distributions(hyper.index_select(1, positions), context, codes)

        return run

    def _distributions(self, hyper: Tensor, context: Tensor | None, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Means in 1/32 and levels of all channels, (B, 4, n) int32."""
        model = self._model
        net = model.network.parameter_net
        math = model.math
        outputs = net.outer(math.leaky(net.base(hyper, context, math)))
        alpha, _, level = model.constants.rows(codes, torch.float64)
        means, levels = distributions(outputs, alpha, level, math)
        return torch.round(means * UNITS).int().transpose(1, 2), levels.int().transpose(1, 2)


def _graphs(model: ExactEntropyModel) -> Graphs:
    """A model's captured passes, stored with it."""
    kept: Graphs | None = getattr(model, "graphs", None)
    if kept is None:
        model.constants = model.constants.to(model.device)  # no copies to the device during capture
        kept = Graphs()
        model.graphs = kept  # type: ignore[attr-defined]
    return kept


def _encoder(tables: Tables, *, compiled: bool) -> SymbolEncoder:
    if compiled and has_compiled_coder():
        from codec.entropy.compiled import CompiledEncoder

        return CompiledEncoder(tables)
    return SymbolEncoder(tables)


def _decoder(tables: Tables, data: bytes, *, canonical: bool, compiled: bool) -> SymbolDecoder:
    if compiled and has_compiled_coder():
        from codec.entropy.compiled import CompiledDecoder

        return CompiledDecoder(tables, data)
    return SymbolDecoder(tables, data, canonical=canonical)


@functools.cache
def has_compiled_coder() -> bool:
    """Whether numba is installed (the extra `gpu`). Without it the coders run one after the other."""
    return importlib.util.find_spec("numba") is not None


class _Reader:
    """A decoder that returns zeros and keeps the error once its stream is found damaged."""

    def __init__(self, tables: Tables, data: bytes, *, canonical: bool, compiled: bool) -> None:
        self.error: BitstreamError | None = None
        self._decoder: SymbolDecoder | None = None
        try:
            self._decoder = _decoder(tables, data, canonical=canonical, compiled=compiled)
        except BitstreamError as error:
            self.error = error

    def read(self, means: Numbers, levels: Numbers, *limit: int) -> Symbols:
        """The next symbols (n,) int32, with distributions `means` and `levels`."""
        try:
            if self._decoder is not None and self.error is None:
                return self._decoder.read(means, levels, *limit)
        except BitstreamError as error:
            self.error = error
        return np.zeros(len(means), np.int32)

    def close(self) -> None:
        try:
            if self._decoder is not None and self.error is None:
                self._decoder.close()
        except BitstreamError as error:
            self.error = error


@contextmanager
def _threads(count: int) -> Iterator[Callable[[Callable[[Item], Result], Sequence[Item]], list[Result]]]:
    """Maps over pictures with min(pictures, processors) threads."""
    workers = min(count, processors.available())
    if workers < 2:
        yield lambda function, items: [function(item) for item in items]
        return
    with ThreadPoolExecutor(workers) as pool:
        yield lambda function, items: list(pool.map(function, items))
