"""The archive with the shipped codec: real pictures in, verified and measured files, pictures of the same size out."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codec import Codec
from tasks.archive import report
from tasks.archive.manifest import RunSettings
from tasks.compress.runs import compress
from tasks.restore.restore import restore
from tasks.storage.store import Store
from tests.conftest import synthetic
from tests.support.archive_builder import folder

MASK = np.tile(np.arange(51, dtype=np.uint8) * 5, (37, 1))
MAKER = 0x010F


def encoded(kind: str, height: int, width: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(synthetic(height, width)).save(buffer, kind)
    return buffer.getvalue()


def transparent() -> bytes:
    """A PNG of 51 x 37 with an alpha plane and an EXIF block."""
    exif = Image.Exif()
    exif[MAKER] = "maker"
    buffer = io.BytesIO()
    Image.fromarray(np.dstack([synthetic(37, 51), MASK])).save(buffer, "PNG", exif=exif)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Four pictures, a damaged one, and their archive with the shipped bundle."""
    home = tmp_path_factory.mktemp("real")
    large = encoded("PNG", 168, 200)
    small = encoded("JPEG", 37, 51)
    files = {"large.png": large, "small.jpg": small, "cut.png": large[:-99], "again.png": large}
    files["clear.png"] = transparent()
    source = folder(home / "s", files)
    compress(str(source), str(home / "a"), RunSettings(threads=1))
    return source, home / "a"


def test_every_picture_is_verified_and_measured(packed: tuple[Path, Path]) -> None:
    found = {row["key"]: row for row in report.query(Store(str(packed[1])), "SELECT * FROM rows")}
    assert {key: row["status"] for key, row in found.items()} == {
        "again.png": "compressed",
        "clear.png": "compressed",
        "large.png": "compressed",
        "small.jpg": "compressed",
        "cut.png": "fallback",
    }
    row = found["large.png"]
    assert (row["width"], row["height"], row["source_format"]) == (200, 168, "PNG")
    assert row["verified"]
    assert row["bpp"] == 8 * row["bytes"] / (200 * 168) < 8
    assert 15 < row["psnr_db"] < 60
    assert 0.3 < row["ms_ssim"] < 1
    assert 0 < row["lpips"] < 1
    assert row["lpips_net"] == "alex"
    assert row["latent_bits"] + row["side_bits"] <= 8 * row["bytes"]
    assert row["encode_seconds"] > 0 < row["decode_seconds"]
    assert row["duplicate_of"] == "again.png"
    small = found["small.jpg"]
    assert small["ms_ssim"] is None
    assert small["not_measured"] == "dists: not asked for; lpips_vgg: not asked for; ms_ssim: side below 161"
    assert small["error"] is None


def test_what_is_restored_is_what_the_codec_decodes(packed: tuple[Path, Path], tmp_path: Path) -> None:
    _, archive = packed
    assert restore(str(archive), str(tmp_path)).errors == []
    sizes = {}
    assert (tmp_path / "cut.png").read_bytes() == (packed[0] / "cut.png").read_bytes()
    (tmp_path / "cut.png").unlink()
    for path in tmp_path.iterdir():
        with Image.open(path) as image:
            sizes[path.name] = image.size
            if path.name == "clear.png":
                assert np.array_equal(np.asarray(image.getchannel("A")), MASK)
                assert image.getexif()[MAKER] == "maker"
    small = (51, 37)
    assert sizes == {"large.png": (200, 168), "again.png": (200, 168), "small.jpg.png": small, "clear.png": small}

    store = Store(str(archive))
    (row,) = report.query(store, "SELECT * FROM rows WHERE key = 'large.png'")
    codec = Codec.load(archive / "escrow" / row["bundle_id"])
    decoded = codec.decode(store.read_range(row["tar"], row["offset"], row["length"]))
    with Image.open(tmp_path / "large.png") as image:
        difference = np.abs(np.asarray(image).astype(int) - decoded)
    assert difference.max() <= 1
