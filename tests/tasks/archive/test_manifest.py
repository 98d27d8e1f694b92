"""What says which files an archive has must itself be whole: a byte changed in a manifest or a seal is found."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codec.errors import ArchiveError
from codec.metrics import names
from tasks.archive import layout, manifest
from tasks.archive.manifest import Manifest, Settings
from tasks.maintenance.audit import audit
from tasks.restore.restore import restore
from tasks.storage.store import Store
from tests.support.archive_builder import pack
from tests.support.codecless_archives import make

RUNS = [{"a": b"aaa", "b": b"bbb"}]
READERS: dict[str, Callable[[bytes, str], object]] = {
    layout.manifest(1): Manifest.from_bytes,
    layout.seal(1): manifest.from_json,
}
CHANGES = {
    layout.manifest(1): (b'"threads": 1', b'"threads": 3'),
    layout.seal(1): (b"part-000000.parquet", b"part-000001.parquet"),
}
"""One bit, by which a document stays a valid one."""


def changed(store: Store, name: str) -> bytes:
    data = store.read(name)
    found, planted = CHANGES[name]
    assert data.count(found) == 1
    store.replace(name, data.replace(found, planted))
    return store.read(name)


def test_a_run_that_an_earlier_release_planned_is_finished_with_the_metrics_it_began_with(tmp_path: Path) -> None:
    store = make(tmp_path / "a", RUNS)
    name = layout.manifest(1)

    def planned(**settings: object) -> Settings:
        document = json.loads(store.read(name))
        del document["sha256"], document["settings"]["metrics"], document["settings"]["metrics_sample"]
        document["settings"] |= settings
        return Manifest.from_bytes(manifest.to_json(document), name).settings

    measured = planned(metrics=True, lpips_net="alex")
    assert measured.metrics == ("psnr", "ms-ssim", "lpips", "dists") and measured.metrics_sample == 1
    assert measured.metrics_of("any key") == ["psnr", "ms-ssim", "lpips", "dists"]
    assert planned(metrics=False, lpips_net="alex").metrics == ()


def test_costly_metrics_are_measured_on_a_sample_by_key_that_grows_with_the_fraction() -> None:
    keys = [f"{number}.jpg" for number in range(10_000)]

    def sample(fraction: float) -> set[str]:
        settings = Settings(metrics=("all",), metrics_sample=fraction)
        assert all(set(names.DEFAULT) <= set(settings.metrics_of(key)) for key in keys)
        return {key for key in keys if "dists" in settings.metrics_of(key) and "lpips-vgg" in settings.metrics_of(key)}

    few, more = sample(0.02), sample(0.1)
    assert 140 < len(few) < 260 and 850 < len(more) < 1150 and few < more
    assert sample(1) == set(keys)
    assert min(few, key=lambda key: int(key[:-4])) == "29.jpg"  # what was sampled is sampled for ever
    assert Settings().metrics_of("29.jpg") == list(names.DEFAULT)


@pytest.mark.parametrize("name", READERS)
def test_every_flipped_byte_is_refused_by_one_clear_error(name: str, tmp_path: Path) -> None:
    data = make(tmp_path / "a", RUNS).read(name)
    READERS[name](data, name)
    for place in range(len(data)):
        for mask in (0x01, 0x2A):  # the second makes a blank of the end of a line
            flipped = data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :]
            with pytest.raises(ArchiveError, match=f"^{name}: damaged; restore it from a mirror$"):
                READERS[name](flipped, name)


def test_without_its_hash_a_changed_document_would_be_taken(tmp_path: Path) -> None:
    store = make(tmp_path / "a", RUNS)

    def believed(name: str) -> dict[str, Any]:
        document = json.loads(changed(store, name))
        assert document["format"] == manifest.FORMAT
        del document["sha256"]
        return dict(document)

    planned = believed(layout.manifest(1))
    assert Manifest(**planned | {"settings": Settings(**planned["settings"])}).settings.threads == 3
    [part] = believed(layout.seal(1))["parts"]
    assert part["name"] == layout.part(1, 1), "a shard that this run does not have"


@pytest.mark.parametrize("name", READERS)
def test_the_audit_reports_it_and_no_command_goes_on(name: str, fake_bundle: Path, tmp_path: Path) -> None:
    store, mirror = make(tmp_path / "a", RUNS), make(tmp_path / "mirror", RUNS)
    changed(store, name)
    assert [(found["state"], found["name"]) for found in audit(store.url).problems] == [("damaged", name)]
    if name == layout.seal(1):
        with pytest.raises(ArchiveError, match=r"complete.json: damaged"):
            restore(store.url, str(tmp_path / "out"))
    else:
        store.remove(layout.seal(1))
        (tmp_path / "s").mkdir()
        with pytest.raises(ArchiveError, match=r"manifest.json: damaged"):
            pack(tmp_path / "s", tmp_path / "a", fake_bundle)
    assert audit(store.url, repair_from=mirror.url).repaired == 1
    assert audit(store.url).problems == []


def test_a_manifest_that_is_sound_but_not_the_one_that_was_sealed_is_found(tmp_path: Path) -> None:
    store = make(tmp_path / "a", RUNS)
    document = manifest.from_json(store.read(layout.manifest(1)), "")
    store.replace(layout.manifest(1), manifest.to_json(document | {"gone": 1}))
    assert manifest.read(store, 1).gone == 1, "alone it is taken"
    assert [found["name"] for found in audit(store.url).problems] == [layout.manifest(1)]
