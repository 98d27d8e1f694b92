"""python -m tests.golden.make_version2: writes the golden files of format version 2, each once.

version2/NAME.fdc           files that must be read: every chunk, every orientation, the largest symbols
version2/refused/NAME.fdc   files that must be refused, each for the one thing that it is named for
version2/expected.json      bundle, sizes, symbols and chunks of the first, and of the others what is wrong

Their bundles are those of version 1. Symbols and chunks are given here, not computed from pictures, so that the files
reach what no picture does. Files that exist are never written again.
"""

import hashlib
import json
import tempfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from codec.bundle import Bundle
from codec.entropy.stream import compress
from codec.errors import SettingsError
from codec.format.bitstream import File, pack, parse
from codec.format.chunks import Chunk, code_alpha, compressed
from codec.format.tags import ALPHA, NAMES, REPEATABLE
from codec.quantization.quantizer import Parameters
from tests.golden.make import GOLDEN, bundles

FOLDER = GOLDEN / "version2"
ONE, FOUR = (140,), (120, 131, 142, 153)
MASK = np.add.outer(np.arange(56), np.arange(40)).astype(np.uint8)


def stream(bundle: Bundle, codes: tuple[int, ...], symbols: np.ndarray[Any, Any], hyper: np.ndarray[Any, Any]) -> bytes:
    """The stream of these symbols (4, 7, 5) and this hyper-latent (4, h, w)."""
    channels = torch.tensor([codes * (4 // len(codes))])
    return compress(*bundle.load_entropy(), symbols.astype(np.int32), [hyper.astype(np.int32)], channels).data


def drawn(seed: int, spread: float = 3.0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Symbols and a hyper-latent of a 5 x 7 tile."""
    draws = np.random.default_rng(seed)
    return np.round(draws.normal(0, spread, (4, 7, 5))), np.round(draws.normal(0, 2, (4, 2, 2)))


def file(bundle: Bundle, codes: tuple[int, ...] = ONE, seed: int = 1, **changes: Any) -> File:
    """A picture of 40 x 56 pixels."""
    data = stream(bundle, codes, *drawn(seed))
    return replace(File(40, 56, False, bundle.id[:16], 112, Parameters(codes, 431), data), **changes)


def chunk(tag: str, content: bytes) -> Chunk:
    return Chunk(tag, compressed(content), content)


def read_files(frozen: dict[str, Bundle]) -> dict[str, tuple[str, bytes]]:
    """Name, kind of bundle and bytes of each file that must be read."""
    bundle = frozen["parallel"]
    files = {f"plain-{kind}": (kind, pack(file(frozen[kind], seed=place))) for place, kind in enumerate(sorted(frozen))}
    for kind in ("conditioned", "serial", "coarse"):
        files[f"four-alphas-{kind}"] = kind, pack(file(frozen[kind], FOUR))
    symbols, hyper = drawn(3)
    symbols[:, ::3, ::2], symbols[:, 1::3, 1::2] = 32767, -32767
    hyper[:, 0], hyper[:, 1] = 63, -63
    for kind in ("parallel", "dithered", "serial"):
        largest = stream(frozen[kind], ONE, symbols, hyper)
        files[f"largest-{kind}"] = kind, pack(file(frozen[kind], stream=largest))
    for orientation in range(1, 9):
        files[f"orientation-{orientation}"] = "parallel", pack(file(bundle, orientation=orientation))
    for way in range(3):
        planes = MASK, np.diff(MASK, axis=1, prepend=MASK[:, :1] * 0), np.diff(MASK, axis=0, prepend=MASK[:1] * 0)
        coded = bytes([way]) + compressed(planes[way].astype(np.uint8).tobytes())
        files[f"alpha-way-{way}"] = "parallel", pack(file(bundle, chunks=(Chunk(ALPHA, coded, MASK.tobytes()),)))
    every = [chunk(tag, f"what {tag} holds".encode()) for tag in NAMES if tag != ALPHA]
    every += [chunk(tag, f"{tag} again".encode()) for tag in REPEATABLE]
    files["every-chunk"] = "parallel", pack(file(bundle, chunks=(code_alpha(MASK), *every), grey=True))
    files["unknown-ancillary-chunk"] = "parallel", sealed(pack(file(bundle))[:-4] + raw(b"neWa", b"\xff\0"))
    later = pack(file(bundle))[:-4]
    files["later-minor-version"] = "parallel", sealed(later[:9] + b"\x09" + later[10:])
    return files


def refused_files(bundle: Bundle) -> dict[str, bytes]:
    """Name and bytes of each file that must be refused."""
    own = file(bundle)
    body, end = pack(own)[:-4], len(pack(own)) - 5
    symbols, hyper = drawn(1)
    exif = raw(b"exIf", compressed(b"a"))
    bad = {
        "version-3": body[:8] + b"\x03" + body[9:],
        "signature-as-text": body.replace(b"\r\n", b"\n", 1),
        "unknown-flag": body[:10] + b"\x04" + body[11:],
        "long-varint": body[:19] + b"\xa8\0" + body[20:],
        "no-width": body[:19] + b"\0" + body[20:],
        "timestep-beyond-999": body[:22] + b"\xff\xff" + body[24:],
        "four-equal-alphas": body[:10] + b"\x01" + body[11:24] + bytes([140] * 4) + body[25:],
        "orientation-0": body[:end] + b"\0",
        "orientation-9": body[:end] + b"\x09",
        "unknown-critical-chunk": body + raw(b"NeWA", b""),
        "tag-with-a-digit": body + raw(b"ex1f", b""),
        "tag-with-a-lower-third-letter": body + raw(b"exif", compressed(b"a")),
        "chunk-twice": body + exif + exif,
        "chunks-out-of-order": body + raw(b"xmPp", compressed(b"a")) + exif,
        "critical-chunk-last": body + exif + raw(b"ICCP", compressed(b"a")),
        "index-not-from-zero": body + raw(b"coMm", b"\x01" + compressed(b"a")),
        "index-skipped": body + raw(b"coMm", b"\0" + compressed(b"a")) + raw(b"coMm", b"\x02" + compressed(b"a")),
        "chunk-empty": body + raw(b"exIf", compressed(b"")),
        "chunk-cut": body + raw(b"exIf", compressed(b"abcd")[:-1]),
        "chunk-goes-on": body + raw(b"exIf", compressed(b"abcd") + b"\0"),
        "chunk-beyond-the-end": body + b"exIf\x7f",
        "tag-cut": body + b"exI",
        "too-many-chunks": body + b"".join(raw(b"aa%c%c" % (65 + n // 26, 97 + n % 26), b"") for n in range(257)),
        "alpha-way-3": body + raw(b"ALPH", b"\x03" + compressed(MASK.tobytes())),
        "alpha-of-another-size": body + raw(b"ALPH", b"\0" + compressed(MASK.tobytes()[1:])),
    }
    streams = {
        "stream-empty": b"",
        "stream-of-5-bytes": own.stream[:4] + b"\0",
        "stream-with-a-spare-word": own.stream + bytes(4),
        "stream-cut": own.stream[:-8],
        "stream-with-another-last-bit": own.stream[:-1] + bytes([own.stream[-1] ^ 1]),
        "stream-of-ones": b"\xff" * len(own.stream),
    }
    with patch("codec.entropy.coder.SYMBOL_LIMIT", 2**20):
        beyond = symbols.copy()
        beyond[0, 0, 1] = 32768
        streams["symbol-of-32768"] = stream(bundle, ONE, beyond, hyper)
        beyond[0, 0, 1] = -70_000
        streams["escape-of-17-zeros"] = stream(bundle, ONE, beyond, hyper)
        beyond[0, 0, 1] = 140_000
        streams["escape-of-18-zeros"] = stream(bundle, ONE, beyond, hyper)
        hyper[1, 0, 1] = 64
        streams["hyper-symbol-of-64"] = stream(bundle, ONE, symbols, hyper)
    files = {name: sealed(content) for name, content in bad.items()}
    files |= {name: pack(replace(own, stream=content)) for name, content in streams.items()}
    damaged = bytearray(pack(own))
    damaged[30] ^= 1
    return files | {"checksum": bytes(damaged)}


def raw(tag: bytes, payload: bytes) -> bytes:
    """A chunk of any payload below 128 bytes, or of a two-byte length."""
    size = len(payload)
    return tag + (bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])) + payload


def sealed(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(4, "little")


def make(folder: Path) -> None:
    """Write all files. Raises SettingsError where they are there."""
    if (folder / "expected.json").exists():
        raise SettingsError(f"{folder} has golden files; they are never changed")
    (folder / "refused").mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        frozen = bundles(Path(scratch))
        expected: dict[str, Any] = {"read": {}, "refused": []}
        for name, (kind, data) in read_files(frozen).items():
            (folder / f"{name}.fdc").write_bytes(data)
            expected["read"][name] = described(frozen[kind], kind, data)
        for name, data in refused_files(frozen["parallel"]).items():
            (folder / "refused" / f"{name}.fdc").write_bytes(data)
            expected["refused"].append(name)
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def described(bundle: Bundle, kind: str, data: bytes) -> dict[str, Any]:
    """What must never change about a file."""
    from codec.entropy.stream import decompress

    parsed = parse(data)
    symbols = decompress(*bundle.load_entropy(), parsed.stream, parsed.latent_shape, parsed.parameters.channel_codes)
    chunks: dict[str, list[str]] = {}
    for own in parsed.chunks:
        chunks.setdefault(own.tag, []).append(hashlib.sha256(own.content).hexdigest())
    return {
        "bundle": kind,
        "width": parsed.width,
        "height": parsed.height,
        "grey": parsed.grey,
        "orientation": parsed.orientation,
        "symbols": hashlib.sha256(symbols.astype("<i4").tobytes()).hexdigest(),
        "chunks": chunks,
        "skipped": [tag for tag, _ in parsed.unknown],
    }


if __name__ == "__main__":
    make(FOLDER)
