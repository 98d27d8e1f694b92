"""Replays functions of tensors as CUDA graphs: one launch instead of thousands. Elsewhere it calls them.

Boolean indexing and `nonzero` have data-dependent sizes, for which the CPU must wait; a graph does not allow that. If
masks depend on shapes alone, as in the entropy network, the indices of the first call hold for all later ones: they are
recorded and reused during capture.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

KEPT = 12
"""Upper bound on graphs kept by one `Graphs`."""
MET = 256
"""Upper bound on remembered shapes."""

Tensors = tuple[Tensor, ...]
Function = Callable[..., Tensors]


class Indices(TorchDispatchMode):
    """Records the indices of masks in call order and replays them when entered again.

    Exact as long as both calls ask for the same masks, with the same values, in the same order.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Tensor] = []
        self._next: int | None = None

    def again(self) -> Self:
        """Switches to replay, from the first recorded indices."""
        self._next = 0
        return self

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is torch.ops.aten.nonzero.default:
            return self._where(args[0])
        if function is torch.ops.aten.index.Tensor:
            args = (args[0], self._as_numbers(args[1]), *args[2:])
        return function(*args, **(kwargs or {}))

    def _as_numbers(self, indices: list[Tensor | None]) -> list[Tensor | None]:
        numbers: list[Tensor | None] = []
        for index in indices:
            if index is not None and index.dtype == torch.bool:
                numbers += self._where(index).unbind(1)
            else:
                numbers.append(index)
        return numbers

    def _where(self, mask: Tensor) -> Tensor:
        if self._next is None:
            self.found.append(mask.nonzero())
            return self.found[-1]
        self._next += 1
        return self.found[self._next - 1]


@dataclass
class _Graph:
    """A captured function with its input and output tensors."""

    graph: Any
    inputs: Tensors
    outputs: Tensors
    indices: Indices

    def run(self, inputs: Tensors) -> Tensors:
        with torch.cuda.device(self.inputs[0].device):
            for own, given in zip(self.inputs, inputs, strict=True):
                own.copy_(given)
            self.graph.replay()
        return self.outputs


class Graphs:
    """Graphs of functions by name and input shapes; the oldest are dropped.

    They share memory for intermediate tensors, so use them from one thread at a time.
    """

    def __init__(self) -> None:
        self._graphs: OrderedDict[Hashable, _Graph] = OrderedDict()
        self._met: OrderedDict[Hashable, None] = OrderedDict()
        self._pool: Any = None

    def run(self, name: Hashable, function: Function, *inputs: Tensor) -> Tensors:
        """Calls function(*inputs). On a GPU, results stay valid during the next call and are then overwritten.

        Functions of the same name and input shapes and types must compute the same. A first call runs directly; the
        second one captures the graph.
        """
        if inputs[0].device.type != "cuda":
            return function(*inputs)
        key = (name, *((tuple(given.shape), given.dtype) for given in inputs))
        found = self._graphs.pop(key, None)
        if found is None and not _remembered(self._met, key):
            return function(*inputs)
        if found is None:
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            found = _captured(function, inputs, self._pool)
        self._graphs[key] = found
        if len(self._graphs) > KEPT:
            self._graphs.popitem(last=False)
        return found.run(inputs)


def _remembered(met: OrderedDict[Hashable, None], key: Hashable) -> bool:
    """Whether a key was seen recently; marks it as seen."""
    known = key in met
    met[key] = None
    met.move_to_end(key)
    if len(met) > MET:
        met.popitem(last=False)
    return known


def _captured(function: Function, inputs: Tensors, pool: Any) -> _Graph:
    """Captures a function, after warm-up calls that let libraries choose kernels and record the indices."""
    with torch.cuda.device(inputs[0].device):
        own = tuple(given.clone() for given in inputs)
        indices = Indices()
        side = torch.cuda.Stream()  # torch requires warm-up calls off the stream that is current
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            with indices:
                function(*own)
            with indices.again():
                function(*own)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # other threads use the device during capture
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"), indices.again():
            outputs = function(*own)
        torch.cuda.empty_cache()  # memory of the warm-up calls
    return _Graph(graph, own, outputs, indices)
