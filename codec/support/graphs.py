"""Functions of tensors replayed as CUDA graphs: one launch instead of thousands. Elsewhere they are simply called.

What a function picks by a mask or counts by `nonzero` has a size that the processor must wait for, which no graph
allows. Where masks depend on nothing but shapes, as in the entropy network, the indices found in a first call are
those of every later one: they are remembered, and taken while the graph is captured.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

KEPT = 12
"""Graphs that one `Graphs` keeps at most."""
MET = 256
"""Shapes that it remembers at most."""

Tensors = tuple[Tensor, ...]
Function = Callable[..., Tensors]


class Indices(TorchDispatchMode):
    """Remembers where masks are true, in the order in which that is asked for; entered again, it gives that back.

    Exact as long as both calls ask for the same masks, with the same values, in the same order.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Tensor] = []
        self._next: int | None = None

    def again(self) -> Self:
        """From here on nothing is looked for: what was found is given back from its beginning."""
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
    """A captured function with the tensors that it reads and writes."""

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
    """The graphs of some functions, by name and by the shapes of what they are given; the oldest are given up.

    They share the memory of their intermediate tensors, so they are for one thread at a time.
    """

    def __init__(self) -> None:
        self._graphs: OrderedDict[Hashable, _Graph] = OrderedDict()
        self._met: OrderedDict[Hashable, None] = OrderedDict()
        self._pool: Any = None

    def run(self, name: Hashable, function: Function, *inputs: Tensor) -> Tensors:
        """function(*inputs). On a GPU the results are overwritten by later calls, but for those of the next one.

        Of functions with one name that are given inputs of the same shapes and types, all must compute the same. What
        comes once is simply called; a graph is worth its capture from the second time on.
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
    """Whether a key was met lately; from now on it was."""
    known = key in met
    met[key] = None
    met.move_to_end(key)
    if len(met) > MET:
        met.popitem(last=False)
    return known


def _captured(function: Function, inputs: Tensors, pool: Any) -> _Graph:
    """A function as a graph, after calls that let libraries choose their kernels and find the indices."""
    with torch.cuda.device(inputs[0].device):
        own = tuple(given.clone() for given in inputs)
        indices, side = Indices(), torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            with indices:
                function(*own)
            with indices.again():
                function(*own)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # other threads use the device meanwhile
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"), indices.again():
            outputs = function(*own)
        torch.cuda.empty_cache()  # what the calls before it took
    return _Graph(graph, own, outputs, indices)
