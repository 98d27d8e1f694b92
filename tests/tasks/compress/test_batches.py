"""Pictures encoded together: whatever fails, dies, or is taken again costs its own row, and no other byte changes."""

import hashlib
import signal
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codec import Codec, read_image
from codec.bundle import Bundle
from codec.containers.writing import encode_png
from codec.errors import ArchiveError, SettingsError
from tasks.archive import report
from tasks.archive.manifest import RunSettings
from tasks.compress.runs import compress
from tasks.compress.shard import CompressionJob, encode_shard
from tasks.compress.windows import BATCHES, Read, windows
from tasks.processes import encode_batches
from tasks.processes.child import ChildDied
from tasks.processes.codec_process import Models
from tasks.processes.requests import EncodeMany, Request
from tasks.storage.store import Store
from tests.conftest import synthetic
from tests.support import fake_codec, runner_processes
from tests.support.archive_builder import SMALL, InProcess, folder, in_process, pack, png, reopened, rows, snapshot

TOGETHER = replace(SMALL, batch=3, max_images_per_shard=100)
REAL = RunSettings(quality=8.0, metrics=("psnr",), batch=4)


def many(count: int) -> dict[str, bytes]:
    """Pictures of two sizes in turn, and a file that is no picture."""
    files = {f"{number:02d}.png": png(number, 40 if number % 3 else 24, 24) for number in range(count)}
    return files | {"05.jpg": b"no picture"}


def files_of(archive: Path) -> dict[str, tuple[str, str]]:
    """Codec and hash of what is kept, by key."""
    return {row["key"]: (row["codec"], row["sha256"]) for row in rows(archive)}


@pytest.mark.usefixtures("children_are_played_here")
def test_with_one_member_killed_the_bytes_of_all_others_are_those_without(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"{number}.png": encode_png(synthetic(40, 56, seed=number)) for number in range(6)}
    source, models = folder(tmp_path / "s", files), Models(str(bundle.path))
    compress(str(source), str(tmp_path / "whole"), REAL, models=models)
    ask, asked = InProcess.ask, list[list[int]]()

    def dies(self: InProcess, request: Request, payload: bytes = b"", *, seconds: float) -> Any:
        if isinstance(request, EncodeMany):
            asked.append([entry.position for entry in request.entries])
            if files["2.png"] in payload:
                raise ChildDied(-signal.SIGKILL)
        return ask(self, request, payload, seconds=seconds)

    monkeypatch.setattr(InProcess, "ask", dies)
    compress(str(source), str(tmp_path / "killed"), REAL, models=models)
    whole, killed = ({row["key"]: row for row in rows(tmp_path / name)} for name in ("whole", "killed"))
    assert asked == [[0, 1, 2, 3, 0, 1], [0, 1, 2, 3], [0], [1], [2], [2], [3], [0, 1]]
    assert (killed["2.png"]["status"], killed["2.png"]["reason"]) == ("fallback", "killed")
    assert killed["2.png"]["sha256"] == hashlib.sha256(files.pop("2.png")).hexdigest()
    for key in files:
        assert killed[key]["status"] == "compressed" and killed[key]["verified"]
        for name in ("sha256", "psnr_db", "content_sha256"):
            assert killed[key][name] == whole[key][name], (key, name)


@pytest.mark.parametrize("fault", [fake_codec.CRASH, fake_codec.RAISE, fake_codec.GROW])
def test_whatever_one_member_does_the_others_are_encoded_in_their_places(
    fault: int, tmp_path: Path, fake_bundle: Path
) -> None:
    files = {f"{number:02d}.png": png(number) for number in range(8)}
    source = folder(tmp_path / "s", files)
    with in_process():
        pack(source, tmp_path / "whole", fake_bundle, TOGETHER)
    folder(source, {"04.png": png(4, fault=fault)})
    with nullcontext() if fault == fake_codec.CRASH else in_process():
        pack(source, tmp_path / "faulty", fake_bundle, TOGETHER)
    whole, faulty = files_of(tmp_path / "whole"), files_of(tmp_path / "faulty")
    assert faulty.pop("04.png")[0] != "fdc"
    whole.pop("04.png")
    assert faulty == whole
    assert {codec for codec, _ in faulty.values()} == {"fdc"}


@pytest.mark.timing
def test_a_member_that_never_ends_costs_its_own_row(tmp_path: Path, fake_bundle: Path) -> None:
    files = {f"{number}.png": png(number) for number in range(3)}
    source = folder(tmp_path / "s", files | {"1.png": png(1, fault=fake_codec.HANG)})
    pack(source, tmp_path / "a", fake_bundle, replace(TOGETHER, image_timeout=2.0))
    found = [(row["key"], row["status"], row["reason"]) for row in rows(tmp_path / "a")]
    assert found == [("0.png", "compressed", None), ("1.png", "fallback", "timeout"), ("2.png", "compressed", None)]


@pytest.mark.usefixtures("children_are_played_here")
def test_a_file_says_its_place_and_the_shape_of_its_batch(tmp_path: Path, fake_bundle: Path) -> None:
    source = folder(tmp_path / "s", many(8))
    pack(source, tmp_path / "a", fake_bundle, TOGETHER)
    store, found = Store(str(tmp_path / "a")), rows(tmp_path / "a")
    assert [row["status"] for row in found].count("compressed") == 8
    for number, row in enumerate(found):
        if row["status"] == "compressed":
            data = store.read_range(row["tar"], row["offset"], row["length"])
            assert tuple(data[-2:]) == (number % 3, 3)


@pytest.mark.usefixtures("children_are_played_here")
def test_one_and_two_workers_and_other_windows_make_the_same_archive(
    tmp_path: Path, fake_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, settings = folder(tmp_path / "s", many(20)), replace(TOGETHER, max_images_per_shard=7)

    def two(job: CompressionJob, shards: int) -> Iterable[report.Totals]:
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(lambda shard: encode_shard(job, shard), range(shards)))

    archives = [tmp_path / name / "archive" for name in ("one", "two", "small")]
    pack(source, archives[0], fake_bundle, settings)
    pack(source, archives[1], fake_bundle, settings, shard_map=two)
    monkeypatch.setattr("tasks.compress.windows.BATCHES", 1)
    pack(source, archives[2], fake_bundle, settings)
    assert snapshot(archives[0]) == snapshot(archives[1]) == snapshot(archives[2])


@pytest.mark.usefixtures("children_are_played_here")
def test_killed_and_run_again_with_batches(tmp_path: Path, fake_bundle: Path) -> None:
    source, settings = folder(tmp_path / "s", many(8)), replace(TOGETHER, max_images_per_shard=4)
    undisturbed = tmp_path / "undisturbed" / "archive"
    pack(source, undisturbed, fake_bundle, settings)
    for point in ("encoding, the tar half spooled", "committing, first part published, nobody told"):
        archive = tmp_path / point / "archive"
        runner = runner_processes.start(source, archive, fake_bundle, point=point, settings=settings)
        assert runner_processes.end(runner) == -signal.SIGKILL
        assert pack(source, archive, fake_bundle, SMALL).runs == [1]  # with the settings of the run, not these
        assert snapshot(archive) == snapshot(undisturbed)


@pytest.mark.usefixtures("children_are_played_here")
def test_a_run_is_not_resumed_with_another_batch(tmp_path: Path, fake_bundle: Path) -> None:
    source = folder(tmp_path / "s", many(3))
    pack(source, tmp_path / "a", fake_bundle, TOGETHER)
    reopened(tmp_path / "a", 0)
    with pytest.raises(SettingsError, match=r"batch \(given 1, run has 3\)"):
        pack(source, tmp_path / "a", fake_bundle, replace(TOGETHER, batch=1), resume=1)
    assert pack(source, tmp_path / "a", fake_bundle, TOGETHER, resume=1).runs == [1]
    for batch in (0, 257):
        with pytest.raises(SettingsError, match="batch must be"):
            RunSettings(batch=batch)


@pytest.mark.usefixtures("children_are_played_here")
def test_equal_sources_and_held_ones_are_as_without_batches(tmp_path: Path, fake_bundle: Path) -> None:
    files = many(7) | {"again.png": png(3), "x/04.png": png(4), "y/04.png": png(4)}
    source = folder(tmp_path / "s", files)
    for name, settings in (("alone", replace(TOGETHER, batch=1)), ("together", TOGETHER)):
        pack(source, tmp_path / name, fake_bundle, settings)
        folder(source, {"01.png": png(1, 40, 24) + b"", "02.png": png(77)})
        (source / "01.png").touch()
        pack(source, tmp_path / name, fake_bundle, settings)
        folder(source, files)
    alone, together = (rows(tmp_path / name) for name in ("alone", "together"))
    same = ("key", "run", "status", "reason", "codec", "duplicate_of", "content_sha256", "source_sha256", "version")
    assert [[row[name] for name in same] for row in together] == [[row[name] for name in same] for row in alone]
    assert {"compressed", "fallback", "unchanged"} <= {row["status"] for row in together}


@pytest.mark.usefixtures("children_are_played_here")
def test_a_batch_of_one_gives_the_bytes_that_encode_gives(bundle: Bundle, tmp_path: Path) -> None:
    source = folder(tmp_path / "s", {f"{n}.png": encode_png(synthetic(40, 56, seed=n)) for n in range(2)})
    compress(str(source), str(tmp_path / "a"), replace(REAL, batch=1), models=Models(str(bundle.path)))
    codec = Codec.load(bundle)
    for row in rows(tmp_path / "a"):
        own = codec.encode(read_image(source / row["key"]), quality=8.0).data
        assert row["sha256"] == hashlib.sha256(own).hexdigest()


@pytest.mark.usefixtures("children_are_played_here")
@pytest.mark.parametrize("verify", [True, False])
def test_metrics_are_those_of_the_files(verify: bool, bundle: Bundle, tmp_path: Path) -> None:
    source = folder(tmp_path / "s", {f"{n}.png": encode_png(synthetic(40, 56, seed=n)) for n in range(5)})
    compress(str(source), str(tmp_path / "a"), replace(REAL, verify=verify), models=Models(str(bundle.path)))
    store, codec = Store(str(tmp_path / "a")), Codec.load(bundle)
    found = report.query(store, "SELECT * FROM rows ORDER BY key")
    assert len(found) == 5
    for row in found:
        pixels = codec.decode(store.read_range(row["tar"], row["offset"], row["length"])).astype(float)
        error = np.square(pixels - read_image(source / row["key"]).pixels).mean()
        assert row["psnr_db"] == pytest.approx(10 * np.log10(255**2 / error), abs=0.05)
        assert row["encode_seconds"] > 0 < row["decode_seconds"]


@pytest.mark.usefixtures("children_are_played_here")
def test_a_large_picture_and_one_with_a_floor_are_encoded_alone(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder(tmp_path / "s", {f"{n}.png": encode_png(synthetic(40, 56, seed=n)) for n in range(2)})
    models, codec = Models(str(bundle.path)), Codec.load(bundle)
    own = {name: codec.encode(read_image(source / name), quality=8.0).data for name in ("0.png", "1.png")}
    hashes = {name: ("fdc", hashlib.sha256(data).hexdigest()) for name, data in own.items()}
    compress(str(source), str(tmp_path / "floor"), replace(REAL, min_psnr_db=1.0), models=models)
    monkeypatch.setattr(encode_batches, "LARGEST_TOGETHER", 40 * 56 - 1)
    compress(str(source), str(tmp_path / "large"), REAL, models=models)
    assert files_of(tmp_path / "floor") == files_of(tmp_path / "large") == hashes


@pytest.mark.usefixtures("children_are_played_here")
@pytest.mark.parametrize("batch", [1, 3])
def test_a_card_that_decodes_otherwise_than_the_processor_stops_the_run(
    batch: int, bundle: Bundle, tmp_path: Path
) -> None:
    source = folder(tmp_path / "s", {f"{n}.png": encode_png(synthetic(40, 56, seed=n)) for n in range(4)})
    card = Models(str(bundle.path), "cpu:0", codec="tests.support.faulty_codec:LyingCard")
    settings = replace(REAL, batch=batch, processor_sample=1.0)
    with pytest.raises(ArchiveError, match=r"'0.png': decodes incorrectly on cpu:0, but correctly on the CPU"):
        compress(str(source), str(tmp_path / "a"), settings, models=card)
    assert not list((tmp_path / "a").rglob("*.tar"))
    compress(str(source), str(tmp_path / "b"), settings, models=replace(card, codec=Models("").codec))
    assert {row["status"] for row in rows(tmp_path / "b")} == {"compressed"}


def test_the_sample_that_a_processor_decodes_is_chosen_by_keys() -> None:
    keys = [f"{number}.jpg" for number in range(20_000)]
    small, large = (
        {key for key in keys if RunSettings(processor_sample=f).is_decoded_on_processor(key)} for f in (0.01, 0.1)
    )
    assert small < large
    assert len(small) == pytest.approx(200, rel=0.3)


def test_windows_hold_a_few_batches_and_not_too_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(size: int) -> Read:
        return Read({}, 0, bytes(size))

    found = [len(window) for window in windows([read(1) for _ in range(2 * BATCHES * 3 + 1)], 3)]
    assert found == [BATCHES * 3, BATCHES * 3, 1]
    monkeypatch.setattr("tasks.compress.windows.WINDOW_BYTES", 10)
    sizes: list[Any] = [
        [len(one.source or b"") for one in window] for window in windows(map(read, (4, 4, 4, 50, 1)), 3)
    ]
    assert sizes == [[4, 4, 4], [50], [1]]
