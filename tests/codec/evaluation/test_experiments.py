"""The supplement's experiments run as commands, show what they measured, and are not repeated when they are there."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codec import Codec, SettingsError, encode_png
from codec.bundle import Bundle
from codec.evaluation.experiments import EXPERIMENTS, one_step, quantization_error, run, sheets, spread, timesteps
from codec.evaluation.experiments.latents import coded, restored
from codec.evaluation.runner import COLUMNS, EvaluationRow
from codec.evaluation.spec import EvaluationConfig
from tests.conftest import synthetic
from tests.support.tiny_bundles import TINY, tiny_bundle


@pytest.fixture
def config(bundle: Bundle, tmp_path: Path) -> EvaluationConfig:
    """Two pictures for a tiny bundle."""
    (tmp_path / "pictures").mkdir()
    for seed, name in enumerate("ab"):
        (tmp_path / "pictures" / f"{name}.png").write_bytes(encode_png(synthetic(48, 64, seed)))
    return EvaluationConfig(str(tmp_path / "pictures"), str(tmp_path / "out"), bundle=str(bundle.path))


@pytest.fixture
def codec(bundle: Bundle) -> Codec:
    return Codec.load(bundle)


def test_a_latent_taken_apart_is_restored_as_its_file_is(config: EvaluationConfig, codec: Codec) -> None:
    file = coded(codec, Path(config.pictures, "a.png"), 8)
    steps = codec.bundle.config.steps
    own = restored(codec, file, file.encoded.timestep, steps)
    assert np.array_equal(own, codec.decode(file.encoded.data))
    assert file.bpp == 8 * len(file.encoded.data) / (48 * 64)
    assert not np.array_equal(own, restored(codec, file, 0, steps))


def test_the_sweep_holds_the_files_own_timestep_and_says_how_much_it_misses(
    config: EvaluationConfig, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timesteps, "QUALITIES", (2.0, 16.0))
    monkeypatch.setattr(timesteps, "TIMESTEPS", (0.0, 40.0))
    text = run("timesteps", config).read_text()
    points = timesteps.sweep(codec, Path(config.pictures, "a.png"))
    assert [(p.quality, p.own) for p in points].count((2.0, True)) == 1 and len(points) == 6
    group = [p for p in points if p.quality == 2]
    assert len({p.bpp for p in group}) == 1
    own = next(p for p in group if p.own)
    assert timesteps.miss(group, "psnr_db") == max(p.psnr_db for p in group) - own.psnr_db
    assert timesteps.miss(group, "lpips") == own.lpips - min(p.lpips for p in group)
    assert timesteps.miss([own], "lpips") == 0
    assert "| PSNR (dB) | 4 |" in text and "](timesteps.png)" in text


@pytest.mark.parametrize(("parameters", "way"), [("measured", "measured"), ("tied", "tied"), ("learned", "predicted")])
def test_the_sweep_calls_the_files_timestep_what_it_is(
    parameters: str, way: str, config: EvaluationConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timesteps, "QUALITIES", (4.0,))
    monkeypatch.setattr(timesteps, "TIMESTEPS", (0.0,))
    bundle = tiny_bundle(tmp_path / parameters, parameters=parameters)
    text = run("timesteps", dataclasses.replace(config, bundle=str(bundle.path))).read_text()
    assert f"## Forced timesteps beside the {way} one" in text and f"| {way} t |" in text
    for other in {"measured", "tied", "predicted"} - {way}:
        assert other not in text


def test_one_step_beside_several(config: EvaluationConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_step, "STEPS", (1, 4))
    monkeypatch.setattr(one_step, "QUALITIES", (4.0,))
    said = run("one_step", config)
    (one,) = [line for line in said.read_text().splitlines() if line.startswith("| 4 | ") and "| 1 |" in line]
    (four,) = [line for line in said.read_text().splitlines() if line.startswith("| 4 | ") and "| 4 | " in line[5:]]
    assert one.endswith("| - |") and float(four.split("|")[-2]) > 20
    with Image.open(said.with_suffix(".png")) as image:
        assert image.width > 1000


def test_rounding_errors_are_uniform_with_dither_and_not_where_bins_are_wide() -> None:
    narrow, wide = (np.random.default_rng(1).normal(0, width, (4, 50, 100)) for width in (3, 0.2))
    statistic = {
        (name, dither): quantization_error.ks_statistic(quantization_error.error(values, dither))
        for name, values in (("narrow", narrow), ("wide", wide))
        for dither in (False, True)
    }
    bound = 1.63 / 20_000**0.5  # 1 % of uniform samples of this size are beyond it
    assert statistic["narrow", False] < bound and statistic["narrow", True] < bound and statistic["wide", True] < bound
    assert statistic["wide", False] > 10 * bound


def test_the_histograms_error_is_that_of_the_files(config: EvaluationConfig, tmp_path: Path) -> None:
    """It was of random offsets that no file has."""
    codec = Codec.load(tiny_bundle(tmp_path / "dithered", entropy=dataclasses.replace(TINY, dither=True)))
    source = Path(config.pictures, "a.png")
    file = coded(codec, source, 4)
    y = codec.backbone.encode_pixels(file.picture.pixels)
    expected = (file.alpha * (file.y_hat - y)).flatten().numpy()
    values = quantization_error.scaled_latent(codec, source, 4)
    assert np.allclose(quantization_error.error(values, True), expected, atol=1e-5)
    assert not np.allclose(quantization_error.error(values, False), expected, atol=0.1)


def test_the_ks_statistic_of_four_values_by_hand() -> None:
    assert quantization_error.ks_statistic(np.array([-0.4, -0.3, -0.2, 0.4])) == pytest.approx(0.75 - 0.3)


def test_the_histogram_of_a_codec(config: EvaluationConfig, codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantization_error, "QUALITIES", (1.0, 8.0))
    text = run("quantization_error", config).read_text()
    assert text.count("| with |") == text.count("| without |") == 2
    values = quantization_error.scaled_latent(codec, Path(config.pictures, "a.png"), 8)
    symbols = codec.encode(coded(codec, Path(config.pictures, "a.png"), 8).picture, quality=8).symbols
    assert np.array_equal(np.round(values), symbols)


def row(codec: str, size: int, setting: float) -> EvaluationRow:
    return dict.fromkeys(COLUMNS) | {
        "codec": codec, "bytes": size, "bpp": size / 1000, "setting": setting, "picture": f"{codec}-{size}.png",
    }  # fmt: skip


def test_a_sheet_gives_every_other_codec_at_least_our_bytes() -> None:
    rows = [row("fdcodec-1", size, quality) for size, quality in ((50, 2.0), (100, 8.0), (200, 32.0))]
    rows += [row("avif", size, 1) for size in (40, 99, 130, 300)] + [row("jpeg", 90, 1), row("fdcodec-2", 1, 8.0)]
    rows += [row("autoencoder-1", 1, 0) | {"bpp": None}]
    labels = [label for label, _ in sheets.beside(rows, "fdcodec-1")]
    assert labels == ["fdcodec@0.100 (100 %)", "jpeg@0.090 (90 %)", "avif@0.130 (130 %)"]
    assert sheets.beside(rows, "fdcodec-3") == []


def test_the_crop_is_where_most_happens() -> None:
    pixels = np.zeros((512, 768, 3), np.uint8)
    pixels[250:380:2, 330:460] = 255
    top, left = sheets.busiest(pixels)
    assert abs(top - 240) <= 80 and abs(left - 320) <= 80
    assert sheets.busiest(pixels[:50, :60]) == (0, 0)


def test_sheets_show_what_was_measured(config: EvaluationConfig, bundle: Bundle, tmp_path: Path) -> None:
    from codec.evaluation.runner import evaluate

    with pytest.raises(SettingsError, match="has no reconstructions"):
        run("sheets", config)
    chosen = EvaluationConfig(config.pictures, config.output, ("fdcodec", "jpeg"), (1.0,), (8.0,), bundle=config.bundle)
    evaluate(chosen.jobs(chosen.open()[0]), tmp_path / "out")
    said = run("sheets", chosen)
    assert said == tmp_path / "out" / "experiments" / bundle.id[:8] / "sheets.md"
    with Image.open(said.parent / "sheets" / "a-full.png") as full, Image.open(said.parent / "sheets" / "a-crop.png"):
        assert full.size == (3 * (448 + 8) + 8, 336 + 32 + 8)  # enlarged in whole steps
        assert np.array_equal(np.asarray(full)[33 : 33 + 335 : 7, 9 : 9 + 447 : 7], synthetic(48, 64, 0))


def test_an_experiment_that_is_there_is_not_repeated(config: EvaluationConfig, bundle: Bundle, tmp_path: Path) -> None:
    said = tmp_path / "out" / "experiments" / bundle.id[:8] / "timesteps.md"
    said.parent.mkdir(parents=True)
    said.write_text("done")
    assert run("timesteps", config).read_text() == "done"
    assert set(EXPERIMENTS) == {"one_step", "timesteps", "quantization_error", "sheets"}
    with pytest.raises(SettingsError, match="no experiment 'elo'; choose from one_step"):
        run("elo", config)


def test_pictures_are_spread_over_the_folder_and_bad_files_are_passed_over(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number:02}.png" for number in range(24)]
    for path in paths:
        path.write_bytes(encode_png(synthetic(4, 5)))
    paths[8].write_text("no picture")
    assert [path.stem for path in spread(paths, 3)] == ["00", "09", "16"]
    assert spread(paths[:2], 3) == paths[:2] and spread(paths[7:9], 2) == paths[7:8]
    with pytest.raises(SettingsError, match="none of 1 files is a readable picture"):
        spread(paths[8:9], 2)
