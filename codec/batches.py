"""Codes pictures of one size together: the implementation behind Codec's batch methods.

A batch has slots. The result of a slot depends only on its picture, its index and the batch's shape, because shapes
determine the order in which floating-point networks add numbers. An empty slot is therefore filled with gray, and the
other slots give the same bytes.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.entropy.many import decompress_many, prepare_many
from codec.entropy.rate import hyper_latent
from codec.entropy.stream import Symbols, tiles
from codec.errors import BitstreamError
from codec.format.bitstream import FdcFile
from codec.format.chunks import of_picture
from codec.images import Picture, to_tensor
from codec.quantization import quantizer
from codec.quantization.parameters import QuantizationParameters, quality_of_code

if TYPE_CHECKING:
    from codec.codec import Codec, Encoded

GRAY = 128
MOST_POSITIONS = 2**17
"""Latent positions that the exact network processes together, those of 8 megapixels."""
_Kind = tuple[tuple[int, int], bool]
Pixels = NDArray[np.uint8]


@torch.no_grad()
def encode(
    codec: "Codec", pictures: Mapping[int, Picture], count: int, quality_code: int
) -> Callable[[], dict[int, "Encoded"]]:
    """Returns a function that finishes the files of pictures in a batch of `count`; the networks have already run."""
    if not pictures:
        return dict
    _check("pictures", {picture.pixels.shape[:2] for picture in pictures.values()}, pictures, count)
    gray = np.full_like(next(iter(pictures.values())).pixels, GRAY)
    slots = []
    for position in range(count):
        pixels = pictures[position].pixels if position in pictures else gray
        slots.append(to_tensor(pixels))
    y = codec.backbone.encode(torch.stack(slots).to(codec.backbone.device))
    # one latent at a time: the statistics behind the parameters must not depend on the batch
    parameters = [codec._parameters(own, quality_of_code(quality_code)) for own in y.split(1)]
    scaled = torch.cat([own.alpha for own in parameters]).to(y.device) * y
    whole = _integers(quantizer.quantize(scaled, torch.ones(1, device=y.device), codec.dither(y)))
    codes = torch.cat([own.channel_codes for own in parameters])
    on_device = codes.to(y.device)
    hyper = []
    for rows, columns in tiles(*whole.shape[2:]):
        z = hyper_latent(codec.encoder, scaled[..., rows, columns], on_device, codec.constants)
        hyper.append(_integers(z.round()))
    # from here on numbers are exact, so empty slots are left out
    taken = sorted(pictures)
    symbols = [whole[position] for position in taken]
    hyper_by_picture = [[z[position] for z in hyper] for position in taken]
    code = prepare_many(codec.entropy, codec.tables, symbols, hyper_by_picture, codes[taken])

    def files() -> dict[int, "Encoded"]:
        found = {}
        for position, own, coded in zip(taken, symbols, code(), strict=True):
            picture = pictures[position]
            chunks = of_picture(picture)
            found[position] = codec._packed(picture, chunks, quality_code, parameters[position], own, coded)
        return found

    return files


def symbols_of(codec: "Codec", files: Sequence[FdcFile]) -> list[Symbols | BitstreamError]:
    """The symbols of each file, or its error. Files of one size are decoded together."""
    alike: dict[_Kind, list[int]] = defaultdict(list)
    for position, file in enumerate(files):
        alike[file.latent_shape, file.version > 1].append(position)
    found: dict[int, Symbols | BitstreamError] = {}
    for (shape, canonical), positions in _portions(alike):
        streams = [files[position].stream for position in positions]
        codes = torch.cat([files[position].parameters.channel_codes for position in positions])
        symbols = decompress_many(codec.entropy, codec.tables, streams, shape, codes, canonical=canonical)
        found |= zip(positions, symbols, strict=True)
    return [found[position] for position in range(len(files))]


def _portions(alike: dict[_Kind, list[int]]) -> Iterator[tuple[_Kind, list[int]]]:
    """Yields indices of files of a kind, as many at a time as memory allows."""
    for (shape, canonical), positions in alike.items():
        most = max(1, MOST_POSITIONS // (shape[0] * shape[1]))
        for start in range(0, len(positions), most):
            yield (shape, canonical), positions[start : start + most]


@torch.no_grad()
def decode(codec: "Codec", files: Sequence[FdcFile]) -> list[Pixels]:
    """The pixels of each file. Files of one size and number of steps are decoded together."""
    symbols: list[Symbols] = []
    for found in symbols_of(codec, files):
        if isinstance(found, BitstreamError):
            raise found
        symbols.append(found)
    alike: dict[tuple[int, int, bool, bool], list[int]] = defaultdict(list)
    for position, file in enumerate(files):
        alike[file.width, file.height, file.gray, _stepped(file)].append(position)
    pixels: dict[int, Pixels] = {}
    for (width, height, gray, _), positions in alike.items():
        together = np.stack([symbols[position] for position in positions])
        k = torch.from_numpy(together).to(codec.backbone.device).float()
        parameters = [files[position].parameters for position in positions]
        pixels |= zip(positions, codec._restore(k, parameters, (height, width), gray), strict=True)
    return [pixels[position] for position in range(len(files))]


@torch.no_grad()
def reconstruct(
    codec: "Codec", files: Mapping[int, FdcFile], symbols: Mapping[int, Symbols], count: int
) -> dict[int, Pixels]:
    """The pixels of files of one size with known symbols, in slots of a batch of `count`."""
    _check("files", {(file.height, file.width) for file in files.values()}, files, count)
    alike: dict[tuple[bool, bool], list[int]] = defaultdict(list)
    for position, file in files.items():
        alike[file.gray, _stepped(file)].append(position)
    found: dict[int, Pixels] = {}
    for (gray, stepped), positions in alike.items():
        first = files[positions[0]]
        k = torch.zeros(count, *symbols[positions[0]].shape)
        # empty slots need valid parameters, with a timestep if the others have one
        parameters = [QuantizationParameters(first.parameters.alpha_codes, int(stepped))] * count
        for position in positions:
            k[position] = torch.from_numpy(symbols[position])
            parameters[position] = files[position].parameters
        pixels = codec._restore(k.to(codec.backbone.device), parameters, (first.height, first.width), gray)
        found |= {position: pixels[position] for position in positions}
    return found


def _check(what: str, sizes: set[tuple[int, ...]], positions: Mapping[int, object], count: int) -> None:
    if len(sizes) > 1:
        raise ValueError(f"{what} in a batch must have one size")
    if not all(0 <= position < count for position in positions):
        raise ValueError(f"a batch of {count} has no slots {sorted(positions)}")


def _integers(x: Tensor) -> Symbols:
    return x.cpu().numpy().astype(np.int32)


def _stepped(file: FdcFile) -> bool:
    """Whether decoding runs the U-Net."""
    return bool(file.parameters.timestep_code)
