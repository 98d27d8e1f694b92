"""FORMAT.md is enough to write a decoder from: one that was decodes what the codec writes."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from codec.bundle import Bundle
from codec.bundle_id import DEFAULT_BUNDLE
from codec.entropy.stream import compress
from tests.golden import second_decoder
from tests.golden.make import DERIVED, EXTREME, GOLDEN, KINDS, NARROW, SYMBOLS, bundles
from tests.golden.second_decoder import EntropyModel, File

EXPECTED = json.loads((GOLDEN / SYMBOLS).read_text())
CODES = [(128, 155, 248, 186), (0, 255, 100, 30), (200, 200, 200, 200)]
"""At the first, snapping the prior to the residual grid before that of outputs makes a difference."""


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Bundle]:
    return bundles(tmp_path_factory.mktemp("golden"))


@pytest.fixture(scope="module")
def models(frozen: Mapping[str, Bundle]) -> Mapping[str, EntropyModel]:
    return {name: EntropyModel(bundle.path) for name, bundle in frozen.items()}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_decoder_written_from_the_format_alone_decodes_every_golden_file(
    name: str, models: Mapping[str, EntropyModel]
) -> None:
    expected = EXPECTED[name]
    file = second_decoder.parse((GOLDEN / name).read_bytes())
    symbols = second_decoder.decode(file, models[expected["bundle"]])
    assert hashlib.sha256(symbols.astype("<i4").tobytes()).hexdigest() == expected["symbols"]
    assert (file.width, file.height, file.gray) == (expected["width"], expected["height"], expected["gray"])
    for tag, kind in (("ALPH", "alpha"), ("ICCP", "icc"), ("exIf", "exif")):
        chunk = file.chunks.get(tag, [None])[0]
        assert (chunk and hashlib.sha256(chunk).hexdigest()) == expected[kind]


@pytest.mark.parametrize("kind", [*KINDS, *DERIVED, *NARROW, *EXTREME])
def test_it_computes_the_known_answers(kind: str, models: Mapping[str, EntropyModel]) -> None:
    assert second_decoder.known_answer(models[kind]) == models[kind].known_answer


def test_it_computes_the_known_answer_of_the_shipped_bundle() -> None:
    shipped = EntropyModel(DEFAULT_BUNDLE)
    assert second_decoder.known_answer(shipped) == shipped.known_answer


@pytest.mark.parametrize("kind", [*KINDS, *DERIVED])
@pytest.mark.parametrize("codes", CODES)
def test_it_decodes_other_alpha_in_each_channel_and_escapes_of_both_signs(
    kind: str, codes: tuple[int, ...], frozen: Mapping[str, Bundle], models: Mapping[str, EntropyModel]
) -> None:
    draws = np.random.default_rng(sum(codes))
    symbols = np.round(draws.standard_cauchy((4, 11, 9)) * 20).clip(-32767, 32767).astype(np.int32)
    z = np.round(draws.normal(0, 20, (4, 3, 3))).clip(-63, 63).astype(np.int32)
    coded = compress(*frozen[kind].load_entropy(), symbols, [z], torch.tensor([codes]))
    file = File(models[kind].id[:8], 72, 88, False, codes, coded.data, {})
    assert np.array_equal(second_decoder.decode(file, models[kind]), symbols)


def test_it_refuses_a_stream_that_ran_out_and_one_that_goes_on(models: Mapping[str, EntropyModel]) -> None:
    file = second_decoder.parse((GOLDEN / "parallel-plain.fdc").read_bytes())
    for stream, message in ((file.stream[:-8], "ran out"), (file.stream + bytes(8), "nothing needs")):
        with pytest.raises(ValueError, match=message):
            second_decoder.decode(dataclasses.replace(file, stream=stream), models["parallel"])


def test_it_does_not_know_the_codec() -> None:
    assert "codec" not in [line.split()[1].partition(".")[0] for line in _imports(Path(second_decoder.__file__))]


def _imports(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line.startswith(("import ", "from "))]
