"""A latent's symbols as one stream: tiles of 128 x 128 latents, the hyper-latents first, then the latents.

Tiles come in raster order, and hyper-latents by channel, row, column. In parallel order a tile's latents are its
anchors, then the others, either by channel and then position; in serial order they go by position, then channel.

With dither the network works on *seen* values, symbols minus their offsets. A symbol's mean is its seen value's mean
plus its offset; both are whole 32nds, so the sum is exact.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.entropy.coder import SymbolDecoder, SymbolEncoder
from codec.entropy.dither import UNITS, offsets
from codec.entropy.entroformer import CHANNELS
from codec.entropy.integer import ExactEntropyModel, Parameters
from codec.entropy.rate import HYPER_LIMIT
from codec.entropy.tables import Tables
from codec.entropy.windows import anchor_mask

TILE = 128
"""Side of an independent tile in latents."""

Symbols = NDArray[np.int32]
Size = tuple[int, int]


@dataclass(frozen=True)
class CodedStream:
    """A finished stream and the bits of its two parts."""

    data: bytes
    hyper_bits: int
    latent_bits: int


def tiles(height: int, width: int) -> Iterator[tuple[slice, slice]]:
    """The tiles of a latent in raster order."""
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            yield slice(top, min(top + TILE, height)), slice(left, min(left + TILE, width))


@torch.no_grad()
def compress(
    model: ExactEntropyModel,
    tables: Tables,
    symbols: Symbols,
    hyper: list[Symbols],
    codes: Tensor,
    *,
    encoder: SymbolEncoder | None = None,
) -> CodedStream:
    """Symbols (4, h, w) int32, the hyper-latent (Z, h', w') of each tile, alpha codes (1, 4) -> stream."""
    if encoder is None:
        encoder = SymbolEncoder(tables)
    for z in hyper:
        encoder.write(z.ravel(), *_prior(model, codes, z.shape))
    hyper_bits = encoder.bits
    write = _write_raster if model.settings.order == "serial" else _write_passes
    shift = symbol_offsets(model, symbols.shape)
    for (rows, columns), z in zip(tiles(*symbols.shape[1:]), hyper, strict=True):
        size = _size(rows, columns)
        tokens = _Tokens(_raster(symbols[:, rows, columns]), _raster(shift[:, rows, columns]))
        features = model.hyper(torch.from_numpy(z)[None], codes, size)
        write(encoder, model, tokens, features, codes, size)
    data = encoder.finish()
    return CodedStream(data, hyper_bits, 8 * len(data) - hyper_bits)


@torch.no_grad()
def decompress(
    model: ExactEntropyModel,
    tables: Tables,
    data: bytes,
    shape: tuple[int, int],
    codes: Tensor,
    *,
    canonical: bool = True,
) -> Symbols:
    """Stream -> symbols (4, h, w) int32. Raises BitstreamError for an invalid stream.

    Files of version 1 need `canonical` false: they may have an extra word.
    """
    decoder = SymbolDecoder(tables, data, canonical=canonical)
    symbols = np.zeros((CHANNELS, *shape), np.int32)
    shift = symbol_offsets(model, symbols.shape)
    # the stream has the hyper-latents of all tiles first, so a damaged one is found before the network runs
    hyper = []
    for rows, columns in tiles(*shape):
        z_shape = model.hyper_shape(*_size(rows, columns))
        hyper.append(decoder.read(*_prior(model, codes, z_shape), HYPER_LIMIT).reshape(z_shape))
    read = _read_raster if model.settings.order == "serial" else _read_passes
    for (rows, columns), z in zip(tiles(*shape), hyper, strict=True):
        size = _size(rows, columns)
        unread = torch.zeros(1, size[0] * size[1], CHANNELS, dtype=torch.long)
        tokens = _Tokens(unread, _raster(shift[:, rows, columns]))
        features = model.hyper(torch.from_numpy(z)[None], codes, size)
        read(decoder, model, tokens, features, codes, size)
        symbols[:, rows, columns] = tokens.symbols[0].T.reshape(CHANNELS, *size).numpy()
    decoder.close()
    return symbols


class _Tokens:
    """The symbols of a tile and their offsets in 1/32, (1, h w, 4) int64 each."""

    def __init__(self, symbols: Tensor, offsets: Tensor) -> None:
        self.symbols = symbols
        self.offsets = offsets

    def seen(self, positions: Tensor | slice = slice(None)) -> Tensor:
        """Symbols at some positions as seen by the network, (1, n, 4) float64."""
        return self.symbols[:, positions] - self.offsets[:, positions].double() * (1 / UNITS)


def _write_passes(
    encoder: SymbolEncoder, model: ExactEntropyModel, tokens: _Tokens, hyper: Tensor, codes: Tensor, shape: Size
) -> None:
    """A tile: the anchors, then the others; each channel by channel."""
    for positions, parameters in _passes(model, tokens, hyper, codes, shape):
        means, levels = parameters.of_all(tokens.seen(positions))
        # to channel by channel, the order in which the decoder needs them
        symbols = _flat(tokens.symbols[:, positions].transpose(1, 2))
        shift = _flat(tokens.offsets[:, positions].transpose(1, 2))
        encoder.write(symbols.astype(np.int32), _flat(means) + shift, _flat(levels))


def _read_passes(
    decoder: SymbolDecoder, model: ExactEntropyModel, tokens: _Tokens, hyper: Tensor, codes: Tensor, shape: Size
) -> None:
    for positions, parameters in _passes(model, tokens, hyper, codes, shape):
        for channel in range(CHANNELS):
            means, levels = parameters.of_channel(tokens.seen(positions), channel)
            shift = _flat(tokens.offsets[:, positions, channel])
            symbols = decoder.read(_flat(means) + shift, _flat(levels))
            tokens.symbols[0, positions, channel] = torch.from_numpy(symbols).long()


def _passes(
    model: ExactEntropyModel, tokens: _Tokens, hyper: Tensor, codes: Tensor, shape: Size
) -> Iterator[tuple[Tensor, Parameters]]:
    """Raster indices and distributions of both passes; the second uses the anchors in tokens when it is evaluated."""
    first = anchor_mask(*shape)
    positions = first.nonzero()[:, 0]
    yield positions, model.parameters(hyper[:, positions], None, codes)
    positions = (~first).nonzero()[:, 0]
    context = model.context(tokens.seen(), codes, shape, first, ~first)
    yield positions, model.parameters(hyper[:, positions], context, codes)


def _write_raster(
    encoder: SymbolEncoder, model: ExactEntropyModel, tokens: _Tokens, hyper: Tensor, codes: Tensor, shape: Size
) -> None:
    """A tile in raster order, the channels of a position one after the other."""
    seen = tokens.seen()
    context = model.context(seen, codes, shape)
    means, levels = model.parameters(hyper, context, codes).of_all(seen)
    coded = _flat(means.transpose(1, 2)) + _flat(tokens.offsets)
    encoder.write(_flat(tokens.symbols).astype(np.int32), coded, _flat(levels.transpose(1, 2)))


def _read_raster(
    decoder: SymbolDecoder, model: ExactEntropyModel, tokens: _Tokens, hyper: Tensor, codes: Tensor, shape: Size
) -> None:
    context = model.raster(codes, shape)
    seen = torch.zeros(tokens.symbols.shape, dtype=torch.float64)
    for position in range(tokens.symbols.shape[1]):
        parameters = model.parameters(hyper[:, position : position + 1], context(seen), codes)
        for channel in range(CHANNELS):
            means, levels = parameters.of_channel(seen[:, position : position + 1], channel)
            shift = int(tokens.offsets[0, position, channel])
            symbol = int(decoder.read(_flat(means) + shift, _flat(levels))[0])
            tokens.symbols[0, position, channel] = symbol
            seen[0, position, channel] = symbol - shift / UNITS


def symbol_offsets(model: ExactEntropyModel, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """The offsets of all symbols, (4, h, w); zeros without dither."""
    if not model.settings.dither:
        return np.zeros(shape, np.int64)
    channels, height, width = shape
    return offsets(channels, height, width)


def _size(rows: slice, columns: slice) -> Size:
    return rows.stop - rows.start, columns.stop - columns.start


def _raster(tile: NDArray[Any]) -> Tensor:
    """(4, rows, columns) -> (1, rows columns, 4) int64."""
    return torch.from_numpy(np.ascontiguousarray(tile.reshape(CHANNELS, -1).T)).long()[None]


def _prior(
    model: ExactEntropyModel, codes: Tensor, shape: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The prior's means and levels, repeated for each position of a hyper-latent of this shape."""
    area = int(np.prod(shape[1:]))
    means, levels = map(_flat, model.prior(codes))
    return np.repeat(means, area), np.repeat(levels, area)


def _flat(values: Tensor) -> NDArray[np.int64]:
    return np.ascontiguousarray(values.flatten().cpu().numpy())
