"""The transformer block of the entropy network: top-k attention with relative positions, then a perceptron.

Attention comes in two kinds. Inside windows, all keys are seen, or only those that are already decoded and the query's
own. In raster order, a position sees the 16 rows above it and the 16 positions before it, 16 columns to each side; the
whole raster at once (encoder, training) and position by position with cached keys (decoder) give the same numbers.
"""

from dataclasses import dataclass
from math import log2

import torch
from torch import Tensor, nn

from codec.entropy.arithmetic import Arithmetic
from codec.entropy.grids import RESIDUAL
from codec.entropy.windows import REACH, near_tokens, raster_keys, raster_rows, window_groups

WINDOWS_AT_ONCE = 4
"""Windows without hidden keys that are processed together; bounds memory and keeps scores in cache."""


@dataclass
class KeyCache:
    """Keys and values of one block over a raster, (B, heads, h, w, dim / heads) each, filled in raster order."""

    keys: Tensor
    values: Tensor


class Block(nn.Module):
    """Pre-normalized transformer block. Tokens are (B, N, dim) rows of a raster, on the residual grid."""

    def __init__(
        self, dim: int, heads: int, mlp_ratio: int, top_k: int, positions: int, window: int, *, shifted: bool
    ) -> None:
        super().__init__()
        self.heads = heads
        self.top_k = top_k
        self.positions = positions
        self.window = window
        self.shifted = shifted
        # a power of two near the usual 1 / sqrt(dim / heads), so that scaled scores stay exact
        self.scale = 2.0 ** -round(log2(dim / heads) / 2 - 0.25)
        self.project = nn.Linear(dim, 3 * dim, bias=False)
        self.merge = nn.Linear(dim, dim, bias=False)
        self.expand = nn.Linear(dim, mlp_ratio * dim)
        self.contract = nn.Linear(mlp_ratio * dim, dim)

    def forward(
        self,
        x: Tensor,
        relative: Tensor,
        shape: tuple[int, int],
        math: Arithmetic,
        seen: Tensor | None = None,
        wanted: Tensor | None = None,
        *,
        alike: bool = False,
    ) -> Tensor:
        """Attention inside windows. relative is (cells, dim / heads) on the grid `heads`.

        seen (N,) bool, common to the batch: the tokens that others may attend to; all without it.
        wanted (N,) bool, with `seen` only: the tokens to return, (B, wanted, dim), when the others serve only as keys.
        alike, with `seen` only: all unseen tokens are equal, so their shared work is done once.
        """
        if seen is not None:
            return self._hidden_aware(x, relative, shape, math, seen, wanted, alike=alike)
        projected = self._projected(x, math)
        mixed = torch.empty_like(x)
        for group in window_groups(*shape, self.window, self.shifted, x.device):
            near, inside = near_tokens(group.height, group.width, self.positions, x.device)
            for tokens in group.tokens.split(WINDOWS_AT_ONCE):
                query, key, value = self._heads(projected[:, tokens])
                mixed[:, tokens] = _merged(self._in_window(query, key, value, relative, near, inside, math))
        return self._finished(x, mixed, math)

    def _hidden_aware(
        self,
        x: Tensor,
        relative: Tensor,
        shape: tuple[int, int],
        math: Arithmetic,
        seen: Tensor,
        wanted: Tensor | None,
        *,
        alike: bool,
    ) -> Tensor:
        """The same where some keys are hidden."""
        ranks = None  # row of `projected` of each token, where that is not the token's own index
        if alike:
            # rows of the seen tokens, then one row that represents all unseen tokens
            order = torch.cat([seen.nonzero()[:, 0], (~seen).nonzero()[:1, 0]])
            ranks = torch.where(seen, seen.cumsum(0) - 1, len(order) - 1)
            projected = self._projected(x[:, order], math)
        else:
            projected = self._projected(x, math)
        mixed = torch.zeros_like(x)
        for group in window_groups(*shape, self.window, self.shifted, x.device):
            near, inside = near_tokens(group.height, group.width, self.positions, x.device)
            for tokens in group.tokens:
                visible = seen[tokens]
                rows = tokens if ranks is None else ranks[tokens]
                query, key, value = self._heads(projected[:, None, rows])
                asking = torch.ones_like(visible) if wanted is None else wanted[tokens]
                # without a visible key the shared row of scores is empty, and the general way handles it
                if alike and bool(visible.any()):
                    hidden = asking & ~visible
                    if bool(hidden.any()):
                        window = query, key, value, relative, near[hidden], inside[hidden], visible
                        mixed[:, tokens[hidden]] = _merged(self._alike(*window, math))[:, 0]
                    asking = asking & visible
                asked = asking.nonzero()[:, 0]
                if len(asked):
                    window = query, key, value, relative, near[asked], inside[asked], visible
                    mixed[:, tokens[asked]] = _merged(self._among_seen(*window, asked, math))[:, 0]
        if wanted is not None:
            x = x[:, wanted]
            mixed = mixed[:, wanted]
        return self._finished(x, mixed, math)

    def in_raster_order(self, x: Tensor, relative: Tensor, shape: tuple[int, int], math: Arithmetic) -> Tensor:
        """Causal attention over a whole raster at once."""
        height, width = shape
        query, key, value = self._heads(self._projected(x, math).unflatten(1, shape))
        rows = []
        for row in range(height):
            top = max(0, row - REACH)
            table_rows, hidden = raster_rows(row - top, width, self.positions, x.device)
            keys = key[:, :, top : row + 1].flatten(2, 3)
            values = value[:, :, top : row + 1].flatten(2, 3)
            scores = self._scores(query[:, :, row], keys, relative, table_rows).masked_fill(hidden, math.grids.masked)
            rows.append(self._attended(scores, values, math).transpose(1, 2).flatten(2))
        return self._finished(x, torch.cat(rows, 1), math)

    def cache(self, batch: int, shape: tuple[int, int]) -> KeyCache:
        """An empty cache for a raster."""
        weight = self.project.weight
        size = (batch, self.heads, *shape, weight.shape[1] // self.heads)
        return KeyCache(weight.new_zeros(size), weight.new_zeros(size))

    def step(self, x: Tensor, relative: Tensor, position: tuple[int, int], cache: KeyCache, math: Arithmetic) -> Tensor:
        """in_raster_order for one position (B, 1, dim), whose key and value join the cache."""
        row, column = position
        query, key, value = self._heads(self._projected(x, math))
        cache.keys[:, :, row, column] = key[:, :, 0]
        cache.values[:, :, row, column] = value[:, :, 0]
        top = max(0, row - REACH)
        left = max(0, column - REACH)
        right = min(cache.keys.shape[3], column + REACH + 1)

        def before(part: Tensor) -> Tensor:
            """The rows above within reach, then this row up to the position itself: the order of raster_keys."""
            above = part[:, :, top:row, left:right].flatten(2, 3)
            return torch.cat([above, part[:, :, row, left : column + 1]], 2)

        keys = before(cache.keys)
        values = before(cache.values)
        table_rows = raster_keys(row - top, column - left, right - column - 1, self.positions, x.device)
        attended = self._attended(self._scores(query, keys, relative, table_rows), values, math)
        return self._finished(x, _merged(attended), math)

    def _projected(self, x: Tensor, math: Arithmetic) -> Tensor:
        return math.snap_(self.project(math.normalize(x)), math.grids.heads)

    def _heads(self, projected: Tensor) -> tuple[Tensor, ...]:
        """(B, ..., n, 3 dim) -> queries, keys and values, (B, heads, ..., n, dim / heads) each."""
        split = projected.unflatten(-1, (3, self.heads, -1)).movedim((-3, -2), (0, 2))
        return split[0], split[1], split[2]

    def _scores(self, query: Tensor, key: Tensor, relative: Tensor, table_rows: Tensor) -> Tensor:
        near = query @ relative.T
        table_rows = table_rows.expand(*near.shape[:-1], table_rows.shape[-1])
        return query @ key.transpose(-1, -2) + near.gather(-1, table_rows)

    def _in_window(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        relative: Tensor,
        near: Tensor,
        inside: Tensor,
        math: Arithmetic,
    ) -> Tensor:
        """(B, heads, W, n, dim / heads) thrice -> the same. Treats all keys as far, then corrects the near ones."""
        far = relative[-1]
        # few keys are near, so one product covers all and the small differences are added where they belong
        scores = query @ (key + far).transpose(-1, -2)
        nearness = query @ (relative[:-1] - far).T
        scores.scatter_add_(-1, near.expand_as(nearness), nearness * inside)
        return self._attended(scores, value, math)

    def _among_seen(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        relative: Tensor,
        near: Tensor,
        inside: Tensor,
        visible: Tensor,
        asking: Tensor,
        math: Arithmetic,
    ) -> Tensor:
        """The same for the queries with the indices `asking`, whose rows near and inside are; keys are those `visible`
        (n,) bool and the query's own."""
        query = query[..., asking, :]
        key_own = key[..., asking, :]
        value_own = value[..., asking, :]
        key = key[..., visible, :]
        value = value[..., visible, :]
        far = relative[-1]
        own_cell = relative[len(relative) // 2 - 1]  # the middle of the diamond; the last row is "far"
        seen = visible[asking]
        values_own = None
        if bool(seen.all()):  # their own keys are visible
            scores = query @ (key + far).transpose(-1, -2)
        else:
            own = (query * (key_own + own_cell)).sum(-1, keepdim=True)
            own = own.masked_fill(
                seen[:, None], math.grids.masked
            )  # a visible query has its own key among the others already
            # a zero key makes room for the column of own scores, without copying the whole matrix afterwards
            no_key = key.new_zeros((*key.shape[:-2], 1, key.shape[-1]))
            scores = query @ torch.cat([key + far, no_key], -2).transpose(-1, -2)
            scores[..., -1:] = own
            values_own = value_own
        if key.shape[-2]:
            ranks, beside, cells = _beside(near, inside, visible)
            nearness = query @ (relative[:-1][cells] - far).T * beside
            scores.scatter_add_(-1, ranks.expand_as(nearness), nearness)
        return self._attended(scores, value, math, values_own)

    def _alike(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        relative: Tensor,
        near: Tensor,
        inside: Tensor,
        visible: Tensor,
        math: Arithmetic,
    ) -> Tensor:
        """Computes _among_seen for equal, unseen queries.

        They share one row of scores except for nearby keys. So the best keys of that row, plus as many as are near a
        query, contain the best far keys of every query.
        """
        one = int((~visible).nonzero()[0, 0])
        query = query[..., one : one + 1, :]
        key_own = key[..., one : one + 1, :]
        value_own = value[..., one : one + 1, :]
        key = key[..., visible, :]
        value = value[..., visible, :]
        keys = key.shape[-2]
        far = relative[-1]
        own_cell = relative[len(relative) // 2 - 1]  # the middle of the diamond; the last row is "far"

        # the shared row of scores, every key taken as far; of near keys the score differs by query
        ranks, beside, cells = _beside(near, inside, visible)
        common = query @ (key + far).transpose(-1, -2)
        changed = common[..., 0, ranks] + query @ (relative[:-1][cells] - far).T
        own = (query * (key_own + own_cell)).sum(-1, keepdim=True)

        # where a query's near key is among the best of the shared row, its common score must not count as well
        best, scores = math.best(common, self.top_k + len(cells))
        is_near = torch.zeros(len(near), keys + 1, dtype=torch.bool, device=near.device)
        is_near.scatter_(1, ranks.where(beside, keys), True)  # column `keys` collects neighbors that do not exist
        taken = is_near[:, best[..., 0, :]].movedim(0, -2)

        # candidates of each query: the shared row's best, its near keys, its own key
        size = (*common.shape[:-2], len(near))
        far_scores = scores.masked_fill(taken, math.grids.masked)
        near_scores = changed.masked_fill(~beside, math.grids.masked)
        candidates = torch.cat([far_scores, near_scores, own.expand(*size, 1)], -1)
        own_index = ranks.new_full((1,), keys)
        indices = torch.cat([best.expand(*size, -1), ranks.expand(*size, -1), own_index.expand(*size, 1)], -1)
        values = torch.cat([value, value_own], -2)
        return math.attended(candidates, values, None, min(self.top_k, keys + 1), self.scale, indices)

    def _attended(self, scores: Tensor, value: Tensor, math: Arithmetic, own: Tensor | None = None) -> Tensor:
        """Averages the values with the softmax of the top_k best scores. Overwrites the scores."""
        return math.attended(scores, value, own, self.top_k, self.scale)

    def _finished(self, x: Tensor, mixed: Tensor, math: Arithmetic) -> Tensor:
        x = math.plus(x, math.snap_(self.merge(mixed), RESIDUAL), RESIDUAL)
        hidden = math.leaky(self.expand(math.normalize(x)))
        return math.plus(x, math.snap_(self.contract(hidden), RESIDUAL), RESIDUAL)


def _merged(mixed: Tensor) -> Tensor:
    """(B, heads, ..., n, dim / heads) -> (B, ..., n, dim)."""
    return mixed.movedim(1, -2).flatten(-2)


def _beside(near: Tensor, inside: Tensor, visible: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Visible keys near queries: their ranks among the visible (q, c), whether they exist, and the c cells."""
    beside = inside & visible[near]
    cells = beside.any(0).nonzero()[:, 0]  # on a checkerboard half of the cells never have a visible key
    ranks = (visible.cumsum(0) - 1).clamp(min=0)
    return ranks[near[:, cells]], beside[:, cells], cells
