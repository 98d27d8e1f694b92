"""A codec of the same API as codec.Codec without networks, which certain pictures make misbehave.

Symbols are color block means of 8x8 pixels; the file is a header and deflated pixels with their low bits cut off.
"""

import hashlib
import os
import signal
import struct
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from codec.containers import reading
from codec.containers.inspect import inspect
from codec.containers.structure import Structure
from codec.errors import BitstreamError, BundleError, ImageError, QualityError
from codec.format.content import Content
from codec.images import Picture

DEFAULT_QUALITY = 4.0
FAKE = "tests.support.fake_codec:FakeCodec"
OUT_OF_REACH = 90.0
"""A floor in dB that no file of this codec meets."""

CRASH, HANG, KILLED, RAISE, CORRUPT, GROW, UNSUPPORTED, EAT = range(1, 9)
"""Values of the first pixel's red, after (., 13, 37), that make encoding go wrong."""
FAULT = b"FAULT "
"""How a file begins that makes reading go wrong."""
FAULTS_OF_READING = {b"crash": CRASH, b"memory": EAT, b"endless": HANG}
"""The rest of such a file, and what happens."""


@dataclass(frozen=True)
class Encoded:
    data: bytes
    content: Content
    quality: float
    timestep: float
    steps: int
    latent_bits: int
    side_bits: int

    @property
    def symbols(self) -> NDArray[np.int32]:
        return self.content.symbols


@dataclass(frozen=True)
class FakeBundle:
    """A folder whose file `salt` makes one bundle's files unreadable with another."""

    path: Path
    config = SimpleNamespace(backbone_source="embedded")

    @property
    def salt(self) -> bytes:
        return (self.path / "salt").read_bytes()

    @property
    def id(self) -> str:
        return hashlib.sha256(self.salt).hexdigest()


class FakeCodec:
    def __init__(self, bundle: FakeBundle) -> None:
        self.bundle = bundle

    @classmethod
    def load(cls, bundle: str | None = None, *, device: str = "cpu", backbone: str | None = None) -> "FakeCodec":
        if bundle is None or not (Path(bundle) / "salt").is_file():
            raise BundleError(f"{bundle}: no bundle here; name a folder with one")
        # Files are inspected in the process that decodes them: the one that loads a codec.
        reading.inspect = _inspect
        return cls(FakeBundle(Path(bundle)))

    def encode(self, picture: Picture, *, quality: float = DEFAULT_QUALITY, effort: int = 0) -> Encoded:
        return self._encode(picture, quality)

    def encode_to_bpp(self, picture: Picture, bits_per_pixel: float, *, effort: int = 0) -> Encoded:
        return self._encode(picture, bits_per_pixel)

    def encode_to_quality(
        self,
        picture: Picture,
        *,
        min_psnr_db: float | None = None,
        max_lpips: float | None = None,
        above: float = 0,
        effort: int = 0,
    ) -> Encoded:
        if (min_psnr_db or 0) > OUT_OF_REACH:
            raise QualityError(f"no file reaches {min_psnr_db} dB")
        return self._encode(picture, 2 * above, mask=0xF0)

    def begin_many(
        self, pictures: Mapping[int, Picture], count: int, *, quality: float = DEFAULT_QUALITY
    ) -> Callable[[], dict[int, Encoded]]:
        """Files that say in which place of a batch of how many they were made, as real ones do in their last bits."""
        found = {}
        for place, picture in pictures.items():
            encoded = self._encode(picture, quality)
            if count > 1:
                encoded = replace(encoded, data=encoded.data + bytes([place, count]))
            found[place] = encoded
        return lambda: found

    def _encode(self, picture: Picture, quality: float, mask: int = 0xE0) -> Encoded:
        pixels = picture.pixels & mask
        red, *marker = picture.pixels[0, 0].tolist()
        fault = red if marker == [13, 37] else 0
        misbehave(fault)
        payload = zlib.compress(pixels.tobytes(), level())
        if fault == GROW:
            payload += bytes(100_000)
        if fault == CORRUPT:
            # The file decodes, but to other symbols than those that the encoder says it wrote.
            data = self._pack(picture, zlib.compress((pixels ^ 0x80).tobytes()))
        else:
            data = self._pack(picture, payload)
        content = _content(picture.width, picture.height, _symbols(picture.pixels & mask))
        return Encoded(data, content, quality, 12.5, 3, 8 * len(payload), 16)

    def _pack(self, picture: Picture, payload: bytes) -> bytes:
        size = struct.pack("<IIB", picture.width, picture.height, picture.orientation)
        return self.bundle.salt[:4].ljust(4) + size + payload

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        if data[:4] != self.bundle.salt[:4].ljust(4):
            raise BitstreamError("written with another bundle")
        width, height = struct.unpack("<II", data[4:12])
        try:
            # zlib.decompress would refuse the bytes that begin_many appends.
            stream = zlib.decompressobj()
            pixels = stream.decompress(data[13:])
        except zlib.error as error:
            raise BitstreamError("damaged") from error
        if not stream.eof:  # cut short, of which a decompressobj does not complain
            raise BitstreamError("damaged")
        return np.frombuffer(pixels, np.uint8).reshape(height, width, 3)

    def decode_picture(self, data: bytes) -> Picture:
        return Picture(self.decode(data), orientation=data[12])

    def reconstruct(self, data: bytes, symbols: NDArray[np.int32]) -> NDArray[np.uint8]:
        return self.decode(data)

    def reconstruct_many(
        self, files: Mapping[int, tuple[bytes, NDArray[np.int32]]], count: int
    ) -> dict[int, NDArray[np.uint8]]:
        return {place: self.decode(data) for place, (data, _) in files.items()}

    def contents(self, files: Sequence[bytes]) -> list[Content]:
        return [self.content(data) for data in files]

    def symbols(self, data: bytes) -> NDArray[np.int32]:
        return _symbols(self.decode(data))

    def content(self, data: bytes) -> Content:
        pixels = self.decode(data)
        return _content(pixels.shape[1], pixels.shape[0], _symbols(pixels))


def _inspect(data: bytes) -> Structure:
    """The real one, except for files on which a decoder crashes, takes all memory, or never ends."""
    if data.startswith(FAULT):
        kind = data.removeprefix(FAULT)
        misbehave(FAULTS_OF_READING[kind])
    return inspect(data)


def level() -> int:
    """FAKE_CODEC_LEVEL: other bytes for the same symbols, as another machine's encoder may write them."""
    return int(os.environ.get("FAKE_CODEC_LEVEL", "6"))


def misbehave(fault: int) -> None:
    if fault == CRASH:
        os.kill(os.getpid(), signal.SIGSEGV)
    if fault == KILLED:
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == UNSUPPORTED:
        raise ImageError("more than a file can hold")
    if fault == RAISE:
        raise RuntimeError("the encoder\nis out of sorts")
    eaten = []
    while fault == EAT:
        eaten.append(b"x" * 2**26)  # written, not zeros: pages that are never touched take no memory
    while fault == HANG:
        time.sleep(0.01)


def _content(width: int, height: int, symbols: NDArray[np.int32]) -> Content:
    return Content(symbols, width, height, False, 100, (32,))


def _symbols(pixels: NDArray[np.integer]) -> NDArray[np.int32]:
    height, width, _ = pixels.shape
    padded = np.pad(pixels.astype(np.int32), ((0, -height % 8), (0, -width % 8), (0, 0)))
    blocks = padded.reshape(padded.shape[0] // 8, 8, padded.shape[1] // 8, 8, 3).sum((1, 3)).transpose(2, 0, 1)
    # Symbols have four channels, as latents do; a picture has three.
    return np.concatenate([blocks, blocks[:1]]).astype(np.int32)
