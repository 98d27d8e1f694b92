"""What is shown to the world says where and by whom a picture was taken to nobody."""

from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from codec.images import read_image
from tasks.quality.thumbnails import thumbnail
from tasks.restore.before_after import Pictures
from tasks.storage.store import Store
from tasks.study.server import _png
from tests.support.archive_builder import folder, pack, rows
from tests.support.containers import PACKET, XMP, exif, segment, with_segments
from tests.tasks.restore.test_restore import FAKES, jpeg

pytestmark = pytest.mark.usefixtures("children_are_played_here")

SECRET = b"Jane Doe, 48.2N 16.4E"
SAYING = with_segments(
    segment(0xE1, b"Exif\0\0" + exif(6, extra=[(0x010E, 2, len(SECRET), SECRET)])),
    segment(0xE1, XMP + PACKET % SECRET),
    segment(0xFE, SECRET),
    data=jpeg(1),
)


def test_neither_the_study_nor_the_report_passes_metadata_on(tmp_path: Path, fake_bundle: Path) -> None:
    pack(folder(tmp_path / "s", {"a.jpg": SAYING}), tmp_path / "a", fake_bundle)
    (row,) = rows(tmp_path / "a")
    assert row["carried"] == ["coMm", "exIf", "xmPp"]
    with Pictures(Store(str(tmp_path / "a")), FAKES) as pictures:
        for picture in (pictures.original(row), pictures.stored(row), read_image(SAYING)):
            for shown in (bytes(_png(picture).body), thumbnail(picture)):
                assert SECRET not in shown
                with Image.open(BytesIO(shown)) as image:
                    assert image.size == (31, 17)  # upright
                    assert not {"exif", "xmp", "comment", "dpi"} & image.info.keys()
