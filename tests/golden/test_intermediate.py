"""The entropy network's layers are those of intermediate.json, in the codec and in the second decoder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codec.bundle import Bundle
from tests.golden.make import bundles
from tests.golden.make_intermediate import CODES, FILE, KINDS, SHAPE, make, summary
from tests.golden.second_decoder import EntropyModel, Floats, S

S_UNITS = 2.0 ** S[1]


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    return bundles(tmp_path_factory.mktemp("golden"))


class Watched(EntropyModel):
    """The second decoder's model, which keeps what its blocks compute; in serial order position by position."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.kept: dict[str, list[Floats]] = {}

    def keep(self, name: str, values: Floats) -> None:
        self.kept.setdefault(name, []).append(values.ravel())

    def linear(self, name: str, x: Floats) -> Floats:
        result = super().linear(name, x)
        block, _, step = name.rpartition(".")
        if step == "project":
            self.keep(f"{block} p", self.snap(result, "Q") * self.units("Q"))
        if step == "merge":
            self.keep(f"{block} a", x * self.units("M"))
        if step == "contract":
            self.keep(f"{block} u", x * self.units("H"))
        return result

    def units(self, letter: str) -> float:
        return float(2.0 ** self.grids[letter][1])

    def block(self, net: str, index: int, x: Floats, size: int) -> Floats:
        self.keep(f"{net}.blocks.{index} x", x * S_UNITS)
        return super().block(net, index, x, size)


def by_second_decoder(model: Watched) -> dict[str, dict[str, Any]]:
    model.choose(CODES)
    rows, columns = SHAPE
    step = 2 ** model.settings["halvings"]
    z_shape = (model.settings["hyper_channels"], -(-rows // step), -(-columns // step))
    z, k = ((7919 * np.arange(int(np.prod(shape))) % 23 - 11).reshape(shape) for shape in (z_shape, (rows, columns, 4)))
    symbols = k.astype(np.float64)
    for name, values in zip(("prior m", "prior s"), model.prior(), strict=True):
        model.keep(name, values)
    hyper = model.hyper_decoder(z, rows, columns)
    model.keep("norm(hyper)", hyper * model.units("N"))
    if model.settings["order"] == "serial":
        cache = np.zeros((model.settings["depth"], 2, *hyper.shape))
        padded = np.pad(symbols, ((1, 0), (1, 1), (0, 0)))
        serial = [model.serial_context(cache, padded, v, h) for v, h in np.ndindex(rows, columns)]
        context = np.array(serial).reshape(hyper.shape)
        passes = {"as any": context}
    else:
        context = model.context(symbols)
        passes = {"as anchors": np.zeros_like(hyper), "as others": context}
    model.keep("snap(context, A)", context * model.units("N"))
    for name, features in passes.items():
        for channel in range(4):
            m, s = model.parameters(channel, hyper, features, symbols)
            model.keep(f"m {name}", m)
            model.keep(f"s {name}", s)
    return {name: summary(np.concatenate(parts)) for name, parts in model.kept.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_second_decoder_has_every_layer(kind: str, frozen: dict[str, Bundle]) -> None:
    expected = json.loads(FILE.read_text())[kind]
    found = by_second_decoder(Watched(frozen[kind].path))
    assert list(expected) and found == expected


def test_the_file_is_what_the_codec_computes() -> None:
    assert FILE.read_text() == make()
    assert FILE.stat().st_size < 200_000
