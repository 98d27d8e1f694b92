"""A codec that goes wrong in the encoding process only, as a machine with a fault in its memory would."""

import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from codec.codec import DEFAULT_QUALITY as DEFAULT_QUALITY  # the processes ask the codec's module for it
from codec.codec import Codec, Encoded
from codec.errors import BitstreamError
from codec.format.bitstream import FdcFile, pack, parse
from codec.format.content import Content
from codec.images import Picture

TALL = (80, 64)
WIDE = (64, 80)
"""Heights and widths of the pictures that go wrong, each in its own way."""


def _other_timestep(file: FdcFile) -> FdcFile:
    return replace(file, parameters=replace(file.parameters, timestep_code=8))


def _other_color(file: FdcFile) -> FdcFile:
    return replace(file, gray=not file.gray)


def _other_width(file: FdcFile) -> FdcFile:
    # One pixel less of 72 is still nine latents, so the symbols agree and only the header lies.
    return replace(file, width=file.width - 1)


LIES: Mapping[tuple[int, int], Callable[[FdcFile], FdcFile]] = {
    (40, 48): _other_timestep,
    (40, 64): _other_color,
    (40, 72): _other_width,
}
"""By height and width of a picture: another header before a stream that decodes to the same symbols."""


class Lying(Codec):
    """Writes a header that describes another picture than the one that was encoded."""

    def encode(self, picture: Picture, *arguments: Any, **options: Any) -> Encoded:
        encoded = super().encode(picture, *arguments, **options)
        # The process that verifies must stay sound, or it would agree with the lie.
        if not _in_encoding_process():
            return encoded
        lie = LIES[picture.pixels.shape[:2]]
        return replace(encoded, data=pack(lie(parse(encoded.data))))


class Faulty(Codec):
    """Encodes a tall picture with reversed CDF tables, and flips a bit in the stream of a wide one."""

    def encode(self, picture: Picture, *arguments: Any, **options: Any) -> Encoded:
        size = picture.pixels.shape[:2]
        tables = self.tables
        encoding = _in_encoding_process()
        right = tables.counts
        if encoding and size == TALL:
            pieces = np.split(right, tables.starts[1:-1])
            # Reversed counts still sum to 2**24: a table that the coder accepts, and that no decoder has.
            tables.counts = np.concatenate([piece[::-1] for piece in pieces])
        encoded = super().encode(picture, *arguments, **options)
        tables.counts = right
        if not encoding or size != WIDE:
            return encoded
        body = bytearray(encoded.data[:-4])
        body[len(body) // 2] ^= 0x10
        # With a CRC that fits, so that only decoding can find the fault.
        return replace(encoded, data=bytes(body) + zlib.crc32(body).to_bytes(4, "little"))


def _in_encoding_process() -> bool:
    return Path(sys.argv[0]).stem == "encode_worker"


class LyingCard(Codec):
    """Decodes other symbols on the device that plays a card, whose name is `cpu:0`."""

    device = ""

    @classmethod
    def load(cls, *arguments: Any, device: str = "cpu", **options: Any) -> "Codec":
        loaded = super().load(*arguments, device=device, **options)
        loaded.device = device  # type: ignore[attr-defined]
        return loaded

    def _content(self, content: Content | BitstreamError) -> Content | BitstreamError:
        if self.device != "cpu:0" or isinstance(content, BitstreamError):
            return content
        return replace(content, symbols=content.symbols + 1)

    def content(self, data: bytes, **options: Any) -> Content:
        return cast(Content, self._content(super().content(data, **options)))

    def contents(self, files: Sequence[bytes], **options: Any) -> list[Content | BitstreamError]:
        return [self._content(content) for content in super().contents(files, **options)]
