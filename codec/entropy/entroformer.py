"""The entropy network after Entroformer (Qian et al., ICLR 2022), for 4-channel latents, on fixed-point grids.

A hyper-decoder turns the hyper-latent into features at each position; a context transformer adds information from
previously decoded positions; a parameter net predicts mean and scale channel by channel. Positions
are coded in one of two orders: in two passes, first the checkerboard's anchors and then all others, or one by one in
raster order. The same modules run in two arithmetics (arithmetic.py): simulated for training, exact for coding.
"""

from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.entropy.arithmetic import Arithmetic, Exact, Simulated
from codec.entropy.attention import Block, KeyCache
from codec.entropy.grids import GRIDS, RESIDUAL, Grid, Grids, GridsName
from codec.entropy.windows import HYPER_WINDOW, WINDOW, cells

CHANNELS = 4
"""Channels of the latent (`last_channels` of Entroformer)."""
ALPHA_CODES = 256
"""Values of the alpha code: alpha = 2 ** ((code - 128) / 32)."""
KNOT_SPACING = 15
"""Alpha codes between two trained knots of a rate table."""
NEIGHBORS = ((-1, -1), (-1, 0), (-1, 1), (0, -1))
"""Positions, as (row, column) offsets, whose symbols are the input of a position in raster order."""

LARGEST = {
    "dim": 2**20,
    "hyper_channels": 2**20,
    "depth": 64,
    "heads": 2**20,
    "mlp_ratio": 64,
    "top_k": 2**20,
    "positions": 2**8,
    "halvings": 7,
}
"""Upper bounds on a network's sizes, so that absurd ones are refused early."""

Order = Literal["parallel", "serial"]


@dataclass(frozen=True)
class EntroformerSettings:
    """Sizes of the entropy network."""

    dim: int = 128
    depth: int = 2
    """Blocks of the context transformer."""
    heads: int = 4
    mlp_ratio: int = 2
    top_k: int = 32
    positions: int = 7
    hyper_channels: int = 16
    halvings: int = 2
    """Number of halvings from the latent's to the hyper-latent's resolution."""
    order: Order = "parallel"
    """'parallel' codes a tile in two passes, 'serial' position by position: fewer bits, far slower decoding."""
    channel_conditioning: bool = False
    """Whether a symbol's distribution depends on the position's channels before it. Slower, and hardly fewer bits."""
    dither: bool = False
    """Whether symbols are rounded with the offsets of `codec.entropy.dither`; the network sees symbols without them."""
    finest_attention: bool = True
    """Whether the hyper-decoder attends at the latent's own resolution too: up to half a per cent fewer bits, for
    a quarter more time."""
    grids: GridsName = "wide"
    """Precision of the exact network. 'narrow' fits float32: less than half the time for less than 0.1 % more bits."""

    def __post_init__(self) -> None:
        for name, largest in LARGEST.items():
            if not 1 <= getattr(self, name) <= largest:
                raise ValueError(f"{name} must be 1 to {largest}, not {getattr(self, name)}")
        if self.dim % self.heads:
            raise ValueError(f"heads must divide dim: {self.heads} and {self.dim}")
        head = self.dim // self.heads
        # two dot products of a query, one with a sum of two vectors and one with a difference
        is_narrow = self.grids == "narrow"
        if is_narrow and 4 * head * self.arithmetic.heads.limit**2 > self.arithmetic.masked_units:
            raise ValueError(f"heads of {head} channels are too wide for {self.grids} grids; use more heads")

    @property
    def arithmetic(self) -> Grids:
        """The grids by their name."""
        return GRIDS[self.grids]

    def block(self, window: int, *, shifted: bool) -> Block:
        """A transformer block of these sizes."""
        return Block(self.dim, self.heads, self.mlp_ratio, self.top_k, self.positions, window, shifted=shifted)


MINI = EntroformerSettings()
A4 = EntroformerSettings(dim=384, depth=6, heads=6, mlp_ratio=4)
"""The published sizes (scripts of the reference), hyper-latent as in this project."""


class RateTable(nn.Module):
    """A vector per alpha code, interpolated between trained knots; exported as a table."""

    def __init__(self, width: int, grid: Grid = RESIDUAL) -> None:
        super().__init__()
        self.grid = grid
        self.knots = nn.Parameter(torch.zeros(ALPHA_CODES // KNOT_SPACING + 1, width))

    def table(self) -> Tensor:
        """(256, width), on the grid."""
        knot = torch.arange(ALPHA_CODES, device=self.knots.device) / KNOT_SPACING
        left = knot.long().clamp(max=len(self.knots) - 2)  # code 255 is the last knot itself
        rows = torch.lerp(self.knots[left], self.knots[left + 1], (knot - left)[:, None])
        return Simulated().snap(rows, self.grid)

    def forward(self, codes: Tensor, math: Arithmetic) -> Tensor:
        """(B, 4) codes -> (B, width): the mean over the channels' rows, on the grid."""
        return math.snap(self.table()[codes].sum(1) * 0.25, self.grid)


def _relative_positions(settings: EntroformerSettings) -> nn.Parameter:
    """An untrained table of relative positions, (cells, dim / heads)."""
    table = torch.empty(cells(settings.positions), settings.dim // settings.heads)
    if not table.is_meta:  # on meta, torch would import a thousand modules for nothing
        table.normal_().mul_(0.02)
    return nn.Parameter(table)


class HyperDecoder(nn.Module):
    """Hyper-latent (B, Z, h, w) and rate rows -> features (B, N, dim) at 2 ** halvings times the resolution."""

    def __init__(self, settings: EntroformerSettings) -> None:
        super().__init__()
        dim = settings.dim
        self.relative = _relative_positions(settings)
        self.embed = nn.Linear(settings.hyper_channels, dim)
        self.rate = RateTable(dim)
        count = settings.halvings
        if settings.finest_attention:
            count += 1
        self.blocks = nn.ModuleList(settings.block(HYPER_WINDOW, shifted=bool(i % 2)) for i in range(count))
        self.grow = nn.ModuleList(nn.Linear(9 * dim, 4 * dim) for _ in range(settings.halvings))

    def forward(self, z: Tensor, codes: Tensor, math: Arithmetic) -> Tensor:
        """z is whole numbers; the result is on the residual grid, rows of the (h 2^s) x (w 2^s) raster."""
        height, width = z.shape[-2:]
        tokens = math.snap(z.flatten(2).transpose(1, 2), math.grids.hyper)
        x = math.snap_(self.embed(tokens) + self.rate(codes, math)[:, None], RESIDUAL)
        relative = math.snap(self.relative, math.grids.heads)
        for i, block in enumerate(self.blocks):
            x = block(x, relative, (height, width), math)
            if i < len(self.grow):
                around = _neighborhoods(math.snap_(x, math.grids.grown), height, width)
                x = math.snap_(self.grow[i](around), RESIDUAL)
                x = _shuffle(x, height, width)
                height *= 2
                width *= 2
        return x


class ContextNet(nn.Module):
    """Symbols (zero where unknown) -> features (B, N, dim) of each position, on the residual grid."""

    shares_alike = True
    """Whether equal tokens are computed once. The result is the same; intermediate values are not."""

    def __init__(self, settings: EntroformerSettings) -> None:
        super().__init__()
        dim = settings.dim
        known = len(NEIGHBORS) if settings.order == "serial" else 1
        self.relative = _relative_positions(settings)
        self.embed = nn.Linear(2 * CHANNELS * known, dim)
        self.rate = RateTable(dim)
        self.blocks = nn.ModuleList(settings.block(WINDOW, shifted=bool(i % 2)) for i in range(settings.depth))

    def forward(
        self,
        symbols: Tensor,
        inverse: Tensor,
        codes: Tensor,
        shape: tuple[int, int],
        math: Arithmetic,
        seen: Tensor | None = None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """symbols (B, N, 4) whole numbers; inverse (B, 1, 4) reciprocal alphas on the 2^-12 grid.

        With `seen` (N,) bool, in parallel order, those symbols are known; without, in serial order, each position
        knows the ones before it. With `wanted` (N,) bool the result has only those positions, and the last block skips
        the others.
        """
        relative = math.snap(self.relative, math.grids.heads)
        if seen is not None:
            x = self._embedded(symbols * seen[:, None], inverse, codes, math)
            *blocks, last = self._blocks()
            # unseen tokens enter the first block as zeros; on a GPU the check costs more than it saves
            alike = self.shares_alike and isinstance(math, Exact) and x.device.type == "cpu"
            for block in blocks:
                x = block(x, relative, shape, math, seen, alike=alike)
                alike = False  # after one block a token knows its position
            x = last(x, relative, shape, math, seen, wanted, alike=alike)
        else:
            x = self._embedded(_causal_neighbors(symbols, shape), inverse, codes, math)
            for block in self._blocks():
                x = block.in_raster_order(x, relative, shape, math)
        return x

    def caches(self, batch: int, shape: tuple[int, int]) -> list[KeyCache]:
        """Empty caches of a raster for `step`."""
        return [block.cache(batch, shape) for block in self._blocks()]

    def step(
        self,
        neighbors: Tensor,
        inverse: Tensor,
        codes: Tensor,
        position: tuple[int, int],
        caches: list[KeyCache],
        math: Arithmetic,
    ) -> Tensor:
        """The serial forward for one position, in raster order: neighbors (B, 1, 16) -> (B, 1, dim)."""
        relative = math.snap(self.relative, math.grids.heads)
        x = self._embedded(neighbors, inverse, codes, math)
        for block, cache in zip(self._blocks(), caches, strict=True):
            x = block.step(x, relative, position, cache, math)
        return x

    def _embedded(self, symbols: Tensor, inverse: Tensor, codes: Tensor, math: Arithmetic) -> Tensor:
        scaled = symbols * inverse.repeat(1, 1, symbols.shape[-1] // CHANNELS)
        inputs = math.snap(torch.cat([symbols, scaled], -1), math.grids.symbols)
        return math.snap_(self.embed(inputs) + self.rate(codes, math)[:, None], RESIDUAL)

    def _blocks(self) -> list[Block]:
        return [cast(Block, block) for block in self.blocks]


class ParameterNet(nn.Module):
    """Features -> (mean, scale) of each channel, in units of the latent before scaling by alpha, not yet on a grid.

    The first layer is linear in the features and in the position's known channels, so the features' part is computed
    once and each channel adds the contribution of its predecessors.
    """

    def __init__(self, settings: EntroformerSettings) -> None:
        super().__init__()
        self.features = 2 * settings.dim
        self.conditioned = settings.channel_conditioning
        known = 2 * CHANNELS if self.conditioned else 0
        self.inner = nn.Linear(self.features + known, self.features)
        self.outer = nn.Linear(self.features, 2 * CHANNELS)
        # training starts at mean 0 and scale 1, so that the first steps have a finite rate
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, hyper: Tensor, context: Tensor, symbols: Tensor, inverse: Tensor, math: Arithmetic) -> Tensor:
        """(B, n, dim) twice and symbols (B, n, 4) -> (B, n, 8): means, then scales, each given the channels before."""
        base = self.base(hyper, context, math)
        outputs = [self.channel(base, symbols, inverse, channel, math) for channel in range(CHANNELS)]
        return torch.stack(outputs, -1).flatten(-2)

    def base(self, hyper: Tensor, context: Tensor | None, math: Arithmetic) -> Tensor:
        """The features' part of the first layer, (B, n, 2 dim); without context as with zeros."""
        weights = self.inner.weight[:, : self.features].split(self.features // 2, 1)
        base = F.linear(math.normalize(hyper), weights[0], self.inner.bias)
        if context is None:
            return base
        return _plus_linear(base, math.snap(context, math.grids.normalized), weights[1])

    def channel(self, base: Tensor, symbols: Tensor, inverse: Tensor, channel: int, math: Arithmetic) -> Tensor:
        """(B, n, 2): mean and scale of a channel; uses only earlier channels of symbols (B, n, 4)."""
        if self.conditioned and channel:
            known = symbols[..., :channel]
            values = math.snap(torch.cat([known, known * inverse[..., :channel]], -1), math.grids.symbols)
            # the layer has columns for all channels, first their symbols, then those divided by alpha
            symbol_columns = torch.arange(channel) + self.features
            columns = torch.cat([symbol_columns, symbol_columns + CHANNELS])
            base = _plus_linear(base, values, self.inner.weight[:, columns])
        hidden = math.leaky(base)
        rows = [channel, CHANNELS + channel]
        return F.linear(hidden, self.outer.weight[rows], self.outer.bias[rows])


def _plus_linear(base: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """base + F.linear(x, weight), (B, n, ...) each, in one pass over memory."""
    return torch.baddbmm(base, x, weight.T.expand(len(x), -1, -1))


class HyperEncoder(nn.Module):
    """alpha y (B, 4, h, w) -> hyper-latent (B, Z, ceil(h / 2^s), ceil(w / 2^s)), float; used only by the encoder."""

    def __init__(self, settings: EntroformerSettings) -> None:
        super().__init__()
        dim = settings.dim
        self.halvings = settings.halvings
        self.relative = _relative_positions(settings)
        self.embed = nn.Linear(2 * CHANNELS, dim)
        self.rate = RateTable(dim)
        self.blocks = nn.ModuleList(
            settings.block(HYPER_WINDOW, shifted=bool(i % 2)) for i in range(settings.halvings + 1)
        )
        self.shrink = nn.ModuleList(nn.Conv2d(dim, dim, 3, 2, 1) for _ in range(settings.halvings))
        self.head = nn.Linear(dim, settings.hyper_channels)

    def forward(self, scaled: Tensor, inverse: Tensor, codes: Tensor, math: Arithmetic) -> Tensor:
        multiple = 2**self.halvings
        bottom = -scaled.shape[-2] % multiple
        right = -scaled.shape[-1] % multiple
        x = F.pad(scaled, (0, right, 0, bottom), mode="replicate")
        height, width = x.shape[-2:]
        tokens = x.flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens, tokens * inverse], -1)
        x = self.embed(tokens) + self.rate(codes, math)[:, None]
        for i, block in enumerate(self.blocks):
            x = block(x, self.relative, (height, width), math)
            if i < self.halvings:
                grid = self.shrink[i](x.transpose(1, 2).unflatten(2, (height, width)))
                height, width = grid.shape[-2:]
                x = grid.flatten(2).transpose(1, 2)
        return cast(Tensor, self.head(math.normalize(x)).transpose(1, 2).unflatten(2, (height, width)))


class Entroformer(nn.Module):
    """The entropy model. `prior` gives mean and scale of the hyper-latent's channels by alpha code."""

    def __init__(self, settings: EntroformerSettings) -> None:
        super().__init__()
        self.settings = settings
        self.hyper_encoder = HyperEncoder(settings)
        self.prior = RateTable(2 * settings.hyper_channels)
        self.hyper_decoder = HyperDecoder(settings)
        self.context = ContextNet(settings)
        self.parameter_net = ParameterNet(settings)

    def with_grids(self, grids: GridsName) -> "Entroformer":
        """A frozen copy of these weights for other grids; exporting it rounds them."""
        other = Entroformer(replace(self.settings, grids=grids))
        other.load_state_dict(self.state_dict())
        return other.requires_grad_(False)

    def decoder_modules(self) -> dict[str, nn.Module]:
        """The parts that encoder and decoder both run exactly."""
        return {
            "prior": self.prior,
            "hyper_decoder": self.hyper_decoder,
            "context": self.context,
            "parameter_net": self.parameter_net,
        }


def _causal_neighbors(symbols: Tensor, shape: tuple[int, int]) -> Tensor:
    """(B, N, 4) raster -> (B, N, 16): the symbols of each position's NEIGHBORS, zeros outside."""
    height, width = shape
    padded = F.pad(symbols.unflatten(1, shape), (0, 0, 1, 1, 1, 0))
    shifted = [padded[:, 1 + v : 1 + v + height, 1 + h : 1 + h + width] for v, h in NEIGHBORS]
    return torch.cat(shifted, -1).flatten(1, 2)


def causal_neighbors(symbols: Tensor, shape: tuple[int, int], position: tuple[int, int]) -> Tensor:
    """One position's row of the above, (B, 1, 16)."""
    width = shape[1]
    near = []
    for v, h in NEIGHBORS:
        row = position[0] + v
        column = position[1] + h
        if row >= 0 and 0 <= column < width:
            near.append(symbols[:, row * width + column])
        else:
            near.append(torch.zeros_like(symbols[:, 0]))
    return torch.cat(near, -1)[:, None]


def _neighborhoods(x: Tensor, height: int, width: int) -> Tensor:
    """(B, N, d) raster -> (B, N, 9 d): each token beside its eight neighbors in raster order, zeros outside."""
    padded = F.pad(x.unflatten(1, (height, width)), (0, 0, 1, 1, 1, 1))
    shifted = [padded[:, v : v + height, h : h + width] for v in range(3) for h in range(3)]
    return torch.cat(shifted, -1).flatten(1, 2)


def _shuffle(x: Tensor, height: int, width: int) -> Tensor:
    """(B, N, 4 d) -> (B, 4 N, d): each token becomes a 2 x 2 square in raster order."""
    x = x.unflatten(1, (height, width)).unflatten(3, (2, 2, -1))
    return x.transpose(2, 3).flatten(1, 4)
