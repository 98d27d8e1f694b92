"""Geometry of attention: the tokens of each window, and the relative positions of queries and keys.

Results that depend on shapes alone are cached per device.
"""

import itertools
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

WINDOW = 32
"""Side of the context transformer's attention windows in tokens."""
HYPER_WINDOW = 16
"""Side of the attention windows of the hyper-encoder and the hyper-decoder in tokens."""
CPU = torch.device("cpu")
REACH = 16
"""Rows above, and columns to each side, that a position sees in raster order."""


@dataclass(frozen=True)
class WindowGroup:
    """Windows of equal shape. tokens: (windows, n) raster indices into the grid."""

    tokens: Tensor
    height: int
    width: int


@lru_cache(maxsize=256)
def window_groups(
    height: int, width: int, window: int, shifted: bool, device: torch.device = CPU
) -> tuple[WindowGroup, ...]:
    """All windows of a grid, grouped by shape. They start at (0, 0), or half a window earlier when shifted.

    Border windows are clipped, not padded.
    """
    raster = torch.arange(height * width, device=device).view(height, width)
    groups: dict[tuple[int, int], list[Tensor]] = {}
    for top, bottom in _cuts(height, window, shifted):
        for left, right in _cuts(width, window, shifted):
            shape = (bottom - top, right - left)
            groups.setdefault(shape, []).append(raster[top:bottom, left:right].flatten())
    # at most nine shapes: inner windows, and those clipped by each border and corner
    return tuple(WindowGroup(torch.stack(tokens), *shape) for shape, tokens in groups.items())


def _cuts(length: int, window: int, shifted: bool) -> list[tuple[int, int]]:
    """(start, stop) of the windows along one axis."""
    first = window // 2 if shifted else window
    edges = [0, *range(first, length, window), length]
    return list(itertools.pairwise(edges))


@lru_cache(maxsize=256)
def anchor_mask(height: int, width: int, device: torch.device = CPU) -> Tensor:
    """(N,) bool: the tokens of the first coding pass, whose row + column is odd."""
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None]
    return ((rows + columns) % 2 == 1).flatten().to(device)


def cells(positions: int) -> int:
    """Rows of a relative-position table: the diamond |dv| + |dh| <= positions // 2, and one for everything beyond."""
    radius = positions // 2
    return 2 * radius * (radius + 1) + 2


@lru_cache(maxsize=256)
def near_tokens(height: int, width: int, positions: int, device: torch.device = CPU) -> tuple[Tensor, Tensor]:
    """For each token of a height x width window the tokens in the cells of the diamond around it, in the cells' order.

    Indices (n, cells - 1) into the window, and whether the token exists; if not, the index is the token's own.
    """
    down, right = torch.tensor(_diamond(positions // 2)).T
    rows = torch.arange(height).repeat_interleave(width)[:, None] + down
    columns = torch.arange(width).repeat(height)[:, None] + right
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    # a missing neighbor needs some valid index; the caller multiplies what it reads there by `inside`
    own = torch.arange(height * width)[:, None]
    return torch.where(inside, rows * width + columns, own).to(device), inside.to(device)


def _diamond(radius: int) -> list[tuple[int, int]]:
    """Offsets (down, right) with |down| + |right| <= radius, in raster order: the order of the table's rows."""
    offsets = []
    for down in range(-radius, radius + 1):
        reach = radius - abs(down)
        for right in range(-reach, reach + 1):
            offsets.append((down, right))
    return offsets


def cells_of(down: Tensor, right: Tensor, positions: int) -> Tensor:
    """Table rows of offsets (key row - query row, key column - query column), of any shape.

    Diamond cells are numbered in raster order of the offsets; the last is "far".
    """
    radius = positions // 2
    far = cells(positions) - 1
    lookup = torch.full((2 * radius + 1, 2 * radius + 1), far)
    for cell, (v, h) in enumerate(_diamond(radius)):
        lookup[v + radius, h + radius] = cell
    near = (down.abs() + right.abs()) <= radius
    # clamped so that offsets outside the square are valid indices; `where` discards what they find
    rows = down.clamp(-radius, radius) + radius
    columns = right.clamp(-radius, radius) + radius
    return torch.where(near, lookup[rows, columns], far)


@lru_cache(maxsize=64)
def raster_rows(above: int, width: int, positions: int, device: torch.device = CPU) -> tuple[Tensor, Tensor]:
    """Attention in raster order from a row to the `above` rows over it and itself, all keys in raster order.

    The table row (width, (above + 1) width) of each pair, and whether the key is hidden: later than the query, or more
    than REACH columns away.
    """
    query = torch.arange(width)[:, None]
    row = torch.arange(above + 1).repeat_interleave(width)
    column = torch.arange(width).repeat(above + 1)
    too_far = (column - query).abs() > REACH
    later = (row == above) & (column > query)
    table_rows = cells_of((row - above).expand(width, -1), column - query, positions)
    return table_rows.to(device), (too_far | later).to(device)


@lru_cache(maxsize=1024)
def raster_keys(above: int, left: int, right: int, positions: int, device: torch.device = CPU) -> Tensor:
    """Table rows (keys,) of the keys of one position in raster order: `above` rows from `left` columns before it to
    `right` after, then those before it in its own row, then itself."""
    beside = torch.arange(-left, right + 1)
    before = torch.arange(-left, 1)
    down = torch.cat([torch.arange(-above, 0).repeat_interleave(len(beside)), torch.zeros_like(before)])
    across = torch.cat([beside.repeat(above), before])
    return cells_of(down, across, positions).to(device)
