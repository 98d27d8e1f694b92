"""Geometry of attention: which tokens of a grid form a window, and the relative place of its queries and keys."""

import itertools
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

WINDOW = 32
"""Side of an attention window in tokens."""
SHIFT = 16
"""Offset of the windows in odd blocks."""


@dataclass(frozen=True)
class WindowGroup:
    """Windows of equal shape. tokens: (windows, n) raster indices into the grid."""

    tokens: Tensor
    height: int
    width: int


@lru_cache(maxsize=256)
def window_groups(height: int, width: int, shifted: bool) -> tuple[WindowGroup, ...]:
    """All windows of a grid, grouped by shape. They start at (0, 0), or half a window earlier when shifted.

    Border windows are cut, never padded.
    """
    raster = torch.arange(height * width).view(height, width)
    groups: dict[tuple[int, int], list[Tensor]] = {}
    for top, bottom in _cuts(height, shifted):
        for left, right in _cuts(width, shifted):
            groups.setdefault((bottom - top, right - left), []).append(raster[top:bottom, left:right].flatten())
    return tuple(WindowGroup(torch.stack(tokens), *shape) for shape, tokens in groups.items())


def _cuts(length: int, shifted: bool) -> list[tuple[int, int]]:
    edges = sorted({0, length, *range(WINDOW - SHIFT if shifted else WINDOW, length, WINDOW)})
    return list(itertools.pairwise(edges))


@lru_cache(maxsize=256)
def anchors(height: int, width: int) -> Tensor:
    """Raster indices of the first coding pass: tokens whose row + column is odd."""
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None]
    return ((rows + columns) % 2 == 1).flatten().nonzero()[:, 0]


@lru_cache(maxsize=256)
def others(height: int, width: int) -> Tensor:
    """Raster indices of the second coding pass: tokens whose row + column is even."""
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None]
    return ((rows + columns) % 2 == 0).flatten().nonzero()[:, 0]


def cells(positions: int) -> int:
    """Rows of a relative-position table: cells of the diamond |dv| + |dh| <= positions // 2, and one for all beyond."""
    radius = positions // 2
    return 2 * radius * (radius + 1) + 2


@lru_cache(maxsize=256)
def relative_cells(height: int, width: int, positions: int) -> Tensor:
    """(n, n) table row for each (query, key) pair of a height x width window.

    Diamond cells are numbered in raster order of (key row - query row, key column - query column); the last is "far".
    """
    radius, far = positions // 2, cells(positions) - 1
    lookup = torch.full((2 * radius + 1, 2 * radius + 1), far)
    side = range(-radius, radius + 1)
    inside = [(down, right) for down in side for right in side if abs(down) + abs(right) <= radius]
    for cell, (down, right) in enumerate(inside):
        lookup[down + radius, right + radius] = cell
    rows, columns = torch.arange(height).repeat_interleave(width), torch.arange(width).repeat(height)
    v, h = rows[None] - rows[:, None], columns[None] - columns[:, None]
    near = (v.abs() + h.abs()) <= radius
    return torch.where(near, lookup[v.clamp(-radius, radius) + radius, h.clamp(-radius, radius) + radius], far)
