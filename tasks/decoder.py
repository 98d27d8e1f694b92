"""The functions of the smaller distribution fdcodec-decoder: encode, decode, info, restore.

    from tasks.decoder import decode, encode, info, restore

They need torch, diffusers, constriction, numpy and Pillow. `restore` reads the tars in an archive's local folder, not
its Parquet files. Tar members do not contain the keys of pictures, so files only get their names if keys are given.
"""

import functools
import hashlib
import itertools
import operator
import re
import secrets
import shutil
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from codec.bundle import find_bundle
from codec.bundle_id import DEFAULT_BUNDLE
from codec.codec import DEFAULT_QUALITY, Codec
from codec.containers.writing import EXTENSIONS, parse_kind, write
from codec.errors import ArchiveError, BitstreamError, FdcError, ImageError, SettingsError
from codec.format.bitstream import parse
from codec.images import Picture, read_image
from tasks.archive import layout
from tasks.storage.keys import extension_of, key_hash, restored

MEMBER = re.compile(r"\d{6}-(?P<key_hash>[0-9a-f]{16})\.(?P<extension>[a-z0-9]{1,8})")
"""A member of a tar: its row, the head of the SHA-256 of its key, and its extension."""


@dataclass(frozen=True)
class _Member:
    tar: Path
    info: tarfile.TarInfo
    key_hash: str
    extension: str


@dataclass(frozen=True)
class RestoredFiles:
    """The number of files written, and a line per failure."""

    files: int = 0
    failures: list[str] = field(default_factory=list)


def encode(
    source: bytes | str | Path | NDArray[np.uint8],
    *,
    quality: float = DEFAULT_QUALITY,
    bundle: str | Path | None = None,
    device: str = "cpu",
) -> bytes:
    """Encodes a picture as an .fdc file: an image file, its bytes, or pixels (H, W, 3) in sRGB.

    `quality` is lambda > 0; `bundle` is the folder of a trained codec, by default the embedded one. The picture is read
    by `codec.read_image`. Raises ImageError, SettingsError, BundleError.
    """
    if isinstance(source, np.ndarray):
        picture = Picture(_checked(source))
    else:
        picture = read_image(source)
    codec = _codec(Path(bundle or DEFAULT_BUNDLE), device)
    return codec.encode(picture, quality=quality).data


def decode(source: bytes | str | Path, *, bundle: str | Path | None = None, device: str = "cpu") -> Picture:
    """Decodes an .fdc file: `pixels` (H, W, 3) uint8 as stored, alpha, profile, orientation, metadata.

    `codec.encode_png` converts the result to a file. The codec is the embedded one, or one of a folder with one or more
    bundles. Raises BitstreamError, also for a file that cannot be read, and BundleError if the bundle is missing.
    """
    data = _bytes(source)
    found = find_bundle(parse(data).bundle_id, [bundle] if bundle else [])
    return _codec(found.path, device).decode_picture(data)


def info(source: bytes | str | Path) -> dict[str, Any]:
    """Reads the header of an .fdc file without running a network. Raises BitstreamError as decode does."""
    data = _bytes(source)
    file = parse(data)
    width, height = file.upright_size
    return {
        "width": width,
        "height": height,
        "gray": file.gray,
        "bytes": len(data),
        "bits_per_pixel": 8 * len(data) / (width * height),
        "bundle_id": file.bundle_id,
        "quality": file.quality,
        "timestep": file.timestep,
        "version": file.version,
        "chunks": [chunk.tag for chunk in file.chunks],
    }


def restore(
    archive: str | Path,
    target: str | Path,
    keys: Iterable[str] | None = None,
    *,
    kind: str = "png",
    device: str = "cpu",
) -> RestoredFiles:
    """Restores the pictures of an archive in a local folder into another folder; existing files are replaced.

    With `keys`, each picture gets the path that restore-archive gives it, in the last version found in a tar. Without
    keys, every member of every tar is written as RUN/SHARD-HASH/ROW-KEYHASH.EXTENSION. An .fdc file is decoded with the
    archive's own bundle into `kind`, such as png or jpeg:90. Other members are written unchanged: a `.jxl` file is
    standard JPEG XL. Each tar is checked against the hash in its name. From a damaged tar only .fdc files are restored,
    which have their own checksums. Raises ArchiveError for a folder without tars, SettingsError for an unknown kind.
    """
    if parse_kind(kind)[0] == "jxl":
        raise SettingsError("fdcodec-decoder cannot write JPEG XL; install fdcodec, or restore as png")
    folder = Path(archive)
    tars = sorted(folder.glob(f"{layout.RUNS}/*/shards/*-*.tar"))
    if not tars:
        raise ArchiveError(f"{folder}: no tars of an archive here; give the folder of an archive")
    failures: list[str] = []
    stored = _members(tars, failures)
    wanted: dict[str, str] | None = None
    if keys is not None:
        wanted = _by_hash(keys)
        stored = _last_versions(stored, wanted, failures)
    files = 0
    for tar, members in itertools.groupby(stored, key=operator.attrgetter("tar")):
        is_whole = _has_its_hash(tar)
        for member in members:
            path, kept = _destination(member, wanted, kind)
            try:
                if kept and not is_whole:
                    raise ArchiveError("the tar is damaged; restore it from a mirror")
                _write(folder, member, Path(target) / path, None if kept else kind, device)
                files += 1
            except (FdcError, OSError) as error:
                failures.append(f"{tar}: {member.info.name}: {error}")
    return RestoredFiles(files, failures)


def _members(tars: Iterable[Path], failures: list[str]) -> Iterator[_Member]:
    """Yields the stored files of some tars; for a tar that is unreadable from some point on, notes a failure."""
    for tar in tars:
        try:
            with tarfile.open(tar, "r:") as opened:
                for info in opened:
                    match = MEMBER.fullmatch(info.name)
                    if match and info.isfile():  # links and folders are not of this package
                        yield _Member(tar, info, match["key_hash"], match["extension"])
        except (OSError, tarfile.TarError) as error:
            failures.append(f"{tar}: cannot be read to its end ({error}); restore it from a mirror")


def _last_versions(stored: Iterable[_Member], wanted: Mapping[str, str], failures: list[str]) -> Iterator[_Member]:
    """Yields the members of wanted keys that are in the last tar with the key; notes a failure for a key in none.

    Tars are in the order of runs and shards, so the last one has the last version.
    """
    candidates = [member for member in stored if member.key_hash in wanted]
    last_tar = {member.key_hash: member.tar for member in candidates}
    for digest, key in wanted.items():
        if digest not in last_tar:
            failures.append(f"{key}: not found in any tar")
    for member in candidates:
        if member.tar == last_tar[member.key_hash]:  # with the video of a motion photo, which has the same key
            yield member


def _has_its_hash(tar: Path) -> bool:
    with tar.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest().startswith(layout.hash_of(tar.name))


def _destination(member: _Member, wanted: Mapping[str, str] | None, kind: str) -> tuple[str, bool]:
    """Returns the path of a member's file, relative to the target, and whether it is written unchanged."""
    key = None if wanted is None else wanted[member.key_hash]
    # A source that was an .fdc file itself is stored whole, and stays one.
    is_source = key is not None and extension_of(key) == member.extension
    kept = member.extension != "fdc" or is_source
    extension = member.extension if kept else EXTENSIONS[parse_kind(kind)[0]]
    if key is not None:
        return restored(key, None if is_source else extension), kept
    run = member.tar.parts[-3]
    shard = member.tar.stem
    name = member.info.name.partition(".")[0]
    return f"{run}/{shard}/{name}.{extension}", kept


def _write(archive: Path, member: _Member, path: Path, kind: str | None, device: str) -> None:
    """Writes a member, unchanged or decoded to a kind of picture, as a whole file or not at all.

    Raises FdcError, OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A new file under a name that nobody can have prepared as a link; `replace` then replaces a link at `path` itself.
    unfinished = path.with_name(f".{secrets.token_hex(8)}")
    try:
        with tarfile.open(member.tar, "r:") as opened, unfinished.open("xb") as file:
            content = cast(IO[bytes], opened.extractfile(member.info))
            if kind is None:
                shutil.copyfileobj(content, file)
            else:
                picture = decode(content.read(), bundle=archive / layout.ESCROW, device=device)
                file.write(write(picture, *parse_kind(kind)))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _by_hash(keys: Iterable[str]) -> dict[str, str]:
    """Keys by their hashes. Raises SettingsError for one that is not text."""
    try:
        return {key_hash(key): key for key in keys}
    except UnicodeEncodeError as error:
        raise SettingsError(f"{error.object!r} is not a key: percent-escape bytes that are not UTF-8") from None


def _checked(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ImageError(f"expected pixels (H, W, 3) uint8, not {pixels.shape} {pixels.dtype}")
    return pixels


def _bytes(source: bytes | str | Path) -> bytes:
    if isinstance(source, bytes):
        return source
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise BitstreamError(f"cannot read {source}: {error.strerror}") from None


@functools.cache  # loading takes seconds, and a program decodes many files
def _codec(bundle: Path, device: str) -> Codec:
    return Codec.load(bundle, device=device)
