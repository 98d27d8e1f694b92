"""The entropy network after Entroformer (Qian et al., ICLR 2022), for 4-channel latents, on fixed-point grids.

A hyper-decoder turns the hyper-latent into features at each position; a context transformer adds what the positions
decoded in the first pass (the checkerboard's anchors) say about the others; a parameter net gives mean and scale. The
same modules run in two arithmetics (grids.py): simulated for training, exact for coding.
"""

from dataclasses import dataclass
from math import log2
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.entropy.grids import ACTIVATION, RESIDUAL, Arithmetic, Grid, Simulated
from codec.entropy.windows import WindowGroup, anchors, cells, relative_cells, window_groups

CHANNELS = 4
"""Channels of the latent (`last_channels` of Entroformer)."""
ALPHA_CODES = 256
"""Values of the alpha code: alpha = 2 ** ((code - 128) / 32)."""
WINDOWS_AT_ONCE = 2
"""Windows attended to together: bounds memory, and keeps the scores near the processor."""
KNOT_SPACING = 15
"""Alpha codes between two trained knots of a rate table."""
MASKED = -(2.0**20)
"""Score of a key that must not be seen; below any real score, and still exact as a sort key."""
OUTPUTS = 2 * CHANNELS


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
    """Times that the hyper-latent halves the latent's resolution."""


MINI = EntroformerSettings()
A4 = EntroformerSettings(dim=384, depth=6, heads=6, mlp_ratio=4)
"""The published sizes (scripts of the reference), hyper-latent as in this project."""


class RateTable(nn.Module):
    """A vector for each alpha code, interpolated between trained knots; exported as the table itself."""

    def __init__(self, width: int, grid: Grid = RESIDUAL) -> None:
        super().__init__()
        self.grid = grid
        self.knots = nn.Parameter(torch.zeros(ALPHA_CODES // KNOT_SPACING + 1, width))

    def table(self) -> Tensor:
        """(256, width), on the grid."""
        place = torch.arange(ALPHA_CODES, device=self.knots.device) / KNOT_SPACING
        left = place.long().clamp(max=len(self.knots) - 2)
        rows = torch.lerp(self.knots[left], self.knots[left + 1], (place - left)[:, None])
        return Simulated().snap(rows, self.grid)

    def forward(self, codes: Tensor, math: Arithmetic) -> Tensor:
        """(B, 4) codes -> (B, width): the mean over the channels' rows, on the grid."""
        return math.snap(self.table()[codes].sum(1) * 0.25, self.grid)


class Block(nn.Module):
    """Pre-normalised transformer block: top-k attention inside windows, then a two-layer perceptron."""

    def __init__(self, settings: EntroformerSettings, *, shifted: bool, anchored: bool = False) -> None:
        super().__init__()
        dim = settings.dim
        self.heads, self.top_k, self.positions = settings.heads, settings.top_k, settings.positions
        self.shifted, self.anchored = shifted, anchored
        self.scale = 2.0 ** -round(log2(dim / settings.heads) / 2 - 0.25)  # a power of two near the usual one
        self.project = nn.Linear(dim, 3 * dim, bias=False)
        self.merge = nn.Linear(dim, dim, bias=False)
        self.expand = nn.Linear(dim, settings.mlp_ratio * dim)
        self.contract = nn.Linear(settings.mlp_ratio * dim, dim)

    def forward(self, x: Tensor, relative: Tensor, shape: tuple[int, int], math: Arithmetic) -> Tensor:
        """x (B, N, dim) on the residual grid, relative (cells, dim / heads) on the activation grid."""
        projected = math.snap(self.project(math.normalise(x)), ACTIVATION)
        mixed = torch.zeros_like(x)
        for group in window_groups(*shape, self.shifted):
            for tokens in group.tokens.to(x.device).split(WINDOWS_AT_ONCE):
                mixed[:, tokens] = self._attend(projected[:, tokens], group, relative, math)
        x = math.snap(x + math.snap(self.merge(mixed), RESIDUAL), RESIDUAL)
        hidden = math.leaky(math.snap(self.expand(math.normalise(x)), ACTIVATION))
        return math.snap(x + math.snap(self.contract(hidden), RESIDUAL), RESIDUAL)

    def _attend(self, projected: Tensor, group: WindowGroup, relative: Tensor, math: Arithmetic) -> Tensor:
        """(B, W, n, 3 dim) queries, keys and values -> (B, W, n, dim).

        Keys are all tokens, or the anchors and the query's own token.
        """
        batch, windows, n, width = projected.shape
        split = projected.view(batch, windows, n, 3, self.heads, width // 3 // self.heads)
        query, key, value = split.permute(3, 0, 1, 4, 2, 5)
        places = relative_cells(group.height, group.width, self.positions).to(projected.device)
        near = query @ relative.T
        visible = anchors(group.height, group.width).to(projected.device) if self.anchored else slice(None)
        places = places[:, visible]
        keys, values = key[..., visible, :], value[..., visible, :]
        scores = query @ keys.transpose(-1, -2) + near.gather(-1, places.expand(*near.shape[:-1], places.shape[-1]))
        if self.anchored:
            own = (query * key).sum(-1, keepdim=True) + near[..., cells(self.positions) // 2 - 1, None]
            is_anchor = torch.zeros(n, 1, dtype=torch.bool, device=own.device)
            is_anchor[visible] = True  # already among the keys
            scores = torch.cat([scores, own.masked_fill(is_anchor, MASKED)], -1)
        count = min(self.top_k, scores.shape[-1])
        kept = math.best(scores.detach(), count)
        logits = scores.gather(-1, kept)
        weights = math.exponentials(logits * self.scale) * (logits > MASKED / 2)
        total = weights.sum(-1, keepdim=True)
        weights = torch.zeros_like(scores).scatter(-1, kept, weights)
        if self.anchored:
            mixed = weights[..., :-1] @ values + weights[..., -1:] * value
        else:
            mixed = weights @ values
        mixed = math.snap(mixed / total, ACTIVATION)
        return mixed.transpose(2, 3).reshape(batch, windows, n, -1)


class HyperDecoder(nn.Module):
    """Hyper-latent (B, Z, h, w) and rate rows -> features (B, N, dim) at 2 ** halvings times the resolution."""

    def __init__(self, settings: EntroformerSettings) -> None:
        super().__init__()
        dim = settings.dim
        self.relative = nn.Parameter(0.02 * torch.randn(cells(settings.positions), dim // settings.heads))
        self.embed = nn.Linear(settings.hyper_channels, dim)
        self.rate = RateTable(dim)
        self.blocks = nn.ModuleList(Block(settings, shifted=bool(i % 2)) for i in range(settings.halvings + 1))
        self.grow = nn.ModuleList(nn.Linear(9 * dim, 4 * dim) for _ in range(settings.halvings))

    def forward(self, z: Tensor, codes: Tensor, math: Arithmetic) -> Tensor:
        """z is whole numbers; the result is on the residual grid, rows of the (h 2^s) x (w 2^s) raster."""
        height, width = z.shape[-2:]
        tokens = math.snap(z.flatten(2).transpose(1, 2), ACTIVATION)
        x = math.snap(self.embed(tokens) + self.rate(codes, math)[:, None], RESIDUAL)
        relative = math.snap(self.relative, ACTIVATION)
        for i, block in enumerate(self.blocks):
            x = block(x, relative, (height, width), math)
            if i < len(self.grow):
                x = math.snap(self.grow[i](_neighbourhoods(math.snap(x, ACTIVATION), height, width)), RESIDUAL)
                x = _shuffle(x, height, width)
                height, width = 2 * height, 2 * width
        return x


class ContextNet(nn.Module):
    """Symbols of the anchors (zero elsewhere) -> features (B, N, dim) on the residual grid."""

    def __init__(self, settings: EntroformerSettings) -> None:
        super().__init__()
        dim = settings.dim
        self.relative = nn.Parameter(0.02 * torch.randn(cells(settings.positions), dim // settings.heads))
        self.embed = nn.Linear(2 * CHANNELS, dim)
        self.rate = RateTable(dim)
        self.blocks = nn.ModuleList(Block(settings, shifted=bool(i % 2), anchored=True) for i in range(settings.depth))

    def forward(
        self, symbols: Tensor, inverse: Tensor, codes: Tensor, shape: tuple[int, int], math: Arithmetic
    ) -> Tensor:
        """symbols (B, N, 4) whole numbers; inverse (B, 1, 4) reciprocal alphas on the 2^-12 grid."""
        inputs = torch.cat([symbols, symbols * inverse], -1)
        x = math.snap(self.embed(math.snap(inputs, ACTIVATION)) + self.rate(codes, math)[:, None], RESIDUAL)
        relative = math.snap(self.relative, ACTIVATION)
        for block in self.blocks:
            x = block(x, relative, shape, math)
        return x


class ParameterNet(nn.Module):
    """Features -> (mean, scale) of each channel, in units of the latent before scaling by alpha."""

    def __init__(self, settings: EntroformerSettings) -> None:
        super().__init__()
        self.inner = nn.Linear(2 * settings.dim, 2 * settings.dim)
        self.outer = nn.Linear(2 * settings.dim, OUTPUTS)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, hyper: Tensor, context: Tensor, math: Arithmetic) -> Tensor:
        """(B, n, dim) twice -> (B, n, 8), means then scales, not yet on a grid."""
        both = torch.cat([math.normalise(hyper), math.snap(context, ACTIVATION)], -1)
        return cast(Tensor, self.outer(math.leaky(math.snap(self.inner(both), ACTIVATION))))


class HyperEncoder(nn.Module):
    """alpha y (B, 4, h, w) -> hyper-latent (B, Z, ceil(h / 2^s), ceil(w / 2^s)), float; used by the encoder alone."""

    def __init__(self, settings: EntroformerSettings) -> None:
        super().__init__()
        dim = settings.dim
        self.halvings = settings.halvings
        self.relative = nn.Parameter(0.02 * torch.randn(cells(settings.positions), dim // settings.heads))
        self.embed = nn.Linear(2 * CHANNELS, dim)
        self.rate = RateTable(dim)
        self.blocks = nn.ModuleList(Block(settings, shifted=bool(i % 2)) for i in range(settings.halvings + 1))
        self.shrink = nn.ModuleList(nn.Conv2d(dim, dim, 3, 2, 1) for _ in range(settings.halvings))
        self.head = nn.Linear(dim, settings.hyper_channels)

    def forward(self, scaled: Tensor, inverse: Tensor, codes: Tensor, math: Arithmetic) -> Tensor:
        multiple = 2**self.halvings
        bottom, right = -scaled.shape[-2] % multiple, -scaled.shape[-1] % multiple
        x = F.pad(scaled, (0, right, 0, bottom), mode="replicate")
        height, width = x.shape[-2:]
        tokens = x.flatten(2).transpose(1, 2)
        tokens = math.snap(torch.cat([tokens, tokens * inverse], -1), ACTIVATION)
        x = self.embed(tokens) + self.rate(codes, math)[:, None]
        for i, block in enumerate(self.blocks):
            x = block(x, self.relative, (height, width), math)
            if i < self.halvings:
                grid = self.shrink[i](x.transpose(1, 2).unflatten(2, (height, width)))
                height, width = grid.shape[-2:]
                x = grid.flatten(2).transpose(1, 2)
        return cast(Tensor, self.head(math.normalise(x)).transpose(1, 2).unflatten(2, (height, width)))


class Entroformer(nn.Module):
    """All parts of the entropy model. `prior` gives mean and scale of the hyper-latent's channels by alpha code."""

    def __init__(self, settings: EntroformerSettings) -> None:
        super().__init__()
        self.settings = settings
        self.hyper_encoder = HyperEncoder(settings)
        self.prior = RateTable(2 * settings.hyper_channels)
        self.hyper_decoder = HyperDecoder(settings)
        self.context = ContextNet(settings)
        self.parameter_net = ParameterNet(settings)

    def decoder_modules(self) -> dict[str, nn.Module]:
        """The parts that both sides run exactly."""
        names: tuple[Literal["prior", "hyper_decoder", "context", "parameter_net"], ...]
        names = ("prior", "hyper_decoder", "context", "parameter_net")
        return {name: cast(nn.Module, getattr(self, name)) for name in names}


def _neighbourhoods(x: Tensor, height: int, width: int) -> Tensor:
    """(B, N, d) raster -> (B, N, 9 d): each token beside its eight neighbours in raster order, zeros outside."""
    padded = F.pad(x.unflatten(1, (height, width)), (0, 0, 1, 1, 1, 1))
    shifted = [padded[:, v : v + height, h : h + width] for v in range(3) for h in range(3)]
    return torch.cat(shifted, -1).flatten(1, 2)


def _shuffle(x: Tensor, height: int, width: int) -> Tensor:
    """(B, N, 4 d) -> (B, 4 N, d): each token becomes a 2 x 2 square in raster order."""
    x = x.unflatten(1, (height, width)).unflatten(3, (2, 2, -1))
    return x.transpose(2, 3).flatten(1, 4)
