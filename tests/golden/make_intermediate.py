"""python -m tests.golden.make_intermediate: writes version2/intermediate.json, the entropy network layer by layer.

For one tile of 7 rows and 5 columns and each of seven kinds of bundle: what the codec's exact arithmetic has after each
step of section 6 of FORMAT.md, as a digest and the first values. A decoder whose symbols are wrong finds its first
wrong layer here. The inputs are those of the known answer: the pattern P, alpha codes 100, 128, 140, 170.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from codec.bundle import Bundle
from codec.entropy.grids import RESIDUAL, Grid
from codec.entropy.integer import ExactEntropyModel
from codec.entropy.windows import anchor_mask
from tests.golden.make import bundles
from tests.golden.make_version2 import FOLDER

FILE = FOLDER / "intermediate.json"
KINDS = ("parallel", "conditioned", "serial", "coarse", "extreme", "narrow", "narrow-extreme")
SHAPE = (7, 5)
CODES = (100, 128, 140, 170)
FIRST = 12
"""Values that are written out of each array."""

Keep = Callable[[str, Tensor, float], None]


def summary(values: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Number, digest and first values of whole numbers, in the order of memory."""
    whole = np.ascontiguousarray(values).astype("<i4")
    assert np.array_equal(whole, values)
    digest = hashlib.sha256(whole.tobytes()).hexdigest()
    return {"numbers": whole.size, "first": whole.ravel()[:FIRST].tolist(), "sha256": digest}


def pattern(*shape: int) -> Tensor:
    return (torch.arange(int(np.prod(shape))) * 7919 % 23 - 11).view(shape)


@torch.no_grad()
def layers(bundle: Bundle) -> dict[str, dict[str, Any]]:
    """What the codec computes, by the name of the step, in the order of computing."""
    model, _ = bundle.load_entropy()
    model.network.context.shares_alike = False  # every token has its steps
    found: dict[str, dict[str, Any]] = {}

    def keep(name: str, values: Tensor, units: float = 1.0) -> None:
        found[name] = summary((values.double() * units).numpy())

    grids = model.math.grids
    watch(model, keep)
    codes = torch.tensor([CODES])
    for name, values in zip(("prior m", "prior s"), model.prior(codes), strict=True):
        keep(name, values)
    hyper = model.hyper(pattern(1, *model.hyper_shape(*SHAPE)), codes, SHAPE)
    keep("norm(hyper)", model.math.normalize(hyper), grids.normalized.units)
    symbols = pattern(1, SHAPE[0] * SHAPE[1], 4)
    parallel = model.settings.order == "parallel"
    context = model.context(symbols, codes, SHAPE, anchor_mask(*SHAPE) if parallel else None)
    keep("snap(context, A)", model.math.snap(context, grids.normalized), grids.normalized.units)
    passes = {"as anchors": None, "as others": context} if parallel else {"as any": context}
    for name, features in passes.items():
        means, levels = model.parameters(hyper, features, codes).of_all(symbols)
        keep(f"m {name}", means)
        keep(f"s {name}", levels)
    return found


def watch(model: ExactEntropyModel, keep: Keep) -> None:
    """Have the blocks' steps kept while the network runs."""
    grids = model.math.grids
    for net in ("hyper_decoder", "context"):
        for index, block in enumerate(model.network.get_submodule(f"{net}.blocks").children()):
            name = f"{net}.blocks.{index}"
            block.register_forward_pre_hook(partial(_entering, keep, f"{name} x", RESIDUAL))
            project = block.get_submodule("project")
            project.register_forward_hook(partial(_leaving, keep, f"{name} p", model))
            merge = block.get_submodule("merge")
            contract = block.get_submodule("contract")
            merge.register_forward_pre_hook(partial(_entering, keep, f"{name} a", grids.mixed))
            contract.register_forward_pre_hook(partial(_entering, keep, f"{name} u", grids.hidden))


def _entering(keep: Keep, name: str, grid: Grid, module: nn.Module, inputs: tuple[Any, ...]) -> None:
    keep(name, inputs[0], grid.units)


def _leaving(
    keep: Keep, name: str, model: ExactEntropyModel, module: nn.Module, inputs: tuple[Any, ...], output: Tensor
) -> None:
    grid = model.math.grids.heads
    keep(name, model.math.snap(output, grid), grid.units)


def make() -> str:
    """The text of the file."""
    with tempfile.TemporaryDirectory() as scratch:
        frozen = bundles(Path(scratch))
        found = {kind: layers(frozen[kind]) for kind in KINDS}
    rows = [
        f' "{kind}": {{\n' + ",\n".join(f'  "{name}": {json.dumps(row)}' for name, row in steps.items()) + "\n }"
        for kind, steps in found.items()
    ]
    return "{\n" + ",\n".join(rows) + "\n}\n"


if __name__ == "__main__":
    FILE.write_text(make())
