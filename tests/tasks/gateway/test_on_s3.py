"""An archive on a real S3 server is served by reading alone, with keys that no folder could have."""

import re
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from codec import encode_png
from codec.bundle import Bundle
from tasks.gateway.addresses import link
from tasks.maintenance.forget import forget
from tasks.storage.store import Store
from tests.conftest import synthetic
from tests.support.fake_s3 import in_environment
from tests.support.gateways import packed, photo, running

KEYS = ("x/../y.png", "/leading.png", "a//b.png", "./dot.png", "..", "../../archive.json", "photo.jpg")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "requests"


@pytest.fixture(scope="module")
def bucket(log: Path, bundle: Bundle) -> Iterator[str]:
    """An archive whose source is a bucket."""
    with in_environment(log):
        store = fsspec.filesystem("s3")
        store.mkdir("pictures")
        client = Store("s3://pictures/source")
        for number, key in enumerate(KEYS[:-1]):
            client.publish(key, encode_png(synthetic(24, 40 + number)))
        client.publish("photo.jpg", photo())
        packed("s3://pictures/source", "s3://pictures/archive", bundle.path)
        yield "s3://pictures/archive"


def test_every_key_is_served_by_reading_alone_a_forgotten_one_is_gone_and_a_store_that_is_gone_is_503(
    bucket: str, log: Path, tmp_path: Path
) -> None:
    before = len(log.read_text().splitlines())
    with running(bucket, tmp_path / "cache") as served:
        for key in KEYS:
            response = served.get(link(key, "png"))
            assert response.status_code == 200, key
        whole = served.get("/photo.jpg.fdc").content
        half = served.get("/photo.jpg.fdc", range=f"bytes={len(whole) // 2}-")
        assert half.status_code == 206 and whole.endswith(half.content)
        assert served.get("/").status_code == served.get("/photo.jpg.webp?preview=1").status_code == 200
        asked = re.findall(r'"([A-Z]+) /', "\n".join(log.read_text().splitlines()[before:]))
        assert set(asked) <= {"GET", "HEAD"} and len(asked) > 20, "credentials to read and list suffice"
        assert served.get("/photo.jpg.jpg").status_code == 200
        forget(Store(bucket), ["photo.jpg"], companions="leave")
        assert served.get("/photo.jpg.jpg").status_code == 410
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tasks.archive.log.number", _unreachable)
            away = served.get(link("a//b.png", "png"))
            assert away.status_code == 503 and away.headers["retry-after"] == "10" and "s3" not in away.text
        assert served.get(link("a//b.png", "png")).status_code == 200


def _unreachable(archive: Store) -> int:
    return len(Store("s3://no-such-bucket-at-all/x").children("log"))
