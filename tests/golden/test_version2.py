"""Files of version 2 are read, and hostile ones refused, for ever: by the codec and by the second decoder."""

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import codec
from codec.bundle import Bundle
from codec.entropy.stream import decompress
from codec.errors import BitstreamError, SettingsError
from codec.format.bitstream import parse
from tests.golden import second_decoder
from tests.golden.make import bundles
from tests.golden.make_version2 import FOLDER, described, make
from tests.golden.second_decoder import EntropyModel

EXPECTED = json.loads((FOLDER / "expected.json").read_text())


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    return bundles(tmp_path_factory.mktemp("golden"))


@pytest.fixture(scope="module")
def models(frozen: dict[str, Bundle]) -> dict[str, EntropyModel]:
    return {name: EntropyModel(bundle.path) for name, bundle in frozen.items()}


@pytest.mark.parametrize("name", EXPECTED["read"])
def test_a_file_of_version_2_is_read_as_it_always_was(
    name: str, frozen: dict[str, Bundle], models: dict[str, EntropyModel]
) -> None:
    data = (FOLDER / f"{name}.fdc").read_bytes()
    expected = EXPECTED["read"][name]
    assert described(frozen[expected["bundle"]], expected["bundle"], data) == expected
    assert by_second_decoder(data, models[expected["bundle"]]) == {
        field: expected[field] for field in ("width", "height", "gray", "orientation", "symbols", "chunks", "skipped")
    }


def by_second_decoder(data: bytes, model: EntropyModel) -> dict[str, Any]:
    file = second_decoder.parse(data)
    return {
        "width": file.width,
        "height": file.height,
        "gray": file.gray,
        "orientation": file.orientation,
        "symbols": hashlib.sha256(second_decoder.decode(file, model).astype("<i4").tobytes()).hexdigest(),
        "chunks": {tag: [hashlib.sha256(own).hexdigest() for own in many] for tag, many in file.chunks.items()},
        "skipped": list(file.skipped),
    }


@pytest.mark.parametrize("name", EXPECTED["refused"])
def test_a_hostile_file_with_a_right_checksum_is_refused(
    name: str, frozen: dict[str, Bundle], models: dict[str, EntropyModel]
) -> None:
    data = (FOLDER / "refused" / f"{name}.fdc").read_bytes()
    with pytest.raises(BitstreamError):
        parsed = parse(data)
        entropy = frozen["parallel"].load_entropy()
        codes = parsed.parameters.channel_codes
        decompress(*entropy, parsed.stream, parsed.latent_shape, codes, canonical=parsed.version > 1)
    with pytest.raises(ValueError, match=r"."):
        second_decoder.decode(second_decoder.parse(data), models["parallel"])


def test_every_file_of_the_folder_is_listed() -> None:
    assert {path.stem for path in FOLDER.glob("*.fdc")} == EXPECTED["read"].keys()
    assert {path.stem for path in (FOLDER / "refused").glob("*.fdc")} == set(EXPECTED["refused"])


def test_golden_files_are_never_written_again(tmp_path: Path) -> None:
    shutil.copy(FOLDER / "expected.json", tmp_path)
    with pytest.raises(SettingsError, match="never changed"):
        make(tmp_path)


def test_the_example_of_the_page_is_what_it_says(frozen: dict[str, Bundle], models: dict[str, EntropyModel]) -> None:
    page = (Path(codec.__file__).parent / "FORMAT.md").read_text()
    example = re.search(r"^    ((?:[0-9a-f]{2} ){34}[0-9a-f]{2})$", page, re.MULTILINE)
    assert example is not None
    data = bytes.fromhex(example[1])
    expected = described(frozen["parallel"], "parallel", data)
    assert (expected["width"], expected["height"], expected["gray"]) == (5, 7, True)
    assert f"{expected['symbols']}." in page
    assert by_second_decoder(data, models["parallel"])["symbols"] == expected["symbols"]
