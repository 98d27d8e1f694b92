"""One command for many files: the tree is kept, nothing is overwritten or taken for whole, a failure costs its row."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from codec import Codec, Metrics, Picture, read_image
from codec.bundle import Bundle
from codec.cli import app, files, workers
from codec.cli.plan import Planned
from codec.errors import SettingsError
from codec.format.bitstream import parse
from codec.metrics.outside import ssimulacra2
from tests.conftest import synthetic
from tests.support.dying_converter import Dying

PROGRAM = [sys.executable, "-c", "from codec.cli import main; main()"]


@pytest.fixture(scope="module")
def codec(bundle: Bundle) -> Codec:
    return Codec.load(bundle)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pictures of 40 x 56 in a tree, with what is no picture."""
    folder = tmp_path / "photos"
    (folder / "2024" / "sea side").mkdir(parents=True)
    (folder / ".cache").mkdir()
    for seed, name in enumerate(("a.png", "2024/b.PNG", "2024/sea side/c.jpg", ".cache/d.png", ".hidden.png")):
        Image.fromarray(synthetic(40, 56, seed)).save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    return folder


OUTPUTS = ["2024/b.fdc", "2024/sea side/c.fdc", "a.fdc"]


def fdc(*arguments: object, bundle: Bundle | None = None, given: bytes | None = None) -> Any:
    options = [] if bundle is None else ["--bundle", str(bundle.path)]
    return CliRunner().invoke(app, [*map(str, arguments), *options], input=given)


def tree(folder: Path) -> list[str]:
    """All files below a folder, hidden ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_folder_is_encoded_and_decoded_by_several_processes_into_the_same_tree(
    photos: Path, codec: Codec, bundle: Bundle, tmp_path: Path
) -> None:
    done = fdc("encode", photos, "--output-folder", tmp_path / "out", "--jobs", 2, "--json", bundle=bundle)
    assert done.exit_code == 0, done.output
    assert tree(tmp_path / "out") == OUTPUTS
    for name, source in zip(OUTPUTS, ("2024/b.PNG", "2024/sea side/c.jpg", "a.png"), strict=True):
        assert (tmp_path / "out" / name).read_bytes() == codec.encode(read_image(photos / source)).data
    report = json.loads(done.stdout)
    assert (report["written"], report["failed"], report["ignored"]) == (3, 0, 1)
    row = report["files"][0]
    assert row["output"].endswith("a.fdc") and row["output_bytes"] == (tmp_path / "out" / "a.fdc").stat().st_size
    done = fdc("decode", tmp_path / "out", "--output-folder", tmp_path / "back", "--as", "webp", "-j", 1, bundle=bundle)
    assert done.exit_code == 0, done.output
    assert tree(tmp_path / "back") == [name.replace(".fdc", ".webp") for name in OUTPUTS]
    assert "3 written" in done.stdout and "56 x 40" in done.stdout


def test_without_a_folder_each_output_is_beside_its_input(photos: Path, bundle: Bundle) -> None:
    assert fdc("encode", photos / "a.png", photos / "2024" / "b.PNG", "-j", 1, bundle=bundle).exit_code == 0
    assert fdc("encode", photos / "2024" / "b.PNG", "--keep-suffix", bundle=bundle).exit_code == 0
    done = fdc("decode", photos / "a.fdc", "--as", "jpg:80", bundle=bundle)
    assert done.stdout == f"{photos / 'a.jpg'}: 56 x 40\n"
    made = {name for name in tree(photos) if name.endswith((".fdc", ".jpg"))}
    assert made == {"a.fdc", "a.jpg", "2024/b.fdc", "2024/b.PNG.fdc", "2024/sea side/c.jpg"}


def test_a_pattern_keeps_the_tree_below_its_folder(photos: Path, bundle: Bundle, tmp_path: Path) -> None:
    done = fdc("encode", photos / "**" / "*.[pP]*", "--output-folder", tmp_path / "out", "-j", 1, bundle=bundle)
    assert done.exit_code == 0, done.output
    assert tree(tmp_path / "out") == ["2024/b.fdc", "a.fdc"]


def test_what_is_done_is_skipped_and_never_overwritten_unless_told(
    photos: Path, bundle: Bundle, tmp_path: Path
) -> None:
    command = ("encode", photos, "--output-folder", tmp_path / "out", "-j", 1)
    assert fdc(*command, bundle=bundle).exit_code == 0
    before = {name: (tmp_path / "out" / name).stat() for name in OUTPUTS}
    (tmp_path / "out" / "a.fdc").unlink()
    done = fdc(*command, bundle=bundle)
    assert done.exit_code == 0 and "1 written, 2 there already" in done.stdout
    for name in OUTPUTS[:2]:
        assert (tmp_path / "out" / name).stat().st_ino == before[name].st_ino
    # A picture that has changed since is not done, and its old file is not touched either.
    later = time.time() + 10
    os.utime(photos / "2024" / "b.PNG", (later, later))
    done = fdc(*command, bundle=bundle)
    assert done.exit_code == 1 and "1 outdated" in done.stdout
    assert (tmp_path / "out" / "2024" / "b.fdc").stat().st_ino == before["2024/b.fdc"].st_ino
    done = fdc(*command, "--overwrite", "--quality", 2, bundle=bundle)
    assert done.exit_code == 0 and "3 written" in done.stdout
    assert all(parse((tmp_path / "out" / name).read_bytes()).quality == 2 for name in OUTPUTS)
    single = fdc("encode", photos / "a.png", bundle=bundle)
    again = fdc("encode", photos / "a.png", bundle=bundle)
    assert (single.exit_code, again.exit_code) == (0, 0) and "exists already" in again.stdout


@pytest.mark.parametrize("options", [(), ("--output-folder", "out")])
def test_two_inputs_of_one_output_are_refused_before_anything_is_written(
    options: Sequence[str], photos: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    Image.fromarray(synthetic(40, 56)).save("a.jpg")
    before = tree(photos)
    done = fdc("encode", ".", *options, bundle=bundle)
    assert done.exit_code == 1 and "a.jpg and a.png would both become" in done.stderr
    assert tree(photos) == before
    done = fdc("encode", "a.png", "a.png", "2024", *options, "--keep-suffix", "-j", 1, bundle=bundle)
    assert done.exit_code == 0, done.output  # the same file twice is one file


def test_a_failed_input_costs_its_row_alone_and_sets_the_status(
    photos: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")  # a narrow table folds long names
    (photos / "2024" / "broken.jpg").write_bytes((photos / "a.png").read_bytes()[:60])
    done = fdc("encode", photos, "absent", "--output-folder", tmp_path / "out", "-j", 1, bundle=bundle)
    assert done.exit_code == 1 and "3 written, 2 failed" in done.stdout
    assert "absent" in done.stdout and "broken.jpg" in done.stdout
    assert tree(tmp_path / "out") == OUTPUTS
    (tmp_path / "out" / "cut.fdc").write_bytes((tmp_path / "out" / "a.fdc").read_bytes()[:-9])
    done = fdc("decode", tmp_path / "out", "--json", "-j", 1, bundle=bundle)
    assert done.exit_code == 1
    failed = [row for row in json.loads(done.stdout)["files"] if row["status"] == "failed"]
    assert len(failed) == 1 and "the checksum does not match" in failed[0]["error"]


def test_a_process_that_dies_costs_its_file_alone() -> None:
    names = ["a", "die", "b", "raise", "die", "c", "d"]
    rows = list(workers.convert([Planned(name, name) for name in names], Dying(), 2))
    assert sorted(row.source for row in rows) == sorted(names)
    errors = [row.error for row in rows if row.status == "failed"]
    assert len(errors) == 3 and "MemoryError: too large" in errors
    assert sum("SIGKILL, perhaps for want of memory" in str(error) for error in errors) == 2
    written = [row.output.split() for row in rows if row.status == "written"]
    assert {own[0] for own in written} == {"a", "b", "c", "d"} and {own[2] for own in written} == {"1"}
    assert str(os.getpid()) not in {own[1] for own in written}


@pytest.mark.parametrize(("number", "jobs"), [(signal.SIGINT, 2), (signal.SIGTERM, 1)])
def test_an_interrupted_command_leaves_whole_files_alone(
    number: signal.Signals, jobs: int, photos: Path, bundle: Bundle, tmp_path: Path
) -> None:
    for name in range(20):
        Image.fromarray(synthetic(300, 400, name)).save(photos / f"{name}.png")
    out = tmp_path / "out"
    command = [*PROGRAM, "encode", photos, "--output-folder", out, "-j", str(jobs), "--bundle", bundle.path]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        while not list(out.rglob("*.fdc")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode in (130, 128 + number) and "Traceback" not in errors
    made = tree(out)
    assert 0 < len(made) < 23 and all(name.endswith(".fdc") for name in made)
    for name in made:
        parse((out / name).read_bytes())


def test_an_output_that_another_process_has_just_written_is_kept(tmp_path: Path) -> None:
    (tmp_path / "a.fdc").write_bytes(b"theirs")
    with pytest.raises(SettingsError, match="already exists"):
        files.publish(b"ours", tmp_path / "a.fdc", overwrite=False)
    assert (tmp_path / "a.fdc").read_bytes() == b"theirs" and tree(tmp_path) == ["a.fdc"]
    files.publish(b"ours", tmp_path / "a.fdc", overwrite=True)
    assert (tmp_path / "a.fdc").read_bytes() == b"ours" and tree(tmp_path) == ["a.fdc"]


def test_pipes_carry_pictures_both_ways(photos: Path, codec: Codec, bundle: Bundle) -> None:
    encoded = fdc("encode", "-", bundle=bundle, given=(photos / "a.png").read_bytes())
    assert encoded.exit_code == 0 and "standard output: 56 x 40" in encoded.stderr
    assert encoded.stdout_bytes == codec.encode(read_image(photos / "a.png")).data
    decoded = fdc("decode", "-", "-o", "-", "--as", "png", bundle=bundle, given=encoded.stdout_bytes)
    assert np.array_equal(read_image(decoded.stdout_bytes).pixels, codec.decode(encoded.stdout_bytes))
    shown = json.loads(fdc("info", "-", "--json", bundle=bundle, given=encoded.stdout_bytes).stdout)
    assert (shown["width"], shown["height"], shown["bytes"]) == (56, 40, len(encoded.stdout_bytes))
    assert sum(shown["parts"].values()) == sum(entry["bits"] for entry in shown["entries"]) == 8 * shown["bytes"]
    broken = fdc("decode", "-", bundle=bundle, given=encoded.stdout_bytes[:-4])
    assert broken.exit_code == 1 and "error: standard input: the checksum" in broken.stderr


@pytest.mark.parametrize(
    ("name", "kind"), [("a.png", "PNG"), ("a.JPG", "JPEG"), ("a.webp", "WEBP"), ("a.avif", "AVIF"), ("a.jpeg", "JPEG")]
)
def test_the_suffix_says_what_is_written(name: str, kind: str, codec: Codec, bundle: Bundle, tmp_path: Path) -> None:
    picture = Picture(synthetic(40, 56), alpha=synthetic(40, 56)[..., 0])
    (tmp_path / "in.fdc").write_bytes(codec.encode(picture).data)
    done = fdc("decode", tmp_path / "in.fdc", "-o", tmp_path / name, bundle=bundle)
    assert done.exit_code == 0, done.output
    assert ("jpeg cannot hold its transparency" in done.stderr) == (kind == "JPEG")
    with Image.open(tmp_path / name) as image:
        assert (image.format, image.size) == (kind, (56, 40))


def test_compare_prints_the_metrics_of_the_library(photos: Path, codec: Codec, bundle: Bundle) -> None:
    Image.fromarray(synthetic(180, 200)).save(photos / "large.png")
    source = read_image(photos / "large.png")
    data = codec.encode(source).data
    (photos / "large.fdc").write_bytes(data)
    expected = Metrics().measure(source.pixels, codec.decode(data))
    done = fdc("compare", photos / "large.png", photos / "large.fdc", "--json", bundle=bundle)
    found = json.loads(done.stdout)
    for name in ("psnr_db", "ms_ssim", "lpips", "lpips_vgg", "dists"):
        assert found[name] == pytest.approx(getattr(expected, name), rel=1e-6)
    assert found["ssimulacra2"] == pytest.approx(ssimulacra2(source.pixels, codec.decode(data)))
    assert found["bits_per_pixel"] == pytest.approx(8 * len(data) / 36000)
    text = fdc("compare", photos / "large.png", photos / "large.fdc", "--metrics", "psnr", bundle=bundle).stdout
    assert f"PSNR, dB         {expected.psnr_db:.4f}\n" in text and "LPIPS" not in text
    other = fdc("compare", photos / "large.png", photos / "a.png")
    assert other.exit_code == 1 and "have 200 x 180 and 56 x 40 pixels" in other.stderr
    same = fdc("compare", photos / "a.png", photos / "a.png", "--metrics", "psnr", "--metrics", "ms-ssim")
    assert "PSNR, dB         - (identical)" in same.stdout and "side below 161" in same.stdout


def test_the_version_names_package_format_and_bundle() -> None:
    from importlib.metadata import version

    from codec.bundle_id import DEFAULT_BUNDLE

    bundle = Bundle.described(DEFAULT_BUNDLE)
    expected = (
        f"fdcodec {version('fdcodec')}, format 2.0 (reads 1 and 2), bundle {bundle.config.name} {bundle.id[:16]}\n"
    )
    assert fdc("--version").stdout == expected


@pytest.mark.parametrize(("typed", "offered"), [("fdc enc", "encode"), ("fdc encode --out", "--output-folder")])
def test_the_shell_completes_commands_and_options(typed: str, offered: str) -> None:
    words = typed.split()
    asked = {"_FDC_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run(PROGRAM, env=os.environ | asked, capture_output=True, text=True, check=False)
    assert offered in done.stdout.split(), done


def test_the_bytes_of_a_failing_write_are_removed(photos: Path, bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.fdc").mkdir()  # a folder where the file should be
    given = (photos / "a.png", photos / "2024", "--output-folder", tmp_path / "out", "-j", 1, "--overwrite")
    done = fdc("encode", *given, bundle=bundle)
    assert done.exit_code == 1 and "2 written, 1 failed" in done.stdout
    assert tree(tmp_path / "out") == ["b.fdc", "sea side/c.fdc"]


def test_a_terminal_is_not_filled_with_bytes(photos: Path, bundle: Bundle) -> None:
    import pty

    ours, theirs = pty.openpty()
    command = [*PROGRAM, "encode", photos / "a.png", "-o", "-", "--bundle", bundle.path]
    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, text=True, check=False)
    os.close(theirs)
    os.close(ours)
    assert done.returncode == 1 and "standard output is a terminal" in done.stderr
