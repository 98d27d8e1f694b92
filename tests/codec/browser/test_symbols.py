"""The page's decoder, in Chromium: exact symbols and chunks of every golden file, and one line for every bad one."""

import json
from pathlib import Path

import pytest

from codec.bundle_id import DEFAULT_BUNDLE
from tests.codec.browser.conftest import Answers, Asked
from tests.golden.make import DERIVED, EXTREME, GOLDEN, KINDS, NARROW, SYMBOLS

pytestmark = pytest.mark.browser
FIRST = json.loads((GOLDEN / SYMBOLS).read_text())
SECOND = json.loads((GOLDEN / "version2" / "expected.json").read_text())
SHOWN = ("symbols", "width", "height", "gray")


def test_it_computes_the_known_answer_of_every_kind_of_bundle(answers: Answers, frozen: Path) -> None:
    kinds = (*KINDS, *DERIVED, *NARROW, *EXTREME)
    folders = [*(frozen / kind for kind in kinds), DEFAULT_BUNDLE]
    stated = [json.loads((folder / "bundle.json").read_text())["known_answer"] for folder in folders]
    found = answers([(path, None) for path in (*(f"/bundles/{kind}" for kind in kinds), "/mini")])
    assert [one["known"] for one in found] == stated


def test_it_decodes_every_golden_file_of_version_1(answers: Answers) -> None:
    found = answers([(f"/bundles/{one['bundle']}", f"/golden/{name}") for name, one in FIRST.items()])
    for (name, expected), got in zip(FIRST.items(), found, strict=True):
        assert {key: got.get(key) for key in SHOWN} == {key: expected[key] for key in SHOWN}, (name, got)
        for tag, kind in (("ALPH", "alpha"), ("ICCP", "icc"), ("exIf", "exif")):
            assert got["chunks"].get(tag, [None])[0] == expected[kind], name


def test_it_decodes_every_golden_file_of_version_2(answers: Answers) -> None:
    read = SECOND["read"]
    found = answers([(f"/bundles/{one['bundle']}", f"/golden/version2/{name}.fdc") for name, one in read.items()])
    shown = (*SHOWN, "orientation", "skipped")
    for (name, expected), got in zip(read.items(), found, strict=True):
        assert {key: got.get(key) for key in shown} == {key: expected[key] for key in shown}, (name, got)
        assert got["chunks"] == expected["chunks"], name


def test_it_refuses_every_file_to_be_refused_in_one_line(answers: Answers) -> None:
    refused = SECOND["refused"]
    found = answers([("/bundles/parallel", f"/golden/version2/refused/{name}.fdc") for name in refused])
    assert len(found) > 50
    for name, got in zip(refused, found, strict=True):
        assert got.get("error"), (name, got)
        assert "\n" not in got["error"]


@pytest.mark.parametrize("is_one_sided", [False, True])
def test_products_are_exact_at_the_limits_of_16_bits(ask: Asked, is_one_sided: bool) -> None:
    """The columns of `grow`, a number that is odd, and the largest weights and inputs of both kinds of grids."""
    wide = [[inputs, 32767, 32767, is_one_sided] for inputs in (1, 33, 128, 1152)]
    narrow = [[inputs, 127, 1023, is_one_sided] for inputs in (1, 33, 128, 1152)]
    found = ask("products", wide + narrow)
    assert [difference for difference, _ in found] == [0] * len(found)
    assert [is_split for _, is_split in found] == [False, *[True] * 3, *[False] * 4]
