"""A latent's symbols as one stream: tiles of 128 x 128 latents, the hyper-latents first, then both passes.

Order: the hyper-latents of all tiles; the anchors of all tiles; all other symbols of all tiles. Tiles in raster order;
hyper-latents by channel, row, column; latents by raster position, then channel.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.entropy.coder import SymbolDecoder, SymbolEncoder
from codec.entropy.entroformer import CHANNELS
from codec.entropy.integer import ExactEntropyModel
from codec.entropy.tables import Tables
from codec.entropy.windows import anchors, others

TILE = 128
"""Side of an independent tile in latents."""

Symbols = NDArray[np.int32]


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
    model: ExactEntropyModel, tables: Tables, symbols: Symbols, hyper: list[Symbols], codes: Tensor
) -> CodedStream:
    """Symbols (4, h, w) int32, the hyper-latent (Z, h', w') of each tile, alpha codes (1, 4) -> stream."""
    encoder = SymbolEncoder(tables)
    for z in hyper:
        encoder.write(z.ravel(), *_prior(model, codes, z.shape))
    hyper_bits = encoder.bits
    passes: list[list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]] = [[], []]
    for (rows, columns), z in zip(tiles(*symbols.shape[1:]), hyper, strict=True):
        tile = symbols[:, rows, columns]
        shape = (tile.shape[1], tile.shape[2])
        tokens = torch.from_numpy(np.ascontiguousarray(tile.reshape(CHANNELS, -1).T)).long()[None]
        features = model.hyper(torch.from_numpy(z)[None], codes, shape)
        first, rest = anchors(*shape), others(*shape)
        passes[0].append((_flat(tokens[:, first]), *_arrays(*model.first(features, codes, shape))))
        seen = torch.zeros_like(tokens).index_copy(1, first, tokens[:, first])
        passes[1].append((_flat(tokens[:, rest]), *_arrays(*model.second(features, seen, codes, shape, rest))))
    for values, means, levels in (item for half in passes for item in half):
        encoder.write(values.astype(np.int32), means, levels)
    data = encoder.finish()
    return CodedStream(data, hyper_bits, 8 * len(data) - hyper_bits)


@torch.no_grad()
def decompress(model: ExactEntropyModel, tables: Tables, data: bytes, shape: tuple[int, int], codes: Tensor) -> Symbols:
    """Stream -> symbols (4, h, w) int32. Raises BitstreamError for a stream that no encoder wrote."""
    decoder = SymbolDecoder(tables, data)
    symbols = np.zeros((CHANNELS, *shape), np.int32)
    places = list(tiles(*shape))
    sizes = [(rows.stop - rows.start, columns.stop - columns.start) for rows, columns in places]
    hyper = []
    for size in sizes:
        z_shape = model.hyper_shape(*size)
        hyper.append(decoder.read(*_prior(model, codes, z_shape)).reshape(z_shape))
    features, tokens = [], []
    for size, z in zip(sizes, hyper, strict=True):
        features.append(model.hyper(torch.from_numpy(z)[None], codes, size))
        decoded = decoder.read(*_arrays(*model.first(features[-1], codes, size)))
        seen = torch.zeros(1, size[0] * size[1], CHANNELS, dtype=torch.long)
        tokens.append(seen.index_copy(1, anchors(*size), torch.from_numpy(decoded).long().view(1, -1, CHANNELS)))
    for (rows, columns), size, feature, seen in zip(places, sizes, features, tokens, strict=True):
        rest = others(*size)
        decoded = decoder.read(*_arrays(*model.second(feature, seen, codes, size, rest)))
        seen = seen.index_copy(1, rest, torch.from_numpy(decoded).long().view(1, -1, CHANNELS))
        symbols[:, rows, columns] = seen[0].T.reshape(CHANNELS, *size).numpy()
    decoder.close()
    return symbols


def _prior(
    model: ExactEntropyModel, codes: Tensor, shape: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The prior's means and levels, repeated for each place of a hyper-latent of this shape."""
    area = int(np.prod(shape[1:]))
    means, levels = _arrays(*model.prior(codes))
    return np.repeat(means, area), np.repeat(levels, area)


def _arrays(means: Tensor, levels: Tensor) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return _flat(means), _flat(levels)


def _flat(values: Tensor) -> NDArray[np.int64]:
    return np.ascontiguousarray(values.flatten().cpu().numpy())
