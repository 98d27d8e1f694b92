"""Runs networks on pictures of any size: overlapping tiles whose outputs are cropped or blended."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from codec.diffusion.mini import MiniAutoencoder, MiniUNet

if TYPE_CHECKING:
    from diffusers import ModelMixin


@dataclass(frozen=True)
class Tiling:
    """How one network's input is tiled. All lengths are in latents, also for pixels.

    With a margin of at least the network's receptive field, tiling is exact. If that is the whole picture (attention,
    global statistics), neighbors are blended over a feather beyond the margin.
    """

    side: int
    """Longest side of a tile; inputs that fit one tile are not cut."""
    margin: int
    """Width that is computed and discarded on each side of a seam."""
    feather: int = 0
    """Width over which neighbors are blended."""
    multiple: int = 1
    """Tiles start at multiples of this, the network's coarsest grid."""

    def __post_init__(self) -> None:
        if self.side % self.multiple or self.side - self.overlap < 2 * (self.feather + self.multiple):
            raise ValueError(
                f"tiles of {self.side} do not fit an overlap of {self.overlap} and starts at {self.multiple}"
            )

    @property
    def overlap(self) -> int:
        """Minimum overlap of neighboring tiles."""
        return _rounded_up(2 * self.margin + self.feather, self.multiple)

    def cut(self, length: int) -> list[slice]:
        """The fewest tiles along one side of a picture, of nearly equal length, none longer than `side`."""
        if length <= self.side:
            return [slice(0, length)]
        count = -(-(length - self.overlap) // (self.side - self.overlap))
        # the shortest tiles that still cover the length, so that no tile is a narrow remainder
        even = -(-(length + (count - 1) * self.overlap) // count)
        side = min(self.side, _rounded_up(even, self.multiple))
        last = _rounded_up(length, self.multiple) - side
        tiles = []
        for i in range(count):
            start = i * last // (count - 1) // self.multiple * self.multiple
            tiles.append(slice(start, min(start + side, length)))
        return tiles


@dataclass(frozen=True)
class Tilings:
    """The tilings of a backbone's three networks."""

    encoder: Tiling
    decoder: Tiling
    unet: Tiling

    @classmethod
    def of(cls, autoencoder: "ModelMixin", unet: "ModelMixin") -> "Tilings":
        """Exact for networks with a known receptive field; other tiles have about the size of training pictures."""
        multiple = _multiple(unet.config)
        tilings = cls(Tiling(128, margin=4, feather=16), Tiling(96, 4, 16), Tiling(96, 4, 16, multiple))
        if isinstance(autoencoder, MiniAutoencoder):
            encoder = Tiling(256, margin=autoencoder.encoder_reach)
            tilings = replace(tilings, encoder=encoder, decoder=Tiling(256, margin=autoencoder.decoder_reach))
        if isinstance(unet, MiniUNet):
            tilings = replace(tilings, unet=Tiling(576, margin=unet.reach, multiple=multiple))
        return tilings


def bands(
    network: Callable[[slice, slice], Tensor], size: tuple[int, int], tiling: Tiling, *, scale: int = 1
) -> Iterator[Tensor]:
    """Runs a network on the tiles of a latent of size (h, w); yields its output in full-width bands from top to bottom.

    network maps a tile's rows and columns, in latents, to (B, C, scale * rows, scale * columns). The bands are
    (B, C, any height, scale * w); only those of two rows of tiles are in memory at a time. Gradients flow.
    """
    rows = tiling.cut(size[0])
    columns = tiling.cut(size[1])

    def strips() -> Iterator[Tensor]:
        for row in rows:
            tiles = [network(row, column) for column in columns]
            yield _beside(tiles, columns, tiling, scale)

    return _joined(strips(), rows, tiling, scale, dim=-2)


def whole(
    network: Callable[[slice, slice], Tensor], size: tuple[int, int], tiling: Tiling, *, scale: int = 1
) -> Tensor:
    """The output of `bands` as one tensor (B, C, scale * h, scale * w)."""
    return torch.cat(list(bands(network, size, tiling, scale=scale)), -2)


def continued(x: Tensor, multiple: int) -> Tensor:
    """(B, C, h, w) with its last row and column repeated up to multiples of `multiple`."""
    height, width = x.shape[-2:]
    return F.pad(x, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def _beside(tiles: list[Tensor], columns: list[slice], tiling: Tiling, scale: int) -> Tensor:
    return torch.cat(list(_joined(tiles, columns, tiling, scale, dim=-1)), -1)


def _joined(parts: Iterable[Tensor], spans: list[slice], tiling: Tiling, scale: int, dim: int) -> Iterator[Tensor]:
    """Yields parts to concatenate along dim: each without margins, blended with its predecessor."""
    # seams are blended over [seam, seam + feather), in the middle of the overlap
    seams = [(after.start + before.stop - tiling.feather) // 2 for before, after in itertools.pairwise(spans)]
    tail = None  # the predecessor's output on the seam, kept until its successor is computed
    for part, span, left, right in zip(parts, spans, [None, *seams], [*seams, None], strict=True):
        start = span.start if left is None else left + tiling.feather
        stop = span.stop if right is None else right
        if left is not None and tail is not None and tiling.feather:
            yield torch.lerp(tail, _part(part, span, left, start, scale, dim), _ramp(tail, dim))
        yield _part(part, span, start, stop, scale, dim)
        if right is not None:
            tail = _part(part, span, stop, stop + tiling.feather, scale, dim)


def _part(part: Tensor, span: slice, start: int, stop: int, scale: int, dim: int) -> Tensor:
    """The output of a tile for latents start..stop."""
    return part.narrow(dim, scale * (start - span.start), scale * (stop - start))


def _ramp(seam: Tensor, dim: int) -> Tensor:
    """Weights of the later tile, rising linearly across the seam."""
    width = seam.shape[dim]
    weights = (torch.arange(width, device=seam.device, dtype=seam.dtype) + 0.5) / width
    return weights if dim == -1 else weights[:, None]


def _rounded_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def _multiple(unet: Mapping[str, Any]) -> int:
    """Required divisor of a latent's sides: two to the number of halvings."""
    return int(2 ** (len(unet.get("block_out_channels") or unet["channels"]) - 1))
