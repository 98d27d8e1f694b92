"""Codecs from libraries: JPEG, WebP and AVIF by Pillow, JPEG XL by imagecodecs, HEVC intra by pillow-heif."""

import io
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import PIL
from PIL import Image, features

from codec.evaluation.baselines.baseline import Baseline, Pixels, UnavailableError, module
from codec.images import read_image


def jpeg() -> Baseline:
    options = {"optimize": True, "progressive": True, "subsampling": "4:2:0"}
    return _pillow("jpeg", "jpg", "libjpeg_turbo", range(1, 96), options)


def webp() -> Baseline:
    return _pillow("webp", "webp", "webp", range(101), {"method": 6})


def avif() -> Baseline:
    return _pillow("avif", "avif", "avif", range(101), {"speed": 4, "subsampling": "4:2:0"})


def jpeg_xl() -> Baseline:
    library = module("imagecodecs", "'fdcodec[evaluate]'")

    def encode(pixels: Pixels, setting: float) -> bytes:
        return bytes(library.jpegxl_encode(pixels, distance=setting, effort=7, usecontainer=False))

    def decode(data: bytes) -> Pixels:
        return np.asarray(library.jpegxl_decode(data), np.uint8)

    # From 25, the library's largest, by eight steps an octave.
    distances = tuple(round(25 * 2 ** (-step / 8), 3) for step in range(65))
    version = f"{library.jpegxl_version()} in imagecodecs {library.__version__}, effort 7, setting = distance"
    return Baseline("jpeg-xl", version, distances, encode, decode)


def hevc() -> Baseline:
    library = module("pillow_heif", "'fdcodec[hevc]'")
    encoder = library.libheif_info()["HEIF"]
    if not encoder:
        raise UnavailableError("this pillow-heif has no HEVC encoder")

    def encode(pixels: Pixels, setting: float) -> bytes:
        height, width, _ = pixels.shape
        image = library.from_bytes("RGB", (width, height), pixels.tobytes())
        stream = io.BytesIO()
        image.save(stream, quality=int(setting), chroma=420)
        return stream.getvalue()

    def decode(data: bytes) -> Pixels:
        return np.asarray(library.open_heif(io.BytesIO(data), convert_hdr_to_8bit=True), np.uint8)

    version = f"{encoder}, libheif {library.libheif_version()} in pillow-heif {library.__version__}, 4:2:0"
    return Baseline("hevc", version, tuple(range(101)), encode, decode)


def _pillow(name: str, feature: str, library: str, settings: Iterable[float], options: Mapping[str, Any]) -> Baseline:
    """A format written by Pillow, controlled by its option `quality`."""
    if not features.check(feature):
        raise UnavailableError(f"this Pillow was built without {feature}")

    def encode(pixels: Pixels, setting: float) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, name.upper(), quality=int(setting), **options)
        return stream.getvalue()

    def decode(data: bytes) -> Pixels:
        return read_image(data).pixels

    described = ", ".join(f"{key} {value}" for key, value in options.items())
    version = f"{library} {features.version(library)} in Pillow {PIL.__version__}, {described}"
    return Baseline(name, version, tuple(settings), encode, decode)
