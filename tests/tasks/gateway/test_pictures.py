"""Pictures come as asked, with their profile alone; files in ranges; what is forgotten or damaged never comes."""

import io
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from codec.format.bitstream import parse
from tasks.archive import report
from tasks.gateway import pictures
from tasks.gateway.addresses import link
from tasks.gateway.pictures import DecodingLimits
from tasks.maintenance.forget import forget
from tasks.processes.requests import Show
from tasks.storage.keys import key_of
from tasks.storage.store import Store
from tests.support.gateways import ODD_KEYS, SECRET, Running, files, running

PHOTO = "/2024/photo.jpg"
"""240 x 400 pixels as displayed."""


def image(data: bytes) -> Image.Image:
    opened = Image.open(io.BytesIO(data))
    opened.load()
    return opened


def row(archive: Path, key: str) -> dict[str, Any]:
    [found] = [row for row in report.query(Store(str(archive)), "SELECT * FROM rows") if row["key"] == key]
    return found


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "avif"])
def test_a_picture_is_upright_with_its_profile_alone_in_any_kind(gateway: Running, suffix: str) -> None:
    response = gateway.get(f"{PHOTO}.{suffix}")
    assert response.status_code == 200
    shown = image(response.content)
    assert (shown.size, shown.get_format_mimetype()) == ((240, 400), response.headers["content-type"])
    assert shown.info["icc_profile"]
    assert SECRET not in response.content and not shown.getexif()
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in response.headers["content-security-policy"]


def test_a_width_reduces_and_never_enlarges(gateway: Running) -> None:
    assert image(gateway.get(f"{PHOTO}.png?width=100").content).size == (100, 167)
    assert image(gateway.get(f"{PHOTO}.jpg?width=7").content).size == (7, 12)
    assert image(gateway.get(f"{PHOTO}.png?width=9999").content).size == (240, 400)


def test_thumbnails_come_from_the_preview_without_a_codec(made_archive: Path, tmp_path: Path) -> None:
    with running(made_archive, tmp_path / "cache") as served:
        stored = served.get(f"{PHOTO}.webp?preview=1")
        assert image(stored.content).size == (38, 64)
        assert image(served.get(f"{PHOTO}.webp?width=38").content).size == (38, 64)
        assert image(served.get(f"{PHOTO}.jpg?width=20").content).size == (20, 34)
        assert served.get("/a.png.png?preview=1").status_code == 404, "a picture this small has none"
        figures = served.get("/metrics").text
        assert 'fdc_gateway_pictures_total{origin="preview"} 3.0' in figures
        assert 'codec="fdc"' not in figures and 'origin="decoded"' not in figures
    imports = "import sys, flows.gateway, tasks.processes.show_worker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", imports], check=False).returncode == 0


@pytest.mark.parametrize("key", ODD_KEYS)
def test_a_key_may_contain_anything(gateway: Running, key: str) -> None:
    width = 32 + 8 * ODD_KEYS.index(key)
    response = gateway.get(link(key_of(key), "png"))
    assert response.status_code == 200 and image(response.content).size == (width, 24)


def test_etags_follow_content_and_form_and_save_the_picture(gateway: Running) -> None:
    tags = {}
    for address in (f"{PHOTO}.png", f"{PHOTO}.jpg", f"{PHOTO}.png?width=50", f"{PHOTO}.webp?preview=1", f"{PHOTO}.fdc"):
        response = gateway.get(address)
        tags[address] = response.headers["etag"]
        assert "no-cache" in response.headers["cache-control"], "an erased picture must not stay in a browser unasked"
        again = gateway.get(address, if_none_match=f'"other", {tags[address]}')
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tags[address])
        assert gateway.get(address, if_none_match='"other"').content == response.content
    assert len(set(tags.values())) == len(tags)
    head = gateway.client.head(f"{PHOTO}.png")
    assert (head.status_code, head.headers["etag"], head.content) == (200, tags[f"{PHOTO}.png"], b"")
    assert "content-length" not in head.headers, "that of a picture is known when it is made"


def test_a_download_of_an_fdc_file_is_resumed(gateway: Running, made_archive: Path) -> None:
    whole = gateway.get(f"{PHOTO}.fdc")
    assert whole.headers["accept-ranges"] == "bytes" and parse(whole.content).orientation == 6
    half = len(whole.content) // 2
    first = gateway.get(f"{PHOTO}.fdc", range=f"bytes=0-{half - 1}")
    rest = gateway.get(f"{PHOTO}.fdc", range=f"bytes={half}-", if_range=first.headers["etag"])
    assert (first.status_code, rest.status_code) == (206, 206)
    assert rest.headers["content-range"] == f"bytes {half}-{len(whole.content) - 1}/{len(whole.content)}"
    assert first.content + rest.content == whole.content
    changed = gateway.get(f"{PHOTO}.fdc", range=f"bytes={half}-", if_range='"of an older file"')
    assert (changed.status_code, changed.content) == (200, whole.content)
    beyond = gateway.get(f"{PHOTO}.fdc", range=f"bytes={len(whole.content)}-")
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(whole.content)}")


def test_a_shared_file_has_its_pixels_and_profile_but_no_metadata_unless_told(
    gateway: Running, made_archive: Path, tmp_path: Path
) -> None:
    about = row(made_archive, "2024/photo.jpg")
    stored = Store(str(made_archive)).read_range(about["tar"], about["offset"], about["length"])
    assert [chunk.tag for chunk in parse(stored).chunks] == ["ICCP", "exIf", "prEV"]
    shared = parse(gateway.get(f"{PHOTO}.fdc").content)
    assert [chunk.tag for chunk in shared.chunks] == ["ICCP", "prEV"] and shared.stream == parse(stored).stream
    assert gateway.get("/animated.gif.original").status_code == 403
    with running(made_archive, tmp_path / "cache", metadata=True) as served:
        assert served.get(f"{PHOTO}.fdc").content == stored
        kept = served.get("/animated.gif.original")
        assert kept.content == files()["animated.gif"] and kept.headers["content-type"] == "image/gif"
        # a page of a stranger must not run on this address
        page = served.get("/page.html.original")
        assert page.headers["content-type"] == "application/octet-stream"
        assert (
            page.headers["content-disposition"] == "attachment" and "sandbox" in page.headers["content-security-policy"]
        )
        assert served.get(f"{PHOTO}.original").status_code == 404


def test_a_file_kept_whole_is_shown_if_it_is_a_picture(gateway: Running) -> None:
    assert image(gateway.get("/animated.gif.png").content).size == (90, 60)
    assert image(gateway.get("/animated.gif.webp?width=45").content).size == (45, 30)
    text = gateway.get("/page.html.png")
    assert text.status_code == 415 and text.text.count("\n") == 1
    assert gateway.get("/animated.gif.fdc").status_code == 404


def test_a_picture_beyond_max_pixels_is_413_but_its_preview_is_shown(made_archive: Path, tmp_path: Path) -> None:
    with running(made_archive, tmp_path / "cache", limits=DecodingLimits(max_pixels=240 * 400 - 1)) as served:
        assert served.get(f"{PHOTO}.png").status_code == 413
        assert served.get(f"{PHOTO}.png?width=100").status_code == 413
        assert served.get(f"{PHOTO}.png?width=38").status_code == 200


def test_a_key_forgotten_while_cached_is_gone_from_answers_and_disk(own_archive: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with running(own_archive, cache) as served:
        shown = served.get(f"{PHOTO}.png")
        tag = shown.headers["etag"]
        other = served.get("/a.png.png")
        sha256 = row(own_archive, "2024/photo.jpg")["sha256"]
        assert (cache / sha256).is_dir()
        forget(Store(str(own_archive)), ["2024/photo.jpg"])
        for address in (f"{PHOTO}.png", f"{PHOTO}.jpg", f"{PHOTO}.fdc", f"{PHOTO}.webp?preview=1"):
            for headers in ({}, {"if-none-match": tag}, {"if-none-match": "*"}):
                assert served.client.get(address, headers=headers).status_code == 410
        assert not (cache / sha256).exists()
        assert served.get("/a.png.png").content == other.content, "the others are still there"
        assert "photo.jpg" not in served.get("/").text
    # one that was forgotten while no gateway ran is removed when one starts
    with running(own_archive, cache) as served:
        assert served.get("/a.png.png").status_code == 200
    name = row(own_archive, "a.png")["sha256"]
    assert (cache / name).is_dir()
    forget(Store(str(own_archive)), ["a.png"], companions="leave")
    with running(own_archive, cache):
        assert not (cache / name).exists()


def test_a_key_forgotten_while_its_picture_is_made_is_neither_sent_nor_kept(
    own_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = threading.Event()
    asked = threading.Event()

    def waiting(*arguments: Any) -> bytes:
        made = real(*arguments)
        asked.set()
        assert free.wait(60)
        return made

    real = pictures.PictureMaker._asked
    monkeypatch.setattr(pictures.PictureMaker, "_asked", waiting)
    sha256 = row(own_archive, "2024/photo.jpg")["sha256"]
    with running(own_archive, tmp_path / "cache") as served, ThreadPoolExecutor(1) as thread:
        first = thread.submit(served.get, f"{PHOTO}.png")
        assert asked.wait(60)
        forget(Store(str(own_archive)), ["2024/photo.jpg"])
        assert served.get(f"{PHOTO}.png").status_code == 410
        free.set()
        assert first.result().status_code == 410
        assert not (tmp_path / "cache" / sha256).exists()


def test_a_damaged_picture_is_502_in_one_line_and_never_half(own_archive: Path, tmp_path: Path) -> None:
    about = row(own_archive, "2024/photo.jpg")
    tar = own_archive / about["tar"]
    tar.chmod(0o644)
    content = bytearray(tar.read_bytes())
    content[about["offset"] + about["length"] // 2] ^= 1
    tar.write_bytes(content)
    with running(own_archive, tmp_path / "cache") as served:
        for address in (f"{PHOTO}.png", f"{PHOTO}.fdc", f"{PHOTO}.webp?preview=1"):
            response = served.get(address, range="bytes=0-9")
            assert response.status_code == 502 and "damaged" in response.text and response.text.count("\n") == 1
            assert str(own_archive) not in response.text
        assert served.get("/a.png.fdc").status_code == 200
        tar.unlink()
        assert served.get("/100%25.png.png").status_code == 502
        (own_archive / "log").rename(own_archive / "gone")
        assert served.get("/a.png.png").status_code in (503, 404), "an older state might show what was erased"


def decodings(gateway: Running) -> float:
    """How many .fdc files a gateway has decoded."""
    return float(gateway.get("/metrics").text.partition('decoding_seconds_count{codec="fdc"} ')[2].split()[0])


def test_a_picture_asked_for_by_many_is_decoded_once(gateway: Running) -> None:
    gateway.get("/a.png.png")
    before = decodings(gateway)
    with ThreadPoolExecutor(8) as threads:
        responses = list(threads.map(gateway.get, [f"{PHOTO}.png?width=99"] * 8))
    assert {response.status_code for response in responses} == {200}
    assert len({response.content for response in responses}) == 1
    assert decodings(gateway) == before + 1


def test_a_full_queue_is_503_with_retry_after_while_thumbnails_are_served(
    made_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = threading.Event()
    asked = threading.Event()

    def waiting(self: object, child: Any, request: Show, data: bytes, size: Any) -> bytes:
        if request.codec == "fdc":
            asked.set()
            assert free.wait(15)
        return real(self, child, request, data, size)  # type: ignore[arg-type]

    real = pictures.PictureMaker._asked
    monkeypatch.setattr(pictures.PictureMaker, "_asked", waiting)
    limits = DecodingLimits(workers=1, longest_wait=0.0)
    with running(made_archive, tmp_path / "cache", limits=limits) as served, ThreadPoolExecutor(1) as thread:
        first = thread.submit(served.get, f"{PHOTO}.png")
        assert asked.wait(60)
        busy = served.get("/a.png.png")
        assert busy.status_code == 503 and int(busy.headers["retry-after"]) >= 1
        assert served.get(f"{PHOTO}.webp?preview=1").status_code == 200
        assert float(served.get("/metrics").text.rpartition("fdc_gateway_queue_seconds ")[2].split()[0]) > 0
        free.set()
        assert first.result().status_code == 200
        assert served.get("/a.png.png").status_code == 200


def test_a_decoder_that_crashes_costs_one_response(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "SECONDS", 0.001)  # the child's own alarm ends it
    died = gateway.get(f"{PHOTO}.png?width=98")
    assert died.status_code == 504 and died.text == "cannot be decoded: took too long\n"
    monkeypatch.undo()
    assert gateway.get(f"{PHOTO}.png?width=98").status_code == 200
