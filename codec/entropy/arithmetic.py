"""The arithmetics in which the entropy network runs, on the grids of codec.entropy.grids.

`Simulated` is the float arithmetic of training: values are rounded to the grids, gradients pass straight through.
`Plain` has no grids, for computations of the encoder alone. `Exact` carries the same numbers as multiples of a
power of two. Each product and partial sum is such a multiple below 2**53 units, or below 2**24 with narrow grids, so
that float64, or float32, holds it and any order of summation gives the same value on any machine. Where a result is not
on a grid (division, square root) it is one correctly rounded operation in float64, followed by rounding to a grid. Only
+ - * / sqrt, round, floor, comparison, gathering and table look-ups by integers occur.
"""

from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from codec.entropy.grids import RESIDUAL, WIDE, Grid, Grids

EXPONENT_STEPS = 32
"""Table entries per unit of attention logit."""
EXPONENT_ENTRIES = 512
"""Logits more than EXPONENT_ENTRIES / EXPONENT_STEPS below the best have zero weight."""
SLOPE = 0.2
"""Negative slope of the leaky rectifier."""


class Arithmetic(Protocol):
    """The network's operations besides linear maps. Tensors keep their shape unless stated otherwise."""

    @property
    def grids(self) -> Grids:
        """The grids that the network rounds to."""
        ...

    def snap(self, x: Tensor, grid: Grid) -> Tensor:
        """Rounds to the grid and clamps to its limits."""
        ...

    def snap_(self, x: Tensor, grid: Grid) -> Tensor:
        """The same; x may be overwritten."""
        ...

    def plus(self, x: Tensor, y: Tensor, grid: Grid) -> Tensor:
        """x + y, both on the grid, clamped to its limits; y may be overwritten."""
        ...

    def normalize(self, x: Tensor) -> Tensor:
        """Layer normalization over the last axis, without gain, on the grid `normalized`."""
        ...

    def leaky(self, x: Tensor) -> Tensor:
        """Leaky rectifier of x rounded to the grid `hidden`, on the same grid."""
        ...

    def attended(
        self,
        scores: Tensor,
        values: Tensor,
        own: Tensor | None,
        count: int,
        scale: float,
        indices: Tensor | None = None,
    ) -> Tensor:
        """Means (..., q, d) of the values (..., n, d), weighted by the softmax of scale * scores (..., q, n).

        Only the `count` largest scores of a query have weight; among equal scores the later win. With own
        (..., q, d), the last of n + 1 scores stands for a query's own value. `scores` may be overwritten.
        With indices, of the scores' shape, they are those of the values at these indices.
        """
        ...

    def best(self, scores: Tensor, count: int, indices: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The `count` largest scores along the last axis, or all, in any order: their indices (or `indices`) and
        values. `scores` may be overwritten."""
        ...


class _OnGrids(ABC):
    """Attention shared by the simulated and the exact arithmetic."""

    grids: Grids

    @abstractmethod
    def snap_(self, x: Tensor, grid: Grid) -> Tensor: ...

    @abstractmethod
    def best(self, scores: Tensor, count: int, indices: Tensor | None = None) -> tuple[Tensor, Tensor]: ...

    @abstractmethod
    def exponentials(self, logits: Tensor) -> Tensor:
        """exp(logit - largest logit) up to a common factor, along the last axis."""

    @abstractmethod
    def mix(self, weights: Tensor, kept: Tensor, values: Tensor, own: Tensor | None) -> Tensor:
        """Sums (..., q, d) of the values (..., n, d) at the indices kept (..., q, k), times the weights (..., q, k).

        With own (..., q, d), index n stands for a query's own value.
        """

    def quotient(self, mixed: Tensor, total: Tensor) -> Tensor:
        """mixed / total; overwritten by the caller."""
        return mixed / total

    def attended(
        self,
        scores: Tensor,
        values: Tensor,
        own: Tensor | None,
        count: int,
        scale: float,
        indices: Tensor | None = None,
    ) -> Tensor:
        kept, logits = self.best(scores, count, indices)
        weights = self.exponentials(logits * scale) * (logits > self.grids.masked)
        mixed = self.mix(weights, kept, values, own)
        return self.snap_(self.quotient(mixed, weights.sum(-1, keepdim=True)), self.grids.mixed)


class Plain:
    """The encoder's own part, the hyper-encoder: no grids, and no key selection. Differentiable."""

    grids = WIDE

    def snap(self, x: Tensor, grid: Grid) -> Tensor:
        return x

    snap_ = snap

    def plus(self, x: Tensor, y: Tensor, grid: Grid) -> Tensor:
        return x + y

    def normalize(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], eps=RESIDUAL.units**-2)

    def leaky(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, SLOPE, inplace=True)

    def attended(
        self,
        scores: Tensor,
        values: Tensor,
        own: Tensor | None,
        count: int,
        scale: float,
        indices: Tensor | None = None,
    ) -> Tensor:
        if own is not None or indices is not None:
            raise ValueError("the encoder hides no keys")
        return torch.softmax(scores.mul_(scale), -1) @ values

    def best(self, scores: Tensor, count: int, indices: Tensor | None = None) -> tuple[Tensor, Tensor]:
        raise ValueError("the encoder chooses no keys")


class Simulated(_OnGrids):
    """Training: differentiable, in the tensors' float type. `breadth` scales the number of kept keys.

    Weights keep their precision: rounding them to the bits of an export changes a rate by less than 0.1 %.
    """

    def __init__(self, grids: Grids = WIDE, breadth: float = 1.0) -> None:
        self.grids = grids
        self.breadth = breadth

    def snap(self, x: Tensor, grid: Grid) -> Tensor:
        limit = grid.limit / grid.units
        clamped = x.clamp(-limit, limit)
        if not torch.is_grad_enabled():
            return clamped.mul_(grid.units).round_().mul_(1 / grid.units)
        rounding = torch.round(clamped * grid.units) / grid.units - clamped
        return clamped + rounding.detach()  # the gradient of `clamped`

    snap_ = snap

    def plus(self, x: Tensor, y: Tensor, grid: Grid) -> Tensor:
        return self.snap(x + y, grid)

    def normalize(self, x: Tensor) -> Tensor:
        return self.snap(F.layer_norm(x, x.shape[-1:], eps=RESIDUAL.units**-2), self.grids.normalized)

    def leaky(self, x: Tensor) -> Tensor:
        rounded = self.snap(x, self.grids.hidden)
        return self.snap(F.leaky_relu(rounded, SLOPE), self.grids.hidden)

    def best(self, scores: Tensor, count: int, indices: Tensor | None = None) -> tuple[Tensor, Tensor]:
        count = min(round(count * self.breadth), scores.shape[-1])
        kept = scores.detach().topk(count, -1, sorted=False).indices
        values = scores.gather(-1, kept)
        if indices is not None:
            kept = indices.gather(-1, kept)
        return kept, values

    def exponentials(self, logits: Tensor) -> Tensor:
        return torch.exp(logits - logits.amax(-1, keepdim=True).detach())

    def mix(self, weights: Tensor, kept: Tensor, values: Tensor, own: Tensor | None) -> Tensor:
        keys = values.shape[-2]
        columns = keys if own is None else keys + 1
        # a dense product with zeros: gathering the kept values would be larger, and its gradient slower
        spread = weights.new_zeros(*weights.shape[:-1], columns).scatter_(-1, kept, weights)
        mixed = spread[..., :keys] @ values
        if own is not None:
            mixed = mixed + spread[..., keys:] * own
        return mixed


class Exact(_OnGrids):
    """Decoding: tensors of whole units. `table` holds the EXPONENT_ENTRIES + 1 integers of the softmax.

    The data type is float64, or float32 where that holds every sum: both give the same numbers. Narrow grids use
    float32 on a CPU, where products are twice as fast; on a GPU it would gain nothing, and reduced precision (TF32)
    could be switched on by other code.
    """

    def __init__(self, table: Tensor, grids: Grids = WIDE) -> None:
        if table.shape != (EXPONENT_ENTRIES + 1,) or int(table[0]) != grids.exponent_one or int(table[-1]) != 0:
            raise ValueError("not an exponential table")
        self.grids = grids
        fits_float32 = grids.largest_sum <= 2**24
        self.dtype = torch.float32 if fits_float32 and table.device.type == "cpu" else torch.float64
        self.table = table.to(self.dtype)

    def snap(self, x: Tensor, grid: Grid) -> Tensor:
        return self._snapped(x * grid.units, grid)

    def snap_(self, x: Tensor, grid: Grid) -> Tensor:
        return self._snapped(x.mul_(grid.units), grid)

    def _snapped(self, units: Tensor, grid: Grid) -> Tensor:
        snapped = units.round_().clamp_(-grid.limit, grid.limit).mul_(2.0**-grid.fraction)
        return snapped.to(self.dtype)  # every grid has fewer than 24 bits

    def plus(self, x: Tensor, y: Tensor, grid: Grid) -> Tensor:
        limit = grid.limit * 2.0**-grid.fraction
        return y.add_(x).clamp_(-limit, limit)

    def normalize(self, x: Tensor) -> Tensor:
        # a tensor as divisor: x / scalar is inexact on GPUs
        count = torch.full((1,), float(x.shape[-1]), dtype=torch.float64, device=x.device)
        mean = self.snap(x.sum(-1, keepdim=True, dtype=torch.float64) / count, RESIDUAL)
        centered = (x - mean).double()  # squares have 42 bits
        variance = (centered * centered).sum(-1, keepdim=True) / count
        return self.snap_(centered.div_(torch.sqrt(variance + RESIDUAL.units**-2)), self.grids.normalized)

    def leaky(self, x: Tensor) -> Tensor:
        grid = self.grids.hidden
        units = (x * grid.units).round_().clamp_(-grid.limit, grid.limit)
        # n / 5 is never halfway between two whole numbers, so its rounding in float32 or float64 does not matter
        units = F.leaky_relu_(units, SLOPE)
        return units.round_().mul_(2.0**-grid.fraction)

    def best(self, scores: Tensor, count: int, indices: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if indices is None:
            indices = torch.arange(scores.shape[-1], device=scores.device)
        # score and position in one number: the order is total, so every machine keeps the same keys among equal scores
        count = min(count, scores.shape[-1])
        most, units_of_one = self.grids.most_keys, 2.0**self.grids.score_fraction
        if self.grids.largest_key <= 2**31:
            keys = scores.mul_(units_of_one).int().mul_(most).add_(indices.int())
            best = _largest(keys, count)
            units = torch.div(best, most, rounding_mode="floor")
            return (best - units * most).long(), units.to(self.dtype).mul_(1 / units_of_one)
        keys = torch.add(indices.to(scores.dtype), scores, alpha=units_of_one * most, out=scores)
        best = _largest(keys, count)
        units = torch.floor(best * (1 / most))
        return (best - units * most).long(), units * (1 / units_of_one)

    def exponentials(self, logits: Tensor) -> Tensor:
        distance = logits.amax(-1, keepdim=True) - logits
        index = torch.round(distance * EXPONENT_STEPS).clamp_(max=EXPONENT_ENTRIES)
        return self.table.take(index.long())

    def quotient(self, mixed: Tensor, total: Tensor) -> Tensor:
        return mixed.double() / total.double()

    def mix(self, weights: Tensor, kept: Tensor, values: Tensor, own: Tensor | None) -> Tensor:
        if own is not None:
            # every query's own value gets a row of its own, after those of the keys
            keys = values.shape[-2]
            queries = torch.arange(own.shape[-2], device=kept.device)
            values = torch.cat([values, own], -2)
            kept = torch.where(kept == keys, keys + queries[:, None], kept)
        size, width = values.shape[-2:]
        # one table for all heads and windows, each of which starts at a multiple of its size
        starts = torch.arange(0, values.shape[:-2].numel() * size, size, device=kept.device)
        rows = (kept.flatten(0, -3) + starts[:, None, None]).flatten(0, 1)
        table = values.reshape(-1, width)
        factors = weights.flatten(0, -2)
        mixed = F.embedding_bag(rows, table, per_sample_weights=factors, mode="sum")  # reads only the kept values
        return mixed.view(*weights.shape[:-1], width)


def _largest(keys: Tensor, count: int) -> Tensor:
    """The `count` largest along the last axis in any order; overwrites the keys."""
    if keys.device.type != "cpu":
        return keys.topk(count, -1, sorted=False).values
    first = keys.shape[-1] - count
    keys.numpy().partition(first, -1)  # twice as fast as topk, which also moves indices
    return keys[..., first:]


def exponential_table(grids: Grids = WIDE) -> Tensor:
    """The softmax table as int32: round(one exp(-i / 32)) for i in 0..511, then a zero. Computed at export only."""
    values = torch.exp(-torch.arange(EXPONENT_ENTRIES, dtype=torch.float64) / EXPONENT_STEPS)
    return torch.cat([torch.round(grids.exponent_one * values), torch.zeros(1, dtype=torch.float64)]).int()
