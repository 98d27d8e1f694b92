"""Other codecs make real files that decode, and one that cannot run says why."""

import math
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import codec.support.torchvision_shim  # noqa: F401

import numpy as np
import pytest
import torch

from codec import BitstreamError, SettingsError
from codec.evaluation.baselines import NAMES, Baseline, Command, available, largest_within
from codec.evaluation.baselines.external import read_commands
from codec.metrics.quality import psnr
from tests.conftest import synthetic

HERE, MISSING = available()
COPY = f'{sys.executable} -c "import shutil, sys; shutil.copy(*sys.argv[1:3])" {{input}} {{output}}'


def by_program(encode: str = COPY, decode: str = COPY) -> Baseline:
    ((found,), _) = available(["copied"], [Command("copied", encode, decode, (1, 2), seconds=1)])
    return found


def test_what_pillow_writes_is_always_there_and_every_codec_is_accounted_for() -> None:
    names = [baseline.name for baseline in HERE]
    assert {"jpeg", "webp", "avif"} <= set(names)
    assert set(names) | set(MISSING) == set(NAMES) and not set(names) & set(MISSING)


@pytest.mark.parametrize("baseline", HERE, ids=lambda baseline: baseline.name)
def test_files_grow_with_the_setting_and_decode_to_the_same_size(baseline: Baseline) -> None:
    pixels = synthetic(71, 90)
    settings = [baseline.settings[len(baseline.settings) * step // 10] for step in (2, 5, 9)]
    files = [baseline.encode(pixels, setting) for setting in settings]
    decoded = [baseline.decode(data) for data in files]
    assert [len(data) for data in files] == sorted(len(data) for data in files)
    assert {(picture.shape, picture.dtype) for picture in decoded} == {((71, 90, 3), np.dtype(np.uint8))}
    assert psnr(pixels, decoded[0]) < psnr(pixels, decoded[2]) and psnr(pixels, decoded[2]) > 33
    assert baseline.version


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("jpeg-xl", "imagecodecs", "'fdcodec[evaluate]'"),
        ("hevc", "pillow_heif", "'fdcodec[hevc]'"),
        ("mbt2018", "compressai", "compressai"),
        ("ms-illm", "neuralcompression.zoo", "neuralcompression"),
    ],
)
def test_a_codec_without_its_library_is_unavailable_and_says_what_to_install(
    name: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    found, missing = available([name])
    assert found == [] and f"pip install {extra}" in missing[name]


def test_a_format_that_this_pillow_lacks_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codec.evaluation.baselines.classical.features.check", lambda _: False)
    assert available(["avif"]) == ([], {"avif": "this Pillow was built without avif"})


def test_a_program_that_is_not_on_the_path_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert available(["bpg"]) == ([], {"bpg": "the program bpgenc is not on PATH"})
    commands = [Command("own", "absent {input} {output}", COPY, (1,))]
    assert available(["own"], commands) == ([], {"own": "the program absent is not on PATH"})


def test_an_unknown_codec_is_refused() -> None:
    with pytest.raises(SettingsError, match="no codec 'gif' to compare with; choose from hevc"):
        available(["gif"])
    with pytest.raises(SettingsError, match="the name 'jpeg' is taken"):
        available(["jpeg"], [Command("jpeg", COPY, COPY, (1,))])


def test_external_programs_are_a_codec() -> None:
    pixels = synthetic(20, 30)
    assert np.array_equal(by_program().decode(by_program().encode(pixels, 1)), pixels)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import sys; sys.exit('no license')", "of copied ended with status 1: no license"),
        ("import sys; sys.exit(3)", "of copied ended with status 3: it said nothing"),
        ("pass", "of copied wrote no file"),
        ("import time; time.sleep(60)", "of copied did not end within 1 s"),
    ],
)
def test_an_external_program_that_fails_or_hangs_is_one_line(program: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        by_program(encode=f'{sys.executable} -c "{program}"').encode(synthetic(8, 8), 1)


def test_external_codecs_are_described_in_a_file(tmp_path: Path) -> None:
    described = tmp_path / "codecs.toml"
    described.write_text("[hfd]\nencode = 'a {input}'\ndecode = 'b'\nsettings = [1, 2]\npoints = [2]\nseconds = 5")
    assert read_commands(described) == [Command("hfd", "a {input}", "b", (1, 2), points=(2,), seconds=5)]
    for text in ("[hfd]\nencode = 'a'", "[hfd]\nencoder = 'a'", "hfd = 1", "[", "[hfd]\nsettings = 3"):
        described.write_text(text)
        with pytest.raises(SettingsError, match="does not describe codecs by a table"):
            read_commands(described)
    with pytest.raises(SettingsError, match="cannot read"):
        read_commands(tmp_path / "absent.toml")


@pytest.mark.parametrize("growth", [1, 5])
def test_a_setting_for_a_rate_is_found_in_few_trials(growth: float) -> None:
    settings = tuple(range(1, 101))

    def trials(size: float, expected: int) -> int:
        made: list[float] = []

        def length(setting: float) -> int:
            made.append(setting)
            return int(10 * setting**growth)

        assert largest_within(settings, size, length) == expected
        return len(made)

    for setting in (1, 2, 3, 56, 99, 100):
        assert trials(10 * setting**growth, setting) <= 12
        assert trials(10 * setting**growth + 9, setting) <= 12
    assert trials(3, 1) == 1


def test_a_search_may_end_with_a_file_that_is_near_enough() -> None:
    settings, made = tuple(range(1, 101)), list[float]()

    def length(setting: float) -> int:
        made.append(setting)
        return round(1000 * math.exp(setting / 20))

    for setting in (20, 45, 90):
        size = length(setting) + 1
        made.clear()
        assert largest_within(settings, size, length) == setting
        exact = len(made)
        made.clear()
        assert 0.8 * size <= length(largest_within(settings, size, length, enough=0.8)) <= size
        assert len(made) - 1 < exact


def test_files_made_for_one_rate_shorten_the_search_for_the_next() -> None:
    settings, made = tuple(range(1, 101)), dict[float, int]()
    trials = []

    def length(setting: float) -> int:
        assert setting not in made, "no file is made twice"
        made[setting] = 10 * round(setting)
        return made[setting]

    for setting in (30, 40, 50, 60):
        before = len(made)
        assert largest_within(settings, 10 * setting + 5, length, dict(made)) == setting
        trials.append(len(made) - before)
    assert all(later < trials[0] for later in trials[1:])
    assert largest_within(settings, 1, length, {1: 10}) == 1, "where even the smallest file is too large"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch.hub's folder of weights, empty."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def package(name: str, monkeypatch: pytest.MonkeyPatch, **contents: object) -> None:
    """Stand in for an installed package."""
    made = types.ModuleType(name)
    made.__dict__.update(contents)
    monkeypatch.setitem(sys.modules, name, made)


class Zoo:
    """A model with the calls of both packages that stores the pixels."""

    def __init__(self, quality: int) -> None:
        self.quality = quality

    def eval(self) -> "Zoo":
        return self

    def update(self, *_: object) -> None:
        pass

    update_tensor_devices = update

    def stored(self, unit: torch.Tensor) -> bytes:
        return bytes((255 * unit[0]).round().to(torch.uint8).numpy().tobytes()) + bytes([self.quality])

    def restored(self, data: bytes, size: tuple[int, int]) -> torch.Tensor:
        assert data[-1] == self.quality
        return torch.frombuffer(bytearray(data[:-1]), dtype=torch.uint8).view(1, 3, *size) / 255


class CompressAi(Zoo):
    def compress(self, unit: torch.Tensor) -> dict[str, object]:
        assert unit.shape[-1] % 64 == unit.shape[-2] % 64 == 0
        return {"strings": [[self.stored(unit)], [b"hyper"]], "shape": torch.Size(unit.shape[-2:])}

    def decompress(self, strings: list[list[bytes]], shape: tuple[int, int]) -> dict[str, torch.Tensor]:
        assert strings[1] == [b"hyper"]
        return {"x_hat": self.restored(strings[0][0], shape)}


class MsIllm(Zoo):
    def compress(self, unit: torch.Tensor) -> SimpleNamespace:
        size = tuple(unit.shape[-2:])
        strings = {"latent_strings": [self.stored(unit)], "hyper_latent_strings": [b"hyper"]}
        return SimpleNamespace(**strings, image_size=size, padded_size=size)

    def decompress(self, made: SimpleNamespace) -> torch.Tensor:
        assert made.hyper_latent_strings == [b"hyper"]
        return self.restored(made.latent_strings[0], made.image_size)


def test_compressais_zoo_is_used_where_its_weights_lie(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "bmshj2018-factorized"
    urls = {"mse": {quality: f"https://host/{name}-{quality}.pth.tar" for quality in (1, 2, 3)}}
    package("compressai", monkeypatch, __version__="1.2.8")
    package("compressai.zoo", monkeypatch, models={name: lambda quality, **_: CompressAi(quality)})
    package("compressai.zoo.image", monkeypatch, model_urls={name: urls})
    assert f"no weights in {hub}" in available([name])[1][name]
    assert available(["mbt2018"])[1]["mbt2018"] == "compressai 1.2.8 has no trained mbt2018"
    (hub / f"{name}-2.pth.tar").touch()
    ((found,), _) = available([name])
    assert found.points == found.settings == (2,)
    pixels = synthetic(50, 70)
    data = found.encode(pixels, 2)
    assert np.array_equal(found.decode(data), pixels) and len(data) == 10 + 2 * 4 + 3 * 64 * 128 + 1 + 5
    with pytest.raises(BitstreamError, match="truncated"):
        found.decode(data[:7])


def test_ms_illm_is_used_where_its_weights_lie(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package("neuralcompression.zoo", monkeypatch, msillm_quality_3=lambda pretrained: MsIllm(3))
    package("neuralcompression._outputs", monkeypatch, HyperpriorCompressedOutput=SimpleNamespace)
    assert "msillm_target_0.14bpp.ckpt" in available(["ms-illm"])[1]["ms-illm"]
    (hub / "msillm_target_0.14bpp.ckpt").touch()
    ((found,), _) = available(["ms-illm"])
    pixels = synthetic(50, 70)
    assert found.points == (3,) and np.array_equal(found.decode(found.encode(pixels, 3)), pixels)
