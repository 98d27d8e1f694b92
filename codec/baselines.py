"""Other codecs behind the same two calls: real bitstreams, whose whole files are counted.

A codec is listed as unavailable, with the reason, where its library, its plug-in or its program is not here.
"""

import importlib
import io
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, features

from codec.errors import SettingsError
from codec.images import encode_png, read_image

Pixels = NDArray[np.uint8]

COMMAND_SECONDS = 600.0
"""How long an external command may run."""


@dataclass(frozen=True)
class Baseline:
    """A codec to compare with: encode(pixels (H, W, 3), setting) -> file, decode(file) -> pixels (H, W, 3)."""

    name: str
    version: str
    """The encoder, its library, and whatever else decides the bytes."""
    settings: tuple[float, ...]
    """From the smallest files to the largest."""
    encode: Callable[[Pixels, float], bytes]
    decode: Callable[[bytes], Pixels]


@dataclass(frozen=True)
class Command:
    """An external encoder and decoder as command templates. No shell is involved.

    {input} and {output} stand for file names in a scratch folder, {setting} for the setting; the encoder reads PNG, the
    decoder writes it.
    """

    name: str
    encode: str
    decode: str
    settings: tuple[float, ...]
    """From the smallest files to the largest."""
    suffix: str
    """How the compressed file's name ends, with its dot."""


BPG = Command(
    "bpg",
    "bpgenc -m 9 -q {setting:g} -o {output} {input}",
    "bpgdec -o {output} {input}",
    tuple(range(51, -1, -1)),
    ".bpg",
)
"""HEVC intra in Fabrice Bellard's container."""


def available(names: Iterable[str] | None = None) -> tuple[list[Baseline], dict[str, str]]:
    """The codecs of these names (default: all) that run here, and for each other one why not.

    Raises SettingsError for a name that does not exist.
    """
    found, missing = [], {}
    for name in NAMES if names is None else names:
        if name not in _MAKERS:
            raise SettingsError(f"there is no codec {name!r} to compare with; choose from {', '.join(NAMES)}")
        try:
            found.append(_MAKERS[name]())
        except _UnavailableError as error:
            missing[name] = str(error)
    return found, missing


def external(command: Command) -> Baseline:
    """A codec that runs as two programs. Raises SettingsError when one is not on PATH."""
    try:
        return _external(command)
    except _UnavailableError as error:
        raise SettingsError(f"{command.name} cannot run here: {error}") from None


def largest_within(baseline: Baseline, pixels: Pixels, size: float, tried: dict[float, bytes]) -> float:
    """The setting with the largest file of at most `size` bytes, by bisection; the first where even that is larger.

    `tried` holds the files made so far and takes the new ones.
    """
    low, high = 0, len(baseline.settings) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if len(_file(baseline, pixels, baseline.settings[middle], tried)) <= size:
            low = middle
        else:
            high = middle - 1
    _file(baseline, pixels, baseline.settings[low], tried)
    return baseline.settings[low]


def _file(baseline: Baseline, pixels: Pixels, setting: float, tried: dict[float, bytes]) -> bytes:
    if setting not in tried:
        tried[setting] = baseline.encode(pixels, setting)
    return tried[setting]


class _UnavailableError(Exception):
    """Why a codec cannot run here."""


def _pillow(name: str, feature: str, library: str, settings: Iterable[float], options: Mapping[str, Any]) -> Baseline:
    """A format that Pillow itself writes, by its setting `quality`."""
    if not features.check(feature):
        raise _UnavailableError(f"this Pillow was built without {feature}")

    def encode(pixels: Pixels, setting: float) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, name.upper(), quality=int(setting), **options)
        return stream.getvalue()

    described = ", ".join(f"{key} {value}" for key, value in options.items())
    version = f"{library} {features.version(library)} in Pillow {PIL.__version__}, {described}"
    return Baseline(name, version, tuple(settings), encode, _read)


def _read(data: bytes) -> Pixels:
    return read_image(data).pixels


def _jpeg() -> Baseline:
    return _pillow(
        "jpeg", "jpg", "libjpeg_turbo", range(1, 96), {"optimize": True, "progressive": True, "subsampling": "4:2:0"}
    )


def _webp() -> Baseline:
    return _pillow("webp", "webp", "webp", range(101), {"method": 6})


def _avif() -> Baseline:
    return _pillow("avif", "avif", "avif", range(101), {"speed": 4, "subsampling": "4:2:0"})


def _jpeg_xl() -> Baseline:
    library = _module("imagecodecs", "evaluate")

    def encode(pixels: Pixels, setting: float) -> bytes:
        return bytes(library.jpegxl_encode(pixels, distance=setting, effort=7, usecontainer=False))

    def decode(data: bytes) -> Pixels:
        return np.asarray(library.jpegxl_decode(data), np.uint8)

    distances = tuple(round(25 * 2 ** (-step / 8), 3) for step in range(65))
    version = f"{library.jpegxl_version()} in imagecodecs {library.__version__}, effort 7, setting = distance"
    return Baseline("jpeg-xl", version, distances, encode, decode)


def _hevc() -> Baseline:
    library = _module("pillow_heif", "heif")
    encoder = library.libheif_info()["HEIF"]
    if not encoder:
        raise _UnavailableError("this pillow-heif has no HEVC encoder")

    def encode(pixels: Pixels, setting: float) -> bytes:
        height, width, _ = pixels.shape
        stream = io.BytesIO()
        library.from_bytes("RGB", (width, height), pixels.tobytes()).save(stream, quality=int(setting), chroma=420)
        return stream.getvalue()

    def decode(data: bytes) -> Pixels:
        return np.asarray(library.open_heif(io.BytesIO(data), convert_hdr_to_8bit=True), np.uint8)

    version = f"{encoder}, libheif {library.libheif_version()} in pillow-heif {library.__version__}, 4:2:0"
    return Baseline("hevc", version, tuple(range(101)), encode, decode)


def _bpg() -> Baseline:
    return _external(BPG)


def _module(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise _UnavailableError(f"{error}; pip install 'fdcodec[{extra}]'") from None


def _external(command: Command) -> Baseline:
    for template in (command.encode, command.decode):
        if not shutil.which(program := shlex.split(template)[0]):
            raise _UnavailableError(f"the program {program} is not on PATH")

    def encode(pixels: Pixels, setting: float) -> bytes:
        return _run(command, command.encode, encode_png(pixels), ".png", command.suffix, setting)

    def decode(data: bytes) -> Pixels:
        return _read(_run(command, command.decode, data, command.suffix, ".png", 0))

    return Baseline(command.name, command.encode, command.settings, encode, decode)


def _run(command: Command, template: str, data: bytes, read: str, written: str, setting: float) -> bytes:
    """What a command made of the data. Raises SettingsError when it fails, writes nothing or does not end."""
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch, f"in{read}"), Path(scratch, f"out{written}")
        source.write_bytes(data)
        words = [part.format(input=source, output=target, setting=setting) for part in shlex.split(template)]
        try:
            subprocess.run(words, check=True, capture_output=True, timeout=COMMAND_SECONDS)
            return target.read_bytes()
        except subprocess.TimeoutExpired:
            reason = f"did not end within {COMMAND_SECONDS:g} s"
        except subprocess.CalledProcessError as error:
            said = error.stderr.decode(errors="replace").strip().splitlines()
            reason = f"ended with status {error.returncode}: {said[-1] if said else 'it said nothing'}"
        except OSError as error:
            reason = f"wrote no file ({error.strerror})"
    raise SettingsError(f"{words[0]} of {command.name} {reason}")


_MAKERS: dict[str, Callable[[], Baseline]] = {
    "jpeg": _jpeg,
    "webp": _webp,
    "avif": _avif,
    "jpeg-xl": _jpeg_xl,
    "hevc": _hevc,
    "bpg": _bpg,
}
NAMES = tuple(_MAKERS)
"""The codecs that can be asked for."""
