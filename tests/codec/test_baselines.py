"""Other codecs make real files that decode, and one that cannot run says why."""

import sys
from pathlib import Path

import numpy as np
import pytest

from codec import SettingsError
from codec.baselines import NAMES, Baseline, Command, available, largest_within
from codec.baselines.external import read_commands
from codec.metrics import psnr
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
    ("name", "module", "extra"), [("jpeg-xl", "imagecodecs", "evaluate"), ("hevc", "pillow_heif", "heif")]
)
def test_a_codec_without_its_library_is_unavailable_and_says_what_to_install(
    name: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    found, missing = available([name])
    assert found == [] and f"pip install 'fdcodec[{extra}]'" in missing[name]


def test_a_format_that_this_pillow_lacks_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codec.baselines.classical.features.check", lambda _: False)
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
        ("import sys; sys.exit('no licence')", "of copied ended with status 1: no licence"),
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
