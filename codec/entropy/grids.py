"""Fixed-point grids, and the arithmetics in which the entropy network runs.

`Simulated` is the float arithmetic of training: values are rounded to the grids, gradients pass straight through.
`Plain` has no grids, for computations of the encoder alone. `Exact` carries the same numbers as multiples of a
power of two in float64. Each product and partial sum is such a multiple below 2**53 units, so any order of summation
gives the same value on any machine; where a result is not on a grid (division, square root) it is one correctly rounded
operation followed by rounding to a grid. Only + - * / sqrt, round, floor, comparison, gathering and table look-ups by
integers occur.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

EXPONENT_STEPS = 32
"""Table entries per unit of attention logit."""
EXPONENT_ENTRIES = 512
"""Logits more than EXPONENT_ENTRIES / EXPONENT_STEPS below the best have zero weight."""
EXPONENT_ONE = 2**20
"""Table value of a logit difference of zero."""
POSITION_UNITS = 2**13
"""Upper bound on keys per attention window; the factor reserved for positions in sort keys."""
MASKED = -(2.0**20)
"""Score of a hidden key: below any real score, and exact as a sort key."""
SLOPE = 0.2
"""Negative slope of the leaky rectifier."""


@dataclass(frozen=True)
class Grid:
    """Signed fixed-point numbers with a total and a fractional number of bits; the limits are symmetric."""

    bits: int
    fraction: int

    @property
    def units(self) -> float:
        """Units in 1.0."""
        return float(2**self.fraction)

    @property
    def limit(self) -> int:
        """Largest magnitude, in units."""
        return int(2 ** (self.bits - 1) - 1)


ACTIVATION = Grid(16, 9)
RESIDUAL = Grid(20, 9)
OUTPUT = Grid(20, 12)
SCORE_FRACTION = 2 * ACTIVATION.fraction


class Arithmetic(Protocol):
    """The network's operations besides linear maps. Tensors keep their shape unless stated otherwise."""

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
        """Layer normalization over the last axis, without gain, on the activation grid."""
        ...

    def leaky(self, x: Tensor) -> Tensor:
        """Leaky rectifier of x rounded to the activation grid, on the same grid."""
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
        weights = self.exponentials(logits * scale) * (logits > MASKED / 2)
        return self.snap_(self.mix(weights, kept, values, own) / weights.sum(-1, keepdim=True), ACTIVATION)


class Plain:
    """The encoder's own part, the hyper-encoder: no grids, and no key selection. Differentiable."""

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
    """Training: differentiable, in the tensors' float type. `breadth` scales the number of kept keys."""

    def __init__(self, breadth: float = 1.0) -> None:
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
        return self.snap(F.layer_norm(x, x.shape[-1:], eps=RESIDUAL.units**-2), ACTIVATION)

    def leaky(self, x: Tensor) -> Tensor:
        return self.snap(F.leaky_relu(self.snap(x, ACTIVATION), SLOPE), ACTIVATION)

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
    """Decoding: float64 tensors of whole units. `table` holds the EXPONENT_ENTRIES + 1 integers of the softmax."""

    def __init__(self, table: Tensor) -> None:
        if table.shape != (EXPONENT_ENTRIES + 1,) or int(table[0]) != EXPONENT_ONE or int(table[-1]) != 0:
            raise ValueError("not an exponential table")
        self.table = table.double()

    def snap(self, x: Tensor, grid: Grid) -> Tensor:
        return self._snapped(x * grid.units, grid)

    def snap_(self, x: Tensor, grid: Grid) -> Tensor:
        return self._snapped(x.mul_(grid.units), grid)

    def _snapped(self, units: Tensor, grid: Grid) -> Tensor:
        return units.round_().clamp_(-grid.limit, grid.limit).mul_(2.0**-grid.fraction)

    def plus(self, x: Tensor, y: Tensor, grid: Grid) -> Tensor:
        limit = grid.limit * 2.0**-grid.fraction
        return y.add_(x).clamp_(-limit, limit)

    def normalize(self, x: Tensor) -> Tensor:
        count = torch.full((1,), float(x.shape[-1]), dtype=x.dtype, device=x.device)  # x / scalar is inexact on GPUs
        mean = self.snap(x.sum(-1, keepdim=True) / count, RESIDUAL)
        centered = x - mean
        variance = (centered * centered).sum(-1, keepdim=True) / count
        return self.snap_(centered.div_(torch.sqrt(variance + RESIDUAL.units**-2)), ACTIVATION)

    def leaky(self, x: Tensor) -> Tensor:
        units = (x * ACTIVATION.units).round_().clamp_(-ACTIVATION.limit, ACTIVATION.limit)
        units = F.leaky_relu_(units, SLOPE)  # one correctly rounded product, then rounded to the grid below
        return units.round_().mul_(2.0**-ACTIVATION.fraction)

    def best(self, scores: Tensor, count: int, indices: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if indices is None:
            indices = torch.arange(scores.shape[-1], device=scores.device)
        # score and position in one number: the order is total, so every machine keeps the same keys among equal scores
        positions = indices.to(scores.dtype)
        keys = torch.add(positions, scores, alpha=2**SCORE_FRACTION * POSITION_UNITS, out=scores)
        best = _largest(keys, min(count, scores.shape[-1]))
        units = torch.floor(best * (1 / POSITION_UNITS))
        return (best - units * POSITION_UNITS).long(), units * 2.0**-SCORE_FRACTION

    def exponentials(self, logits: Tensor) -> Tensor:
        distance = logits.amax(-1, keepdim=True) - logits
        index = torch.round(distance * EXPONENT_STEPS).clamp_(max=EXPONENT_ENTRIES)
        return self.table.take(index.long())

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


def exponential_table() -> Tensor:
    """The softmax table as int32: round(2**20 exp(-i / 32)) for i in 0..511, then a zero. Computed at export only."""
    values = torch.exp(-torch.arange(EXPONENT_ENTRIES, dtype=torch.float64) / EXPONENT_STEPS)
    return torch.cat([torch.round(EXPONENT_ONE * values), torch.zeros(1, dtype=torch.float64)]).int()
