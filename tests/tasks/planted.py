"""Codecs that go wrong in the encoding process only, as a machine with a fault in its memory would."""

import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from codec.codec import DEFAULT_QUALITY as DEFAULT_QUALITY  # the processes ask the codec's module for it
from codec.codec import Codec, Encoded


def _encoding() -> bool:
    return Path(sys.argv[0]).stem == "worker"


class WrongTable(Codec):
    """Encodes with CDF tables whose counts stand in reverse order."""

    @classmethod
    def load(cls, *arguments: Any, **options: Any) -> "WrongTable":
        codec: Any = super().load(*arguments, **options)
        if _encoding():
            tables = codec.tables
            pieces = np.split(tables.counts, tables.starts[1:-1])
            tables.counts = np.concatenate([piece[::-1] for piece in pieces])
        return codec  # type: ignore[no-any-return]


class WrongStream(Codec):
    """Writes a file in whose stream one bit is turned, with the checksum of what it wrote."""

    def encode(self, *arguments: Any, **options: Any) -> Encoded:
        encoded = super().encode(*arguments, **options)
        body = bytearray(encoded.data[:-4])
        body[len(body) // 2] ^= 0x10
        return replace(encoded, data=bytes(body) + zlib.crc32(body).to_bytes(4, "little"))
