"""python -m tests.golden.make_version2: writes the golden files of format version 2, each once.

version2/NAME.fdc           files that must be read: every chunk, every orientation, the largest symbols, every clamp
version2/refused/NAME.fdc   files that must be refused, each for the one thing that it is named for
version2/expected.json      bundle, sizes, symbols and chunks of the first, and of the others what is wrong

Files whose names begin with version-1 are of that version, and are what no picture gives there. Symbols and chunks are
given here, not computed from pictures, so that the files reach what no picture does. Their bundles are those of version
1, three with narrow grids, and three extreme ones. Files that exist are never written again.
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
from codec.entropy.stream import compress, decompress
from codec.errors import BitstreamError, SettingsError
from codec.format.bitstream import FdcFile, pack, parse
from codec.format.chunks import Chunk, code_alpha, compressed
from codec.format.tags import ALPHA, NAMES, REPEATABLE
from codec.quantization.parameters import QuantizationParameters
from tests.golden.make import DERIVED, EXTREME, EXTREME_CODE, GOLDEN, KINDS, NARROW, bundles, make_bundles
from tests.support.version1 import as_version_1

FOLDER = GOLDEN / "version2"
ONE = (140,)
FOUR = (120, 131, 142, 153)
SNAPPED_TWICE = (128, 155, 248, 186)
"""Codes at which snapping the prior to the residual grid before that of outputs makes a difference."""
MASK = np.add.outer(np.arange(56), np.arange(40)).astype(np.uint8)


def stream(bundle: Bundle, codes: tuple[int, ...], symbols: np.ndarray[Any, Any], hyper: np.ndarray[Any, Any]) -> bytes:
    """The stream of these symbols (4, 7, 5) and this hyper-latent (4, h, w)."""
    channels = torch.tensor([codes * (4 // len(codes))])
    return compress(*bundle.load_entropy(), symbols.astype(np.int32), [hyper.astype(np.int32)], channels).data


def drawn(seed: int, spread: float = 3.0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Symbols and a hyper-latent of a 5 x 7 tile."""
    draws = np.random.default_rng(seed)
    return np.round(draws.normal(0, spread, (4, 7, 5))), np.round(draws.normal(0, 2, (4, 2, 2)))


def file(bundle: Bundle, codes: tuple[int, ...] = ONE, seed: int = 1, **changes: Any) -> FdcFile:
    """A picture of 40 x 56 pixels."""
    data = changes.pop("stream", None) or stream(bundle, codes, *drawn(seed))
    return replace(FdcFile(40, 56, False, bundle.id[:16], 112, QuantizationParameters(codes, 431), data), **changes)


def chunk(tag: str, content: bytes) -> Chunk:
    return Chunk(tag, compressed(content), content)


LARGEST_CHUNK = chunk("coMm", bytes(2**24))


def read_files(frozen: dict[str, Bundle]) -> dict[str, tuple[str, bytes]]:
    """Name, kind of bundle and bytes of each file that must be read."""
    bundle = frozen["parallel"]
    kinds = sorted({*KINDS, *DERIVED})
    files = {f"plain-{kind}": (kind, pack(file(frozen[kind], seed=place))) for place, kind in enumerate(kinds)}
    for kind in ("conditioned", "serial", "coarse"):
        files[f"four-alphas-{kind}"] = kind, pack(file(frozen[kind], FOUR))
    symbols, hyper = drawn(3)
    # The limits of FORMAT.md, section 2: 2^15 - 1 for a symbol, 63 for a hyper-latent.
    symbols[:, ::3, ::2] = 32767
    symbols[:, 1::3, 1::2] = -32767
    hyper[:, 0] = 63
    hyper[:, 1] = -63
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
    files["every-chunk"] = "parallel", pack(file(bundle, chunks=(code_alpha(MASK), *every), gray=True))
    files["unknown-ancillary-chunk"] = "parallel", sealed(pack(file(bundle))[:-4] + raw(b"neWa", b"\xff\0"))
    later = pack(file(bundle))[:-4]
    files["later-minor-version"] = "parallel", sealed(later[:9] + b"\x09" + later[10:])
    files["four-alphas-parallel"] = "parallel", pack(file(bundle, SNAPPED_TWICE))
    files["four-tiles"] = "parallel", four_tiles(bundle)
    wrapping = (37 * MASK).astype(np.uint8)
    coded = b"\1" + compressed(np.diff(wrapping, axis=1, prepend=wrapping[:, :1] * 0).tobytes())
    files["alpha-differences-that-wrap"] = (
        "parallel",
        pack(file(bundle, chunks=(Chunk(ALPHA, coded, wrapping.tobytes()),))),
    )
    files["chunks-256"] = "parallel", sealed(pack(file(bundle))[:-4] + many_chunks(256))
    start = np.random.default_rng(1).bytes(200)
    files["match-near-the-dictionarys-size"] = (
        "parallel",
        pack(file(bundle, chunks=(chunk("exIf", start + bytes(2**20 - 300) + start),))),
    )
    files["contents-of-2-26"] = "parallel", pack(file(bundle, chunks=(LARGEST_CHUNK,) * 4))
    for place, kind in enumerate(NARROW):
        files[f"plain-{kind}"] = kind, pack(file(frozen[kind], seed=20 + place))
        files[f"four-alphas-{kind}"] = kind, pack(file(frozen[kind], FOUR))
        files[f"largest-{kind}"] = kind, pack(file(frozen[kind], stream=stream(frozen[kind], ONE, symbols, hyper)))
    for kind in EXTREME:
        files |= {f"{kind}-{seed}": (kind, extreme(frozen[kind], seed)) for seed in range(3)}
    return files | version_1_files(bundle)


def four_tiles(bundle: Bundle) -> bytes:
    """A picture of 2 x 2 tiles whose symbols are zero but around the place where the tiles meet."""
    symbols = np.zeros((4, 129, 130), np.int32)
    symbols[:, 126:, 126:] = drawn(4)[0][:, :3, :4]
    hyper = [np.zeros((4, rows, columns), np.int32) for rows in (32, 1) for columns in (32, 1)]
    data = compress(*bundle.load_entropy(), symbols, hyper, torch.zeros(1, 4, dtype=torch.long)).data
    return pack(
        replace(file(bundle), width=1040, height=1032, parameters=QuantizationParameters((0,), 431), stream=data)
    )


def extreme(bundle: Bundle, seed: int) -> bytes:
    """Symbols of any size, also where the mean is as far from them as it can be."""
    draws = np.random.default_rng(seed)
    symbols = np.round(draws.standard_cauchy((4, 7, 5)) * 40).clip(-32767, 32767)
    symbols[0] = draws.choice((-32767, 0, 32767), (7, 5))
    step = 2**bundle.config.entropy.halvings
    hyper = np.round(draws.normal(0, 20, (4, -(-7 // step), -(-5 // step)))).clip(-63, 63)
    codes = (EXTREME_CODE, 140, 90, 230)
    return pack(file(bundle, codes, stream=stream(bundle, codes, symbols, hyper)))


def version_1_files(bundle: Bundle) -> dict[str, tuple[str, bytes]]:
    """What version 1 allows and no encoder of it wrote."""
    own = file(bundle)
    exif = as_version_1(pack(file(bundle, chunks=(chunk("exIf", b"MM\0*"),))))
    next_word = last_word_plus(own.stream, 1)
    same = symbols_of(bundle, next_word)
    assert same is not None and np.array_equal(same, drawn(1)[0])
    files = {
        "version-1-exif-alone": exif,
        "version-1-spare-word": as_version_1(pack(replace(own, stream=own.stream + bytes(4)))),
        "version-1-next-last-word": as_version_1(pack(replace(own, stream=next_word))),
    }
    return {name: ("parallel", data) for name, data in files.items()}


def symbols_of(bundle: Bundle, data: bytes) -> np.ndarray[Any, Any] | None:
    """The symbols of a stream of version 1, or nothing where it is refused."""
    try:
        return decompress(*bundle.load_entropy(), data, (7, 5), torch.tensor([ONE * 4]), canonical=False)
    except BitstreamError:
        return None


def last_word_plus(data: bytes, number: int) -> bytes:
    return data[:-4] + ((int.from_bytes(data[-4:], "little") + number) % 2**32).to_bytes(4, "little")


def that_ran_out(bundle: Bundle) -> bytes:
    """A cut stream in which nothing is wrong but that its symbols hold more information than it has bits."""
    for seed in range(1000):
        cut = stream(bundle, ONE, *drawn(seed))[:-8]
        with patch("codec.entropy.coder.TOTAL", 1):  # so that no information is counted
            if symbols_of(bundle, cut) is not None:
                return cut
    raise AssertionError("no seed gives such a stream")


def refused_files(bundle: Bundle) -> dict[str, bytes]:
    """Name and bytes of each file that must be refused."""
    own = file(bundle)
    body = pack(own)[:-4]
    end = len(body) - 1
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
        "too-many-chunks": body + many_chunks(257),
        "alpha-way-3": body + raw(b"ALPH", b"\x03" + compressed(MASK.tobytes())),
        "alpha-of-another-size": body + raw(b"ALPH", b"\0" + compressed(MASK.tobytes()[1:])),
        "signature-of-seven-bits": b"\x0f" + body[1:],
        "no-width-no-symbols": pack(replace(own, stream=bytes(4)))[:-4].replace(b"\x28\x38", b"\0\x38", 1),
        "ancillary-tag-with-a-digit": body + raw(b"n1Wa", b""),
        "unknown-chunk-beyond-the-end": body + b"neWa\x7f",
        "chunk-beyond-2-24": body + raw(b"exIf", compressed(bytes(2**24 + 1))),
        "contents-beyond-2-26": pack(file(bundle, chunks=(LARGEST_CHUNK,) * 4 + (chunk("exIf", b"a"),)))[:-4],
        "alpha-with-a-value-to-spare": body + raw(b"ALPH", b"\0" + compressed(MASK.tobytes() + b"a")),
    }
    old = as_version_1(pack(own))[:-4]
    bad |= {
        "version-1-unknown-flag": old[:4] + b"\x20" + old[5:],
        "version-1-timestep-beyond-999": old[:16] + b"\xff\xff" + old[18:],
        "version-1-byte-behind-the-last-part": old + b"\0",
        "version-1-stream-empty": old[:19] + b"\0",
        "version-1-exif-empty": old[:4] + b"\x10" + old[5:] + b"\x01\0",
    }
    old_streams = {
        "version-1-two-spare-words": own.stream + bytes(8),
        "version-1-last-word-after-next": last_word_plus(own.stream, 2),
        "version-1-stream-that-ran-out": that_ran_out(bundle),
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
    files |= {name: as_version_1(pack(replace(own, stream=content))) for name, content in old_streams.items()}
    damaged = bytearray(pack(own))
    damaged[30] ^= 1
    files |= {"checksum": bytes(damaged), "checksum-of-another-quality": other_quality(pack(own), 21)}
    return files | {"version-1-checksum-of-another-quality": other_quality(sealed(old), 15)}


def other_quality(data: bytes, place: int) -> bytes:
    """The file with a quality code, at this place, that nothing but the checksum tells from its own."""
    assert data[place] == 112
    return data[:place] + b"\x71" + data[place + 1 :]


def many_chunks(count: int) -> bytes:
    """So many empty chunks of unknown tags."""
    return b"".join(raw(b"aa%c%c" % (65 + n // 26, 97 + n % 26), b"") for n in range(count))


def raw(tag: bytes, payload: bytes) -> bytes:
    """A chunk of any payload below 128 bytes, or of a two-byte length."""
    size = len(payload)
    return tag + (bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])) + payload


def sealed(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(4, "little")


def make(folder: Path) -> None:
    """Write the files that a folder lacks. Raises SettingsError where it has them all."""
    listed = folder / "expected.json"
    expected: dict[str, Any] = json.loads(listed.read_text()) if listed.exists() else {"read": {}, "refused": []}
    make_bundles(GOLDEN)
    (folder / "refused").mkdir(parents=True, exist_ok=True)
    before = json.dumps(expected)
    with tempfile.TemporaryDirectory() as scratch:
        frozen = bundles(Path(scratch))
        for name, (kind, data) in read_files(frozen).items():
            if name not in expected["read"]:
                (folder / f"{name}.fdc").write_bytes(data)
                expected["read"][name] = described(frozen[kind], kind, data)
        for name, data in refused_files(frozen["parallel"]).items():
            if name not in expected["refused"]:
                (folder / "refused" / f"{name}.fdc").write_bytes(data)
                expected["refused"].append(name)
    if json.dumps(expected) == before:
        raise SettingsError(f"{folder} has golden files; they are never changed, only added to")
    listed.write_text(json.dumps(expected, indent=1) + "\n")


def described(bundle: Bundle, kind: str, data: bytes) -> dict[str, Any]:
    """What must never change about a file."""
    parsed = parse(data)
    entropy = bundle.load_entropy()
    codes = parsed.parameters.channel_codes
    symbols = decompress(*entropy, parsed.stream, parsed.latent_shape, codes, canonical=parsed.version > 1)
    chunks: dict[str, list[str]] = {}
    for own in parsed.chunks:
        chunks.setdefault(own.tag, []).append(hashlib.sha256(own.content).hexdigest())
    return {
        "bundle": kind,
        "width": parsed.width,
        "height": parsed.height,
        "gray": parsed.gray,
        "orientation": parsed.orientation,
        "symbols": hashlib.sha256(symbols.astype("<i4").tobytes()).hexdigest(),
        "chunks": chunks,
        "skipped": [tag for tag, _ in parsed.unknown],
    }


if __name__ == "__main__":
    make(FOLDER)
