"""Long benchmarks in their short form: they run, and find what was made for them to find."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest

from codec.bundle import Bundle
from codec.containers.inspect import inspect
from codec.containers.judgement import judge
from codec.containers.writing import encode_png
from tasks.processes.codec_process import Models
from tests.benchmarks import (
    coded_length,
    corpus,
    denoising_arms,
    effort,
    entropy_grids,
    entropy_speed,
    format_mutations,
    foundation,
    gateway,
    learning_speed,
    listing_scale,
    mutants,
    pass_through,
    quantizer_arms,
    report_scale,
    sharding_speed,
    silent_losses,
)
from tests.codec.containers.test_pictures_once_lost import CASES
from tests.conftest import synthetic
from tests.support.image_files import stored
from tests.support.tiny_bundles import TINY, tiny_bundle

Printed = Callable[..., str]
GIGABYTE_IN_MB = 1000
ROOT = Path(__file__).parents[2]


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Printed:
    """Call a benchmark's main with arguments; what it and its processes printed."""

    def call(main: Callable[[], object], *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["benchmark", *map(str, arguments)])
        main()
        return capfd.readouterr().out

    return call


def test_every_planted_mistake_has_its_place_in_the_code() -> None:
    decoder = format_mutations.DECODER.read_text()
    mistakes = format_mutations.listed()
    assert len(mistakes) > 100
    for mistake in mistakes:
        assert mistake.planted(decoder) != decoder, mistake.name
    for mutant in mutants.read_table():
        assert (ROOT / mutant.file).read_text().count(mutant.old) == 1, mutant.name


def test_processes_that_pass_pictures_through_stay_below_a_gigabyte(printed: Printed) -> None:
    table = printed(pass_through.main, "--few", 4, "--many", 40)
    rows = re.findall(r"^\| (\d+) \| .* \| ([\d.]+) \| ([\d.]+) \|$", table, re.MULTILINE)
    assert [int(images) for images, *_ in rows] == [4, 40]
    assert all(0 < float(peak) < GIGABYTE_IN_MB for _, *peaks in rows for peak in peaks)
    assert re.search(r"an image: -?[\d.]+ ms wall, -?[\d.]+ ms processor\ngrowth of the process: -?[\d.]+ KB", table)


def test_planning_against_a_history_finds_what_changed_and_stays_below_a_gigabyte(printed: Printed) -> None:
    found = json.loads(printed(listing_scale.main, "--keys", 1000, "--history", 10_000))
    assert found["states"] == {"changed": 9, "gone": 9100, "new": 100}
    assert 0 < found["peak_mb"] < GIGABYTE_IN_MB


def test_no_part_of_a_picture_is_lost_without_a_word(printed: Printed) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        printed(silent_losses.main, "--cases", 3000, "--seed", 1)


def test_a_loss_is_reported_where_a_reader_overlooks_a_part(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    careless = dataclasses.replace(judge(inspect(silent_losses.INSERTIONS[0](Random(0)).data)), reason=None, blocks=())
    monkeypatch.setattr(silent_losses, "judge", lambda structure: careless)
    monkeypatch.setattr(sys, "argv", ["benchmark", "--cases", "20"])
    with pytest.raises(SystemExit, match=r"^1$"):
        silent_losses.main()
    assert "| JPEG | lost: JPEG" in capfd.readouterr().out


def test_golden_files_find_mistakes_of_a_decoder(printed: Printed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(format_mutations, "checks", cheap_checks)
    names = ("symbol limit 255", "alpha way 2 undone as way 1", "end offset not bounded", "no clamp to S after a block")
    assert "4 of 4 mutants killed." in printed(format_mutations.main, "--only", *names)


def test_a_mistake_that_no_file_finds_is_reported(printed: Printed, monkeypatch: pytest.MonkeyPatch) -> None:
    harmless = format_mutations.Mistake("no mistake", "limit: int = 2**15 - 1", "limit: int = 32767")
    monkeypatch.setattr(format_mutations, "checks", cheap_checks)
    monkeypatch.setattr(format_mutations, "listed", lambda only: [harmless])
    assert "| no mistake | survives: no argument |" in printed(format_mutations.main)
    assert format_mutations.main() == 1
    with pytest.raises(ValueError, match="occurs 0 times"):
        dataclasses.replace(harmless, right="nowhere").planted("source")


def cheap_checks(kinds: object) -> dict[str, format_mutations.Check]:
    """The checks that the short form needs, in milliseconds."""
    return {name: check for name, check in EVERY_CHECK(()).items() if name in CHEAP}


EVERY_CHECK = format_mutations.checks
CHEAP = ("largest-parallel", "alpha-way-2", "refused/version-1-last-word-after-next", "extreme-0")


def test_a_foundation_model_is_measured_in_every_part(printed: Printed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    table = printed(foundation.main)
    assert "measured: codec.diffusion.gpu" in table and "failed" not in table
    rows = re.findall(r"^\| 96 x 64 \| ([\w -]+) \| (\d) \| [\d.]+ \|", table, re.MULTILINE)
    assert sorted(rows) == sorted(
        [(part, batch) for part in foundation.ALONE for batch in "12"] + [(foundation.TOGETHER, "1")]
    )


def test_every_stage_trains_on_a_foundation_model_whose_codec_then_compresses_verifies_and_restores() -> None:
    command = [sys.executable, "-m", "tests.benchmarks.foundation", "--train", "--tiny"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    stages = ("entropy", "adapter", "joint")
    memory = re.findall(r"^\| (\w+) \| 1 \| (no|yes) \| [\d.]+ \| ([\d.]+) \|$", ran.stdout, re.MULTILINE)
    assert [(stage, recomputed) for stage, recomputed, _ in memory] == [
        (s, word) for s in stages for word in ("no", "yes")
    ]
    kept = [float(activations) for *_, activations in memory]
    assert all(after < before for before, after in zip(kept[::2], kept[1::2], strict=True))
    steps = re.findall(r"^\| (\w+) \| ([12]) \| [\d.]+ \| [\d.]+ \| [\d.]+ \|$", ran.stdout, re.MULTILINE)
    assert steps == [(stage, step) for stage in stages for step in "12"]
    assert "bits per pixel, verified; restored with the same size" in ran.stdout


def test_what_a_gpu_is_fed_is_measured_in_every_part(tmp_path: Path) -> None:
    """In a process of its own: other tests leave states of libraries behind with which a training fails here."""
    parts = ["--only", "coders", "entropy", "archive", "training", "--trace", str(tmp_path / "trace.json")]
    command = [sys.executable, "-m", "tests.benchmarks.gpu", *parts]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    table = ran.stdout
    assert "failed" not in table and "left out" not in table, table
    entropy = re.findall(r"^\| tiny \| (\d) \| ([\w ]+) \|(?: [\d.]+ \|){4}$", table, re.MULTILINE)
    assert entropy == [(count, way) for count in "12" for way in ("one by one", "together")]
    assert re.findall(r"^\| (constriction|compiled) \|(?: [\d.]+ \|){3}$", table, re.M) == ["constriction", "compiled"]
    assert re.search(r"^\| 2 \| psnr \| [\d.]+ \| [\d.]+ \| [\d.]+ \|$", table, re.MULTILINE)
    stages = {event["name"] for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]}
    assert stages == {"read", "networks", "coder", "decode", "metrics", "verify"}
    trained = re.findall(r"^\| (unet|end_to_end) \| 4 \| 32 \| ([\d.]+) \| ([\d.]+) \| \d+% \| (\d+)% \|$", table, re.M)
    assert [stage for stage, *_ in trained] == ["unet", "end_to_end"]
    assert all(float(rate) > 0 and int(waited) <= 100 for _, rate, _, waited in trained)


def test_learning_from_an_archive_is_measured_by_way(printed: Printed, tmp_path: Path) -> None:
    for seed in range(2):
        (tmp_path / f"{seed}.png").write_bytes(stored(synthetic(48, 64, seed=seed), "PNG"))
    table = printed(learning_speed.main, tmp_path, "--workers", 0)
    rates = dict(re.findall(r"^\| ([\w, ]+) \| 0 \| ([\d.]+) \| [\d.]+ \|$", table, re.MULTILINE))
    assert list(rates) == ["pixels", "latents", "latents, cached", "PNG", "source"]
    assert all(float(rate) > 0 for rate in rates.values())


def test_photos_are_packed_with_and_without_the_check(printed: Printed) -> None:
    table = printed(sharding_speed.main, "--photos", 8)
    rates = dict(re.findall(r"^\| (with|without) \| \d+ \| (\d+) \|$", table, re.MULTILINE))
    assert int(rates["with"]) > 0 and int(rates["without"]) > 0


def test_a_generated_report_is_compacted_and_asked(printed: Printed, tmp_path: Path) -> None:
    table = printed(report_scale.main, tmp_path / "archive", "--rows", 4000)
    assert "4000 rows of 1 runs in 1 files" in table
    questions = re.findall(r"^\| (.+?) \| [\d.]+ \| [\d.]+ \|$", table, re.MULTILINE)
    assert questions[: len(report_scale.QUESTIONS)] == list(report_scale.QUESTIONS)
    assert len(questions) == 2 * len(report_scale.QUESTIONS)


def test_arms_and_lengths_are_measured_of_a_bundle_with_dither(printed: Printed, tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle", entropy=dataclasses.replace(TINY, dither=True)).path
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "photo.png").write_bytes(encode_png(synthetic(176, 200)))
    arms = ("no dither", "dither", "channel 0 finer")
    table = printed(quantizer_arms.main, photos, "--bundle", bundle, "--qualities", 2, 32, "--arms", *arms)
    rows = dict(re.findall(r"^\| ([a-z0-9, ]+?) \| (.+) \|$", table, re.MULTILINE))
    assert set(arms) <= set(rows)
    assert set(rows["dither"].split(" | ")) <= {"+0.0 % (+0.0 to +0.0)", "no quality in common"}, "it is the default"
    assert rows["no dither"] != rows["dither"]
    assert "| U-Net, 2 step(s) |" in printed(denoising_arms.main, photos, "--bundle", bundle, "--qualities", 8)
    lengths = printed(coded_length.main, bundle, photos, "--qualities", 8)
    over = re.search(r"^\| 8 \| [\d.]+ \| \d+ \| \+([\d.]+)% \|", lengths, re.MULTILINE)
    assert over and float(over[1]) < 10
    assert "encode" in printed(entropy_speed.main, photos, "--bundle", bundle)
    ratio = re.search(r"([\d.]+) of it", printed(entropy_grids.main, photos, "--bundle", bundle))
    assert ratio and float(ratio[1]) > 0


def test_the_corpus_sees_pictures_that_are_turned_or_of_other_colors(tmp_path: Path) -> None:
    pytest.importorskip("pyvips", reason="no pyvips: pip install pyvips-binary pyvips")
    pixels = synthetic(120, 120)
    (tmp_path / "a.jpg").write_bytes(stored(pixels, "JPEG", quality=95))
    for name, other, expected in (
        ("same", pixels, []),
        ("turned", np.rot90(pixels), ["colors"]),
        ("blue", pixels // (4, 4, 1), ["colors"]),
        ("cut", pixels[:60], ["is"]),
    ):
        (tmp_path / f"{name}.png").write_bytes(stored(np.ascontiguousarray(other, np.uint8), "PNG"))
        found = corpus.differences(tmp_path / "a.jpg", tmp_path / f"{name}.png")
        assert [line.split()[0] for line in found][:1] == expected, name


def test_the_corpus_says_how_files_ended_and_what_came_back_otherwise(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyvips", reason="no pyvips: pip install pyvips-binary pyvips")
    for name in ("00-control.jpg", "04-exif-orient6-II.jpg", "21-text.png", "12.ico", "09-no-eoi.jpg"):
        (tmp_path / name).write_bytes(CASES[name][0]())
    monkeypatch.setattr(corpus, "FAR", 256.0)  # the bundle of the tests is not trained
    text, wrong = corpus.run([tmp_path], Models(str(bundle.path), threads=1), 1.0)
    assert wrong == 0, text
    assert "| JPEG | fallback | damaged | 1 |" in text
    assert "| ICO | fallback | frames | 1 |" in text


def test_the_gain_of_an_effort_is_measured_with_intervals(bundle: Bundle, tmp_path: Path, printed: Printed) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(2):
        (tmp_path / "photos" / f"{number}.png").write_bytes(encode_png(synthetic(72, 80, seed=number)))
    page = tmp_path / "effort.md"
    options = ("--bundle", bundle.path, "--side", 64, "--quality", 64, "--effort", 1, "-o", page)
    text = printed(effort.main, tmp_path / "photos", *options)
    assert page.read_text() in text
    head, _, line = [row.split(" | ") for row in page.read_text().splitlines() if row.startswith("|")]
    assert len(head) == len(line)
    psnr = line[head.index("PSNR")]
    mean, low, high = map(float, re.findall(r"[+-][\d.]+", psnr))
    assert low <= mean <= high and high > low
    assert {"SSIMULACRA 2", "LPIPS vgg", "at equal PSNR"} <= set(head)


def test_the_load_of_a_gateway_is_measured_on_few_pictures(bundle: Bundle, tmp_path: Path, printed: Printed) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(encode_png(synthetic(400, 640)))
    found = printed(gateway.main, tmp_path, "--requests", 8, "--clients", 2, "--workers", 1, "--bundle", bundle.path)
    cells = [[cell.strip() for cell in line.split("|")] for line in found.splitlines()]
    rates = {row[1]: (int(row[2]), float(row[3])) for row in cells if len(row) == 7 and row[2].isdecimal()}
    assert rates["preview, cached"][0] == rates["picture, cached"][0] == 8 and len(rates) == 9
    assert all(rate > 0 for _, rate in rates.values())
