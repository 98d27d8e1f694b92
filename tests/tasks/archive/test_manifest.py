"""What says which files an archive has must itself be whole: a byte changed in a manifest or a seal is found."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codec.errors import ArchiveError
from codec.metrics import names
from tasks.archive import layout, log, manifest
from tasks.archive.manifest import Manifest, RunSettings
from tasks.archive.opening import existing, writable
from tasks.maintenance.audit import audit
from tasks.restore.restore import restore
from tasks.storage.store import Store
from tests.support.archive_builder import folder, manifest_name, pack, reopened
from tests.support.codecless_archives import make

RUNS = [{"a": b"aaa", "b": b"bbb"}]
READERS: dict[str, Callable[[bytes, str], object]] = {
    "manifest": Manifest.from_bytes,
    "seal": manifest.from_json,
    "record": manifest.from_json,
}
CHANGES = {
    "manifest": (b'"threads": 1', b'"threads": 3'),
    "seal": (b"part-000000.parquet", b"part-000001.parquet"),
    "record": (b'"runs": 1,', b'"runs": 3,'),
}
"""One bit, by which a document stays a valid one."""


def named(store: Store, kind: str) -> str:
    return {"seal": layout.seal(1), "record": layout.record(3)}.get(kind) or manifest_name(store.url)


def changed(store: Store, kind: str) -> bytes:
    name = named(store, kind)
    data = store.read(name)
    found, planted = CHANGES[kind]
    assert data.count(found) == 1
    store.replace(name, data.replace(found, planted))
    return store.read(name)


def test_a_run_that_an_earlier_release_planned_is_finished_with_the_metrics_it_began_with(tmp_path: Path) -> None:
    store = make(tmp_path / "a", RUNS)
    name = manifest_name(store.url)

    def planned(**settings: object) -> RunSettings:
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
        settings = RunSettings(metrics=("all",), metrics_sample=fraction)
        assert all(set(names.DEFAULT) <= set(settings.metrics_of(key)) for key in keys)
        return {key for key in keys if "dists" in settings.metrics_of(key) and "lpips-vgg" in settings.metrics_of(key)}

    few, more = sample(0.02), sample(0.1)
    assert 140 < len(few) < 260 and 850 < len(more) < 1150 and few < more
    assert sample(1) == set(keys)
    assert min(few, key=lambda key: int(key[:-4])) == "29.jpg"  # what was sampled is sampled for ever
    assert RunSettings().metrics_of("29.jpg") == list(names.DEFAULT)


@pytest.mark.parametrize("kind", READERS)
def test_every_flipped_byte_is_refused_by_one_clear_error(kind: str, tmp_path: Path) -> None:
    store = make(tmp_path / "a", RUNS)
    name = named(store, kind)
    data = store.read(name)
    READERS[kind](data, name)
    for place in range(len(data)):
        for mask in (0x01, 0x2A):  # the second makes a blank of the end of a line
            flipped = data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :]
            with pytest.raises(ArchiveError, match=f"^{name}: damaged; restore it from a mirror$"):
                READERS[kind](flipped, name)


def test_without_its_hash_a_changed_document_would_be_taken(tmp_path: Path) -> None:
    store = make(tmp_path / "a", RUNS)

    def believed(kind: str) -> dict[str, Any]:
        document = json.loads(changed(store, kind))
        assert document["format"] == manifest.FORMAT
        del document["sha256"]
        return dict(document)

    planned = believed("manifest")
    assert Manifest(**planned | {"settings": RunSettings(**planned["settings"])}).settings.threads == 3
    [part] = believed("seal")["parts"]
    assert part["name"] == layout.part(1, 1), "a shard that this run does not have"
    assert believed("record")["head"]["runs"] == 3


@pytest.mark.parametrize("kind", READERS)
def test_the_audit_reports_it_and_no_command_goes_on(kind: str, fake_bundle: Path, tmp_path: Path) -> None:
    store, mirror = make(tmp_path / "a", RUNS), make(tmp_path / "mirror", RUNS)
    name = named(store, kind)
    changed(store, kind)
    assert [(found["state"], found["name"]) for found in audit(store.url).problems] == [("damaged", name)]
    if kind == "manifest":
        reopened(tmp_path / "a")
        with pytest.raises(ArchiveError, match=r"manifest-\w+.json: damaged"):
            pack(folder(tmp_path / "s", {}), tmp_path / "a", fake_bundle)
        audit(store.url, repair_from=mirror.url)
        assert audit(store.url).problems == []
        return
    if kind == "record":
        with pytest.raises(ArchiveError, match=rf"{name}: damaged; audit the archive with --repair-from a mirror"):
            restore(store.url, str(tmp_path / "out"))
    else:
        assert restore(store.url, str(tmp_path / "out")).images == 2, "the table has the rows too"
    assert audit(store.url, repair_from=mirror.url).repaired == 1
    assert audit(store.url).problems == []


def test_a_manifest_that_is_sound_but_not_the_one_that_was_sealed_is_found(tmp_path: Path) -> None:
    store = make(tmp_path / "a", RUNS)
    name = named(store, "manifest")
    document = manifest.from_json(store.read(name), "")
    store.replace(name, manifest.to_json(document | {"gone": 1}))
    assert log.plan(store, log.read(store), 1).gone == 1, "alone it is taken"
    assert [found["name"] for found in audit(store.url).problems] == [name]


def test_a_run_that_an_earlier_release_planned_has_batches_of_one(tmp_path: Path) -> None:
    store = make(tmp_path / "a", RUNS)
    name = manifest_name(store.url)
    document = json.loads(store.read(name)) | {"batch": 1}
    for own in ("batch", "processor_sample"):
        del document["settings"][own]
    del document["sha256"]
    assert Manifest.from_bytes(manifest.to_json(document), name).settings.batch == 1


def test_an_archive_names_its_digest_algorithm_and_one_with_another_is_refused(tmp_path: Path) -> None:
    store = make(tmp_path / "a", RUNS)
    document = manifest.from_json(store.read(layout.ARCHIVE), layout.ARCHIVE)
    for digest in ("sha256", "sha512"):
        store.replace(layout.ARCHIVE, manifest.to_json(document | {"digest": digest}))
        if digest == "sha256":
            assert existing(store.url).url == store.url
            continue
        for read in (existing, writable, audit, lambda url: restore(url, str(tmp_path / "out"))):
            with pytest.raises(ArchiveError, match="digest 'sha512', but this release knows 'sha256' alone"):
                read(store.url)
    assert not (tmp_path / "out").exists()


def test_an_archive_that_names_no_digest_algorithm_has_sha256(tmp_path: Path) -> None:
    store = make(tmp_path / "a", RUNS)
    assert "digest" not in manifest.from_json(store.read(layout.ARCHIVE), layout.ARCHIVE)
    assert audit(store.url).problems == []
