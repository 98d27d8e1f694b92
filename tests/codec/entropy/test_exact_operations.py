"""The exact path uses no operation whose result depends on the machine.

Tests on one CPU cannot show that a convolution, or a division by a number, differs on a GPU; so calls are watched.
"""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from codec.entropy.arithmetic import Exact
from codec.entropy.export import export
from codec.entropy.integer import ExactEntropyModel
from codec.entropy.stream import compress, decompress
from codec.entropy.tables import Tables, build_counts
from tests.support.tiny_bundles import TINY, tiny_entropy

CODES = torch.tensor([[140, 120, 150, 133]])

EXACT = {
    # sums of products that stay below 2**53, or 2**24, in any order
    *("mm", "bmm", "addmm", "baddbmm", "sum", "dot", "mv", "_embedding_bag_forward_only"),
    # single operations that IEEE 754 rounds correctly; x / number is none: on a GPU it is x * (1 / number)
    *("add", "sub", "rsub", "mul", "div", "sqrt", "round", "floor", "clamp", "neg", "abs", "leaky_relu"),
    # comparisons and choices
    *("lt", "gt", "ge", "le", "eq", "where", "masked_fill", "amax", "maximum", "topk"),
    # moving numbers
    *("gather", "scatter", "scatter_add", "index", "index_put", "take", "cat", "stack", "constant_pad_nd"),
    *("view", "_unsafe_view", "reshape", "expand", "permute", "transpose", "t", "unsqueeze", "squeeze", "slice"),
    *("select", "split", "split_with_sizes", "unbind", "clone", "copy", "_to_copy", "detach", "alias", "contiguous"),
    *("lift_fresh", "repeat", "unfold", "as_strided", "_local_scalar_dense"),
    # making them
    *("zeros", "zeros_like", "full", "new_zeros", "new_full", "empty", "empty_like", "arange", "fill", "zero"),
}


class Watch(TorchDispatchMode):
    """Notes every operation that is not known to be exact, and every floating type that is not allowed.

    Division and square root are of float64 alone.
    """

    def __init__(self, *allowed: torch.dtype) -> None:
        super().__init__()
        self.allowed = {torch.float64, *allowed}
        self.found: set[str] = set()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.calls += 1
        floating = [x.dtype for x in [*args, result] if isinstance(x, Tensor) and x.is_floating_point()]
        if floating:  # whole numbers are exact
            name = func.overloadpacket.__name__.rstrip("_")
            if name == "div" and (not isinstance(args[1], Tensor) or args[1].dim() == 0 or kwargs):
                self.found.add("div by a number")
            if name not in EXACT:
                self.found.add(name)
            allowed = {torch.float64} if name in ("div", "sqrt") else self.allowed
            self.found |= {f"{name} in {dtype}" for dtype in floating if dtype not in allowed}
        return result


def forbidden(order: str, dither: bool = False, grids: str = "wide") -> set[str]:
    """What the exact path of a whole encoding and decoding calls that it must not."""
    changes = {"order": order, "channel_conditioning": True, "dither": dither, "grids": grids}
    settings = dataclasses.replace(TINY, **changes)  # type: ignore[arg-type]
    model = tiny_entropy(settings).requires_grad_(False)
    integers, tables = export(model), Tables(build_counts())
    symbols = (np.arange(4 * 9 * 35).reshape(4, 9, 35) * 7919 % 13 - 6).astype(np.int32)
    exact = ExactEntropyModel(integers, model.settings)
    z = np.ones(exact.hyper_shape(9, 35), np.int32)
    with Watch(exact.math.dtype) as watch:
        exact.known_answer()
        data = compress(exact, tables, symbols, [z], CODES).data
        assert np.array_equal(decompress(exact, tables, data, (9, 35), CODES), symbols)
    assert watch.calls > 500
    return watch.found


@pytest.mark.parametrize("order", ["parallel", "serial"])
@pytest.mark.parametrize("dither", [False, True])
@pytest.mark.parametrize("grids", ["wide", "narrow"])
def test_the_exact_path_calls_only_exact_operations(order: str, dither: bool, grids: str) -> None:
    assert not forbidden(order, dither, grids)


def gelu(self: Exact, x: Tensor) -> Tensor:
    return self.snap(F.gelu(x), self.grids.hidden)


def softmax(self: Exact, logits: Tensor) -> Tensor:
    return torch.softmax(logits, -1)


def divided(self: Exact, x: Tensor) -> Tensor:
    return self.snap(x / 3.0, self.grids.hidden)


def rounded_to_float32(self: Exact, x: Tensor) -> Tensor:
    return x.float().double()


def convolved(self: Exact, x: Tensor) -> Tensor:
    return F.conv1d(x, torch.ones(x.shape[1], 1, 1, dtype=x.dtype), groups=x.shape[1])


@pytest.mark.parametrize(
    ("method", "planted", "named"),
    [
        ("leaky", gelu, "gelu"),
        ("exponentials", softmax, "_softmax"),
        ("leaky", divided, "div by a number"),
        ("leaky", rounded_to_float32, "_to_copy in torch.float32"),
        ("leaky", convolved, "convolution"),
    ],
)
def test_a_planted_operation_is_found(method: str, planted: Any, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Exact, method, planted)
    assert named in forbidden("parallel")
