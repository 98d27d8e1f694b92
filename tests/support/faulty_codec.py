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

TALL, WIDE = (80, 64), (64, 80)
"""Heights and widths of the pictures that go wrong, each in its own way."""


LIES: Mapping[tuple[int, int], Callable[[FdcFile], FdcFile]] = {
    (40, 48): lambda file: replace(file, parameters=replace(file.parameters, timestep_code=8)),
    (40, 64): lambda file: replace(file, gray=not file.gray),
    (40, 72): lambda file: replace(file, width=file.width - 1),
}
"""By height and width of a picture: another header before a stream that decodes to the same symbols."""


class Lying(Codec):
    """Writes a header that says another picture than the one that was encoded."""

    def encode(self, picture: Picture, *arguments: Any, **options: Any) -> Encoded:
        encoded = super().encode(picture, *arguments, **options)
        if Path(sys.argv[0]).stem != "encode_worker":
            return encoded
        return replace(encoded, data=pack(LIES[picture.pixels.shape[:2]](parse(encoded.data))))


class Faulty(Codec):
    """Takes reversed CDF tables for a tall picture, and turns a bit in the stream of a wide one."""

    def encode(self, picture: Picture, *arguments: Any, **options: Any) -> Encoded:
        size, tables = picture.pixels.shape[:2], self.tables
        encoding = Path(sys.argv[0]).stem == "encode_worker"
        right = tables.counts
        if encoding and size == TALL:
            tables.counts = np.concatenate([piece[::-1] for piece in np.split(right, tables.starts[1:-1])])
        encoded = super().encode(picture, *arguments, **options)
        tables.counts = right
        if not encoding or size != WIDE:
            return encoded
        body = bytearray(encoded.data[:-4])
        body[len(body) // 2] ^= 0x10
        return replace(encoded, data=bytes(body) + zlib.crc32(body).to_bytes(4, "little"))


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
