"""Archives come back by tars alone: no Parquet, no rows, the names from the keys that are given."""

import hashlib
import io
import resource
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codec.bundle import Bundle
from codec.codec import Codec
from codec.errors import ArchiveError, BitstreamError, ImageError, SettingsError
from tasks.archive import layout
from tasks.archive.tar import Tar
from tasks.decoder import decode, encode, info, restore
from tasks.storage.keys import extension_of, member
from tests.conftest import synthetic


def add(archive: Path, run: int, files: dict[str, tuple[str, bytes]]) -> Path:
    """Write a tar of a run that holds these files, given by key with their extensions."""
    place = archive / "new.tar"
    with Tar(place) as tar:
        for row, (key, (extension, content)) in enumerate(files.items()):
            tar.add(member(row, key, extension), content)
    path = archive / layout.tar(run, 0, hashlib.sha256(place.read_bytes()).hexdigest())
    path.parent.mkdir(parents=True)
    return place.rename(path)


@pytest.fixture(scope="module")
def coded(bundle: Bundle) -> bytes:
    """A picture of 48 x 32 pixels."""
    return encode(synthetic(32, 48), bundle=bundle.path)


@pytest.fixture
def archive(tmp_path: Path, bundle: Bundle) -> Iterator[Path]:
    """A folder with the escrowed bundle and no tars."""
    place = tmp_path / "archive"
    (place / layout.ESCROW).mkdir(parents=True)
    (place / layout.escrow(bundle.id)).symlink_to(bundle.path)
    yield place


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_the_functions_give_what_the_codec_gives(bundle: Bundle, coded: bytes) -> None:
    codec = Codec.load(bundle)
    assert np.array_equal(decode(coded, bundle=bundle.path).pixels, codec.decode(coded))
    assert info(coded)["bundle_id"] == bundle.id[:16]
    assert (info(coded)["width"], info(coded)["height"]) == (48, 32)


def test_without_keys_every_member_has_a_name_of_its_tar(archive: Path, coded: bytes, tmp_path: Path) -> None:
    tar = add(archive, 1, {"a/b.jpg": ("fdc", coded), "film.mp4": ("mp4", b"film")})
    assert restore(archive, tmp_path / "out").files == 2
    stem = tar.stem
    key_hashes = [hashlib.sha256(key.encode()).hexdigest()[:16] for key in ("a/b.jpg", "film.mp4")]
    assert names(tmp_path / "out") == [
        f"000001/{stem}/000000-{key_hashes[0]}.png",
        f"000001/{stem}/000001-{key_hashes[1]}.mp4",
    ]


def test_with_keys_the_last_version_gets_its_name(archive: Path, coded: bytes, tmp_path: Path) -> None:
    whole = {key: (extension_of(key), key.encode()) for key in ("notes", "../up.tif", "x.fdc")}
    add(archive, 1, {"a.jpg": ("tif", b"an earlier version"), **whole})
    add(archive, 2, {"a.jpg": ("fdc", coded), "b.jpg": ("jxl", b"a JPEG XL file"), "c.jpg": ("fdc", coded)})
    done = restore(archive, tmp_path / "out", ["a.jpg", "b.jpg", *whole, "gone.jpg"])
    assert (done.files, done.failures) == (5, ["gone.jpg: not found in any tar"])
    assert names(tmp_path / "out") == ["%2E%2E/up.tif", "a.jpg.png", "b.jpg.jxl", "notes", "x.fdc"]
    assert (tmp_path / "out" / "x.fdc").read_bytes() == b"x.fdc", "a source, not a picture of the archive"


def test_a_damaged_tar_gives_only_files_with_checksums_of_their_own(
    archive: Path, coded: bytes, tmp_path: Path
) -> None:
    files = {"a.jpg": ("fdc", coded), "b.tif": ("tif", b"b" * 600), "c.jpg": ("fdc", coded)}
    path = add(archive, 1, files)
    data = bytearray(path.read_bytes())
    data[data.index(b"b" * 600)] ^= 1
    data[data.rindex(coded) + len(coded) // 2] ^= 1
    path.write_bytes(data)
    done = restore(archive, tmp_path / "out", files)
    assert names(tmp_path / "out") == ["a.jpg.png"]
    assert done.files == 1
    assert [line.partition(": ")[2][:7] for line in done.failures] == ["000001-", "000002-"]
    path.write_bytes(data[: data.index(b"b" * 500)])
    assert "cannot be read to its end" in restore(archive, tmp_path / "out", files).failures[0]


def test_what_cannot_be_asked_is_refused_in_one_line(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="no tars of an archive here"):
        restore(archive, tmp_path / "out")
    with pytest.raises(SettingsError, match="install fdcodec"):
        restore(archive, tmp_path / "out", kind="jxl")
    with pytest.raises(BitstreamError, match="cannot read"):
        decode(tmp_path / "missing.fdc")
    with pytest.raises(ImageError, match="expected pixels"):
        encode(np.zeros((8, 8), np.uint8))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert info(encode(tmp_path / "a.png"))["width"] == 8


def test_links_and_folders_among_a_tars_members_are_no_files(archive: Path, tmp_path: Path) -> None:
    tar = archive / layout.tar(1, 0, "0" * 64)
    tar.parent.mkdir(parents=True)
    with tarfile.open(tar, "w") as opened:
        for row, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE)):
            entry = tarfile.TarInfo(member(row, "a", "jpg"))
            entry.type, entry.linkname = kind, "/etc/passwd"
            opened.addfile(entry)
        outside = tarfile.TarInfo("../../outside")
        outside.size = 1
        opened.addfile(outside, io.BytesIO(b"x"))
    assert restore(archive, tmp_path / "out").files == 0
    assert not (tmp_path / "out").exists()


def test_what_could_not_be_written_to_its_end_is_not_there(archive: Path, tmp_path: Path) -> None:
    add(archive, 1, {"large.mp4": ("mp4", b"film" * 100_000)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        done = restore(archive, tmp_path / "out", keys=["large.mp4"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert done.files == 0 and "File too large" in done.failures[0]
    assert names(tmp_path / "out") == []


def test_a_key_that_is_no_text_is_refused(archive: Path, tmp_path: Path) -> None:
    add(archive, 1, {"a": ("bin", b"a")})
    with pytest.raises(SettingsError, match="is not a key"):
        restore(archive, tmp_path / "out", keys=["\udcff"])
