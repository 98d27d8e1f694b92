"""Files written with version 1 decode to the same symbols and chunks for ever."""

import dataclasses
import json
import lzma
import shutil
from pathlib import Path

import numpy as np
import pytest

from codec import Codec
from codec.errors import SettingsError
from codec.format.bitstream import parse
from tests.golden.make import (
    BUNDLES,
    DERIVED,
    EXTREME,
    GOLDEN,
    KINDS,
    NARROW,
    SYMBOLS,
    bundles,
    computed_answer,
    described,
    freeze,
    make,
    make_bundles,
    pictures,
)

EXPECTED = json.loads((GOLDEN / SYMBOLS).read_text())


@pytest.fixture(scope="module")
def codecs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Codec]:
    return {name: Codec.load(bundle) for name, bundle in bundles(tmp_path_factory.mktemp("golden")).items()}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_golden_file_decodes_as_it_always_did(name: str, codecs: dict[str, Codec]) -> None:
    data = (GOLDEN / name).read_bytes()
    expected = EXPECTED[name]
    codec = codecs[expected["bundle"]]
    assert described(codec, expected["bundle"], data) == expected
    assert parse(data).version == 1
    picture = codec.decode_picture(data)
    assert picture.pixels.shape == (expected["height"], expected["width"], 3)
    if expected["gray"]:
        assert np.array_equal(picture.pixels, np.repeat(picture.pixels[..., :1], 3, axis=2))


def test_every_golden_file_is_listed_and_every_kind_has_all_pictures() -> None:
    assert {path.name for path in GOLDEN.glob("*.fdc")} == set(EXPECTED)
    assert set(EXPECTED) == {f"{kind}-{name}.fdc" for kind in (*KINDS, *DERIVED) for name in pictures()}
    assert sum(path.stat().st_size for path in GOLDEN.iterdir() if path.is_file()) <= 1_000_000


def test_the_archive_has_the_bundle_of_every_kind_as_the_codec_computes_it(tmp_path: Path) -> None:
    frozen = bundles(tmp_path)
    assert set(frozen) == {*KINDS, *DERIVED, *NARROW, *EXTREME}
    stated = {kind: json.loads((bundle.path / "bundle.json").read_text()) for kind, bundle in frozen.items()}
    for kind in (*KINDS, *DERIVED):
        bundle = frozen[kind]
        base, changes = DERIVED.get(kind, (kind, {}))
        settings = dataclasses.replace(KINDS[base]["entropy"], **changes)
        assert bundle.config.entropy == settings
        known_answer = computed_answer(bundle.path, settings)
        assert stated[kind] == stated[base] | {
            "entropy": stated[base]["entropy"] | changes,
            "known_answer": known_answer,
        }


def test_kinds_that_the_archive_lacks_are_made_again_to_the_byte(tmp_path: Path) -> None:
    everything = tmp_path / "all"
    bundles(everything)
    for kind in ("coarse", "extreme-serial"):
        shutil.rmtree(everything / kind)
    freeze(everything, tmp_path)
    make_bundles(tmp_path)
    assert lzma.decompress((tmp_path / BUNDLES).read_bytes()) == lzma.decompress((GOLDEN / BUNDLES).read_bytes())


def test_golden_files_are_never_written_again(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / SYMBOLS, tmp_path)
    with pytest.raises(SettingsError, match="never changed"):
        make(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [SYMBOLS]
