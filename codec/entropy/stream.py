"""A latent's symbols as one stream: tiles of 128 x 128 latents, the hyper-latents first, then the latents.

Tiles come in raster order, and hyper-latents by channel, row, column. In parallel order a tile's latents are its
anchors, then the others, either by channel and then position; in serial order they go by position, then channel.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.entropy.coder import SymbolDecoder, SymbolEncoder
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
    """A finished stream and the bits that its two parts take."""

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
    encoder = encoder or SymbolEncoder(tables)
    for z in hyper:
        encoder.write(z.ravel(), *_prior(model, codes, z.shape))
    hyper_bits = encoder.bits
    write = _write_raster if model.settings.order == "serial" else _write_passes
    for (rows, columns), z in zip(tiles(*symbols.shape[1:]), hyper, strict=True):
        size, tokens = _size(rows, columns), _tokens(symbols[:, rows, columns])
        write(encoder, model, tokens, model.hyper(torch.from_numpy(z)[None], codes, size), codes, size)
    data = encoder.finish()
    return CodedStream(data, hyper_bits, 8 * len(data) - hyper_bits)


@torch.no_grad()
def decompress(model: ExactEntropyModel, tables: Tables, data: bytes, shape: tuple[int, int], codes: Tensor) -> Symbols:
    """Stream -> symbols (4, h, w) int32. Raises BitstreamError for a stream that no encoder wrote."""
    decoder = SymbolDecoder(tables, data)
    symbols = np.zeros((CHANNELS, *shape), np.int32)
    places = [(rows, columns, _size(rows, columns)) for rows, columns in tiles(*shape)]
    hyper = []
    for _, _, size in places:
        z_shape = model.hyper_shape(*size)
        hyper.append(decoder.read(*_prior(model, codes, z_shape), HYPER_LIMIT).reshape(z_shape))
    read = _read_raster if model.settings.order == "serial" else _read_passes
    for (rows, columns, size), z in zip(places, hyper, strict=True):
        tokens = read(decoder, model, model.hyper(torch.from_numpy(z)[None], codes, size), codes, size)
        symbols[:, rows, columns] = tokens[0].T.reshape(CHANNELS, *size).numpy()
    decoder.close()
    return symbols


def _write_passes(
    encoder: SymbolEncoder, model: ExactEntropyModel, tokens: Tensor, hyper: Tensor, codes: Tensor, shape: Size
) -> None:
    """Tokens (1, h w, 4) of a tile: the anchors, then the others; each channel by channel."""
    for places, parameters in _passes(model, tokens, hyper, codes, shape):
        chosen = tokens[:, places]
        means, levels = parameters.of_all(chosen)
        encoder.write(_flat(chosen.transpose(1, 2)).astype(np.int32), _flat(means), _flat(levels))


def _read_passes(decoder: SymbolDecoder, model: ExactEntropyModel, hyper: Tensor, codes: Tensor, shape: Size) -> Tensor:
    tokens = torch.zeros(1, shape[0] * shape[1], CHANNELS, dtype=torch.long)
    for places, parameters in _passes(model, tokens, hyper, codes, shape):
        chosen = tokens[:, places]
        for channel in range(CHANNELS):
            means, levels = parameters.of_channel(chosen, channel)
            chosen[0, :, channel] = torch.from_numpy(decoder.read(_flat(means), _flat(levels))).long()
        tokens[:, places] = chosen
    return tokens


def _passes(
    model: ExactEntropyModel, tokens: Tensor, hyper: Tensor, codes: Tensor, shape: Size
) -> Iterator[tuple[Tensor, Parameters]]:
    """Raster indices and distributions of both passes; the second looks at the anchors in tokens when asked for."""
    first = anchor_mask(*shape)
    places = first.nonzero()[:, 0]
    yield places, model.parameters(hyper[:, places], None, codes)
    places = (~first).nonzero()[:, 0]
    yield places, model.parameters(hyper[:, places], model.context(tokens, codes, shape, first, ~first), codes)


def _write_raster(
    encoder: SymbolEncoder, model: ExactEntropyModel, tokens: Tensor, hyper: Tensor, codes: Tensor, shape: Size
) -> None:
    """Tokens (1, h w, 4) of a tile in raster order, the channels of a position one after the other."""
    means, levels = model.parameters(hyper, model.context(tokens, codes, shape), codes).of_all(tokens)
    encoder.write(_flat(tokens).astype(np.int32), *(_flat(values.transpose(1, 2)) for values in (means, levels)))


def _read_raster(decoder: SymbolDecoder, model: ExactEntropyModel, hyper: Tensor, codes: Tensor, shape: Size) -> Tensor:
    tokens = torch.zeros(1, shape[0] * shape[1], CHANNELS, dtype=torch.long)
    context = model.raster(codes, shape)
    for place in range(tokens.shape[1]):
        parameters = model.parameters(hyper[:, place : place + 1], context(tokens), codes)
        for channel in range(CHANNELS):
            means, levels = parameters.of_channel(tokens[:, place : place + 1], channel)
            tokens[0, place, channel] = int(decoder.read(_flat(means), _flat(levels))[0])
    return tokens


def _size(rows: slice, columns: slice) -> Size:
    return rows.stop - rows.start, columns.stop - columns.start


def _tokens(tile: Symbols) -> Tensor:
    """(4, rows, columns) -> (1, rows columns, 4) int64."""
    return torch.from_numpy(np.ascontiguousarray(tile.reshape(CHANNELS, -1).T)).long()[None]


def _prior(
    model: ExactEntropyModel, codes: Tensor, shape: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The prior's means and levels, repeated for each place of a hyper-latent of this shape."""
    area = int(np.prod(shape[1:]))
    means, levels = map(_flat, model.prior(codes))
    return np.repeat(means, area), np.repeat(levels, area)


def _flat(values: Tensor) -> NDArray[np.int64]:
    return np.ascontiguousarray(values.flatten().cpu().numpy())
