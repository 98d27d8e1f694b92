"""The command fdc does its work, accounts for every byte, and answers a user's mistake with one line."""

import errno
import hashlib
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from codec import Codec, Metrics, Picture, encode_png, read_image
from codec.bundle import Bundle
from codec.cli import app
from codec.codec import DEFAULT_QUALITY
from codec.evaluation.runner import COLUMNS
from codec.format.bitstream import pack, parse
from codec.format.breakdown import bit_breakdown
from codec.format.tags import MetadataBlock
from codec.quantization.parameters import QuantizationParameters
from tests.conftest import synthetic
from tests.golden.make import GOLDEN
from tests.support import version1 as version1_writer
from tests.support.tiny_bundles import tiny_bundle


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A picture of 90 x 70 in a file."""
    (tmp_path / "in.png").write_bytes(encode_png(synthetic(70, 90)))
    return tmp_path / "in.png"


@pytest.fixture(scope="module")
def codec(bundle: Bundle) -> Codec:
    return Codec.load(bundle)


@pytest.fixture
def file(tmp_path: Path, codec: Codec) -> Path:
    """The same picture compressed with the tiny bundle."""
    (tmp_path / "in.fdc").write_bytes(codec.encode(Picture(synthetic(70, 90))).data)
    return tmp_path / "in.fdc"


def fdc(*arguments: object, bundle: Bundle | None = None) -> Any:
    """Run a command in this process."""
    options = [] if bundle is None else ["--bundle", str(bundle.path)]
    return CliRunner().invoke(app, [*map(str, arguments), *options])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_two_processes_encode_and_decode(source: Path, bundle: Bundle, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", "from codec.cli import main; main()"]
    for arguments in (
        ("encode", source, "-o", tmp_path / "a.fdc"),
        ("decode", tmp_path / "a.fdc", "-o", tmp_path / "a.png"),
    ):
        done = subprocess.run(
            [*command, *map(str, arguments), "--bundle", str(bundle.path)], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert re.fullmatch(r".*: 90 x 70\b.*\n", done.stdout)
    assert read_image(tmp_path / "a.png").pixels.shape == (70, 90, 3)


def test_help_and_mistakes_are_answered_without_loading_torch() -> None:
    program = (
        "import sys; from typer.testing import CliRunner; from codec.cli import app; "
        "codes = [CliRunner().invoke(app, line.split()).exit_code for line in "
        "('--help', 'encode --help', 'encode', 'encode a -o b --quality 1 --target-bpp 1', 'decode a -o b.tga', "
        "'--version')]; "
        "assert codes == [0, 0, 2, 2, 2, 0], codes; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_help_states_the_true_default() -> None:
    assert f"[default: {DEFAULT_QUALITY:g}]" in fdc("encode", "--help").stdout


def test_encode_writes_what_the_library_writes(source: Path, codec: Codec, bundle: Bundle, tmp_path: Path) -> None:
    picture, output = read_image(source), tmp_path / "out.fdc"
    for options, expected in (
        ([], codec.encode(picture)),
        (["--quality", "3"], codec.encode(picture, quality=3)),
        (["--target-bpp", "0.8"], codec.encode_to_bpp(picture, 0.8)),
        (["--quality", "64", "--effort", "1"], codec.encode(picture, quality=64, effort=1)),
    ):
        done = fdc("encode", source, "-o", output, "--overwrite", *options, bundle=bundle)
        assert done.exit_code == 0, done.output
        assert output.read_bytes() == expected.data
        assert f"{len(expected.data)} bytes, {8 * len(expected.data) / 6300:.4f} bpp" in done.stdout


def test_an_impossible_effort_is_said_in_one_line(source: Path, bundle: Bundle, tmp_path: Path) -> None:
    done = fdc("encode", source, "-o", tmp_path / "out.fdc", "--effort", "3", bundle=bundle)
    assert done.exit_code == 2
    assert "Invalid value for '--effort'" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out.fdc").exists()


def test_a_target_that_no_file_meets_is_said(source: Path, bundle: Bundle, tmp_path: Path) -> None:
    done = fdc("encode", source, "-o", tmp_path / "out.fdc", "--target-bpp", "0.0001", bundle=bundle)
    assert done.exit_code == 0 and "wrote the smallest file" in done.stderr


def test_encode_keeps_a_floor_or_says_in_one_line_that_no_file_does(
    source: Path, codec: Codec, bundle: Bundle, tmp_path: Path
) -> None:
    expected = codec.encode_to_quality(read_image(source), min_psnr_db=15, max_lpips=0.7)
    done = fdc("encode", source, "-o", tmp_path / "a.fdc", "--min-psnr", 15, "--max-lpips", 0.7, bundle=bundle)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "a.fdc").read_bytes() == expected.data
    done = fdc("encode", source, "-o", tmp_path / "b.fdc", "--min-psnr", 80, bundle=bundle)
    assert done.exit_code == 1 and done.stdout == "" and not (tmp_path / "b.fdc").exists()
    assert re.fullmatch(r"error: no file of this picture reaches a PSNR of 80 dB; the best is [\d.]+ dB\n", done.stderr)


def test_decode_writes_the_pixels_of_the_library(file: Path, codec: Codec, bundle: Bundle, tmp_path: Path) -> None:
    assert fdc("decode", file, "-o", tmp_path / "out.PNG", bundle=bundle).exit_code == 0
    assert np.array_equal(read_image(tmp_path / "out.PNG").pixels, codec.decode(file.read_bytes()))


@pytest.mark.parametrize("policy", ["all", "none"])
def test_transparency_and_exif_go_through_both_commands(policy: str, bundle: Bundle, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "maker"
    alpha = synthetic(70, 90)[..., 1]
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    source = Picture(synthetic(70, 90), alpha=alpha, blocks=(MetadataBlock("exIf", block),))
    (tmp_path / "in.png").write_bytes(encode_png(source))
    done = fdc("encode", tmp_path / "in.png", "-o", tmp_path / "a.fdc", "--metadata", policy, bundle=bundle)
    assert done.exit_code == 0, done.output
    assert fdc("decode", tmp_path / "a.fdc", "-o", tmp_path / "a.png", bundle=bundle).exit_code == 0
    restored = read_image(tmp_path / "a.png")
    assert restored.alpha is not None and np.array_equal(restored.alpha, alpha)
    assert (restored.exif is not None) == (policy == "all")
    shown = fdc("info", tmp_path / "a.fdc", bundle=bundle).stdout
    assert "alpha plane" in shown and ("EXIF block" in shown) == (policy == "all")


def test_the_bundle_of_a_file_is_found_among_others(file: Path, bundle: Bundle, tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "bundles" / "other", name="other")
    (tmp_path / "bundles" / "same").symlink_to(bundle.path)
    done = fdc("decode", file, "-o", tmp_path / "out.png", "--bundle", tmp_path / "bundles")
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("command", ["encode", "decode"])
def test_an_existing_output_is_kept_unless_forced(
    command: str, source: Path, file: Path, bundle: Bundle, tmp_path: Path
) -> None:
    subject = {"encode": source, "decode": file}[command]
    output = tmp_path / "out.png"
    output.write_text("precious")
    done = fdc(command, subject, "-o", output, bundle=bundle)
    assert done.exit_code == 1 and "already exists" in done.stderr and "--overwrite" in done.stderr
    assert output.read_text() == "precious"
    assert fdc(command, subject, "-o", output, "--overwrite", bundle=bundle).exit_code == 0
    assert output.read_bytes() != b"precious"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_half_way_leaves_nothing(
    error: BaseException, source: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(path: Path, data: bytes) -> None:
        with path.open("wb") as stream:
            stream.write(data[: len(data) // 2])
        raise error

    monkeypatch.setattr(Path, "write_bytes", half)
    done = fdc("encode", source, "-o", tmp_path / "out.fdc", bundle=bundle)
    assert done.exit_code != 0
    assert names(tmp_path) == ["in.png"]
    if isinstance(error, OSError):
        assert done.stderr == f"error: cannot write {tmp_path / 'out.fdc'}: No space left on device\n"


def test_outputs_have_the_permissions_of_any_new_file(source: Path, bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    fdc("encode", source, "-o", tmp_path / "out.fdc", bundle=bundle)
    assert (tmp_path / "out.fdc").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_info_accounts_for_every_bit(file: Path, codec: Codec, bundle: Bundle) -> None:
    encoded = codec.encode(Picture(synthetic(70, 90)))
    done = fdc("info", file, bundle=bundle)
    assert (done.exit_code, done.stderr) == (0, "")
    fields, parts, whole = (
        {line[:20].strip(): int(line[20:30]) for line in block.splitlines()} for block in done.stdout.split("\n\n")
    )
    size = 8 * len(encoded.data)
    assert sum(fields.values()) == sum(parts.values()) == whole["whole file"] == size
    assert parts["hyper-latent"] == encoded.side_bits and parts["latent"] == encoded.latent_bits
    assert parts["header"] + parts["side information"] == size - 8 * len(parse(encoded.data).stream)
    for text in (
        "90",
        "70",
        bundle.id[:16],
        "8 (code 112)",
        f"{encoded.timestep:g} (code",
        f"{len(encoded.data)} bytes",
    ):
        assert f" {text}" in done.stdout


@pytest.mark.parametrize("shape", [(1, 1), (127, 128), (300, 1100), (40, 17000)])
@pytest.mark.parametrize("alphas", [1, 4])
def test_the_account_adds_up_for_any_size(shape: tuple[int, int], alphas: int, codec: Codec) -> None:
    encoded = codec.encode(Picture(np.zeros((8, 8, 3), np.uint8)))
    values = {**vars(parse(encoded.data)), "height": shape[0], "width": shape[1], "gray": alphas == 4}
    values["parameters"] = QuantizationParameters((130,) * alphas, 0)
    data = pack(type(parse(encoded.data))(**values))
    assert sum(entry.bits for entry in bit_breakdown(parse(data))) == 8 * len(data)


def test_the_account_knows_the_hyper_latents_of_several_tiles(codec: Codec) -> None:
    encoded = codec.encode(Picture(synthetic(16, 1100)))
    bits = {entry.part: entry.bits for entry in bit_breakdown(parse(encoded.data), (codec.entropy, codec.tables))}
    assert bits["hyper-latent"] == encoded.side_bits and bits["latent"] == encoded.latent_bits


def test_info_describes_the_symbols(file: Path, codec: Codec, bundle: Bundle) -> None:
    symbols = codec.symbols(file.read_bytes())
    done = fdc("info", file, "--symbols", bundle=bundle)
    assert hashlib.sha256(symbols.astype("<i4").tobytes()).hexdigest() in done.stdout
    for channel, values in enumerate(symbols):
        assert f"channel {channel}: {values.min()} to {values.max()}, " in done.stdout


def test_info_shows_what_it_can_without_the_bundle(file: Path) -> None:
    done = fdc("info", file)
    assert done.exit_code == 0 and "no bundle with id" in done.stderr
    bits = [int(line[20:30]) for line in done.stdout.split("\n\n")[0].splitlines()]
    assert sum(bits) == 8 * file.stat().st_size
    refused = fdc("info", file, "--symbols")
    assert refused.exit_code == 1 and "no bundle with id" in refused.stderr


@pytest.mark.parametrize("version", [1, 2])
def test_every_golden_file_is_accounted_for_to_the_bit(version: int) -> None:
    for path in (GOLDEN if version == 1 else GOLDEN / "version2").glob("*.fdc"):
        data = path.read_bytes()
        assert sum(entry.bits for entry in bit_breakdown(parse(data))) == 8 * len(data), path.name


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("version2/every-chunk", ["version 8 2", "flags 8 gray", "orientation 8 1 (shown as 40 x 56)"]),
        ("version2/orientation-6", ["width 8 40", "height 8 56", "orientation 8 6 (shown as 56 x 40)"]),
        ("version2/later-minor-version", ["version 8 2", "minor version 8 9"]),
        ("version2/unknown-ancillary-chunk", ["unknown chunk 56 neWa: 2 bytes"]),
        ("parallel-icc-exif", ["signature 24 FDC", "version 8 1", "flags 8 color profile, EXIF block"]),
        ("parallel-binary-alpha", ["version 8 1", "flags 8 gray, alpha plane"]),
    ],
)
def test_info_shows_what_a_file_of_either_version_has(name: str, lines: list[str]) -> None:
    done = fdc("info", GOLDEN / f"{name}.fdc")
    assert done.exit_code == 0, done.output
    shown = [re.sub(r" +", " ", line).replace(" bits ", " ") for line in done.stdout.splitlines()]
    assert set(lines) <= set(shown)
    assert ("orientation" in done.stdout) == ("version 8 2" in shown)
    file = parse((GOLDEN / f"{name}.fdc").read_bytes())
    listed = [line.split()[-4].removesuffix(":") for line in shown if re.search(r" [A-Za-z]{4}: of \d+ bytes$", line)]
    assert listed == [chunk.tag for chunk in file.chunks]


def test_evaluate_measures_every_picture_and_reports_bad_files(codec: Codec, bundle: Bundle, tmp_path: Path) -> None:
    folder, output = tmp_path / "photos", tmp_path / "it's"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.png").write_bytes(encode_png(synthetic(170, 180)))
    (folder / ".hidden").write_text("no picture")
    (folder / "cut.png").write_bytes(encode_png(synthetic(170, 180))[:9000])
    (folder / "sub" / "[red]tiny.png").write_bytes(encode_png(synthetic(20, 30)))
    (folder / "text.jpg").write_text("no picture")
    done = fdc("evaluate", folder, "-o", output, "--quality", 2, "--quality", 8, bundle=bundle)
    assert done.exit_code == 0, done.output
    with duckdb.connect() as database:
        table = database.execute("SELECT * FROM read_parquet(?)", [str(output / "report.parquet")])
        assert [column[0] for column in table.description] == list(COLUMNS)
        rows = [dict(zip(COLUMNS, row, strict=True)) for row in table.fetchall()]
    images = ["a.png", "cut.png", "sub/[red]tiny.png", "text.jpg"]
    assert [(row["image"], row["setting"]) for row in rows] == [(image, value) for image in images for value in (2, 8)]
    assert [row["status"] for row in rows[::2]] == ["measured", "failed", "measured", "failed"]
    assert "truncated" in rows[2]["error"] and "not a picture" in rows[6]["error"]
    assert rows[4]["lpips_alex"] is None and "lpips_alex: side below 31" in rows[4]["error"]
    picture = read_image(folder / "a.png")
    encoded = codec.encode(picture, quality=8)
    quality = Metrics().measure(picture.pixels, codec.decode(encoded.data))
    expected = {
        "codec": f"fdcodec-{bundle.id[:8]}",
        "bytes": len(encoded.data),
        "bpp": 8 * len(encoded.data) / (170 * 180),
        "psnr_db": quality.psnr_db,
        "ms_ssim": quality.ms_ssim,
        "lpips_alex": quality.lpips,
        "lpips_vgg": quality.lpips_vgg,
        "dists": quality.dists,
        "error": None,
        "asked_bpp": None,
    }
    assert {name: rows[1][name] for name in expected} == pytest.approx(expected)
    assert np.array_equal(read_image(output / rows[1]["picture"]).pixels, codec.decode(encoded.data))
    assert "sub/[red]tiny.png" not in done.stdout and "text.jpg, fdcodec" in done.stdout
    assert done.stdout == (output / "report.md").read_text()


def test_evaluate_fails_where_nothing_could_be_compressed(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    empty = fdc("evaluate", tmp_path / "photos", "-o", tmp_path / "out", bundle=bundle)
    assert empty.exit_code == 1 and "is not a folder with files" in empty.stderr
    (tmp_path / "photos" / "text.jpg").write_text("no picture")
    done = fdc("evaluate", tmp_path / "photos", "-o", tmp_path / "out", bundle=bundle)
    assert done.exit_code == 1 and done.stderr.count("\n") == 1
    assert "text.jpg" in done.stdout and (tmp_path / "out" / "report.parquet").is_file()


@pytest.mark.parametrize("command", ["decode -o out.png", "info --symbols", "info"])
def test_what_is_wrong_with_a_coded_stream_names_its_file(
    command: str, file: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = parse(file.read_bytes())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.fdc").write_bytes(pack(replace(whole, stream=whole.stream[:4])))
    verb, *options = command.split()
    done = fdc(verb, "bad.fdc", *options, bundle=bundle)
    assert done.exit_code == 1
    assert done.stderr.startswith("error: bad.fdc: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["decode -o out.png", "info --symbols"])
@pytest.mark.parametrize("kind", ["file", "stream", "stream of version 1"])
def test_an_empty_file_or_stream_is_refused_before_models_are_loaded(
    command: str, kind: str, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = parse(file.read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(version1_writer, "parse", lambda data, **_: replace(whole, stream=b""))
        empty = version1_writer.as_version_1(b"")
    content = {"file": b"", "stream": pack(replace(whole, stream=b"")), "stream of version 1": empty}[kind]
    (tmp_path / "empty.fdc").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("codec.bundle.find_bundle", lambda *_: pytest.fail("a bundle was looked for"))
    verb, *options = command.split()
    done = fdc(verb, "empty.fdc", *options)
    assert done.exit_code == 1, done.output
    assert done.stderr.startswith("error: empty.fdc: ")
    assert "is empty" in done.stderr or "impossible stream length of 0 bytes" in done.stderr


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        ("encode", 2, "PHOTOS"),
        ("encode in.png -o out.fdc --quality 1 --target-bpp 1", 2, "choose one of"),
        ("encode in.png -o out.fdc --quality 1 --min-psnr 30", 2, "choose one of"),
        ("encode in.png -o out.fdc --target-bpp 1 --max-lpips 0.1", 2, "choose one of"),
        ("encode in.png -o out.fdc --min-psnr nan", 2, "positive"),
        ("encode in.png -o out.fdc --max-lpips 0", 2, "positive"),
        ("encode in.png -o out.fdc --quality 0", 2, "positive"),
        ("encode in.png -o out.fdc --quality nan", 2, "positive"),
        ("encode in.png -o out.fdc --target-bpp -1", 2, "positive"),
        ("encode in.png -o out.fdc --quality high", 2, "--quality"),
        ("evaluate . -o out --quality 1 --quality inf", 2, "positive"),
        ("evaluate . -o out --bpp 0", 2, "positive"),
        ("evaluate .", 2, "--output"),
        ("decode in.fdc -o out.tga", 2, "is not a file kind"),
        ("decode in.fdc -o out", 2, "has no suffix"),
        ("decode in.fdc -o out.jpg --as webp", 2, "does not fit the name"),
        ("decode in.fdc --as tga", 2, "is not a file kind"),
        ("unknown", 2, "unknown"),
        ("encode absent.png -o out.fdc", 1, "absent.png: No such file"),
        ("encode . -o out.fdc", 1, "--output names the output of one picture"),
        ("encode in.png -o empty", 1, "empty is a folder"),
        ("encode empty", 1, "nothing to convert in empty"),
        ("encode *.gif", 1, "no file matches *.gif"),
        ("encode in.png - -o out.fdc", 1, "give it alone"),
        ("encode in.png -o out.fdc --output-folder out", 1, "choose one of --output and --output-folder"),
        ("encode in.png -o - --json", 1, "--json prints to standard output"),
        ("encode in.png in.fdc", 1, "would both become in.fdc"),
        ("encode in.png --output-folder in.png", 1, "in.png is no folder"),
        ("compare in.png absent.png", 1, "absent.png: No such file"),
        ("compare in.png in.fdc", 1, "no bundle with id"),
        ("compare in.png in.png --metrics ssim", 1, "not 'ssim'"),
        ("encode text.jpg -o out.fdc", 1, "text.jpg: not a picture in a known format"),
        ("encode in.png -o absent/out.fdc", 1, "absent is not a writable folder"),
        ("encode in.png -o out.fdc --bundle absent", 1, "absent is not a bundle"),
        ("encode in.png -o out.fdc --device cuda:99", 1, "'cuda:99' is not available"),
        ("encode in.png -o out.fdc --device nonsense", 1, "'nonsense' is not available"),
        ("decode absent.fdc -o out.png", 1, "absent.fdc: No such file"),
        ("decode in.png -o out.png", 1, "in.png: not an .fdc file"),
        ("decode cut.fdc -o out.png", 1, "cut.fdc: the checksum"),
        ("decode in.fdc -o out.png", 1, "no bundle with id"),
        ("info text.jpg", 1, "text.jpg: not an .fdc file"),
        ("evaluate absent -o out", 1, "absent is not a folder"),
        ("evaluate . -o out", 1, "out is in the folder of pictures"),
        ("evaluate empty -o text.jpg", 1, "cannot write to text.jpg"),
        ("evaluate empty -o made --codec gif", 1, "no codec 'gif'"),
        ("evaluate empty -o made --commands text.jpg", 1, "text.jpg does not describe codecs"),
    ],
)
def test_a_mistake_is_one_line_and_no_traceback(
    line: str, status: int, message: str, source: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "cut.fdc").write_bytes(file.read_bytes()[:-5])
    (tmp_path / "empty").mkdir()
    (tmp_path / "made").mkdir()
    before = names(tmp_path)
    monkeypatch.chdir(tmp_path)
    done = fdc(*line.split())
    assert done.exit_code == status, done.output
    assert message in done.stderr and "Traceback" not in done.output
    if status == 1:
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and done.stdout == ""
    assert names(tmp_path) == before
