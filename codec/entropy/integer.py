"""The exact form of the entropy model: a network of exported integers that computes the same on any machine."""

import hashlib
import itertools
from collections.abc import Callable, Mapping
from math import prod

import torch
from torch import Tensor, nn

from codec.entropy.arithmetic import Arithmetic, Exact
from codec.entropy.distribution import RateConstants, distributions, prior_distributions
from codec.entropy.entroformer import (
    ALPHA_CODES,
    CHANNELS,
    KNOT_SPACING,
    Entroformer,
    EntroformerSettings,
    RateTable,
    causal_neighbors,
)
from codec.entropy.export import input_limits, prove_bounds
from codec.entropy.grids import Grid
from codec.entropy.rate import crop_tokens
from codec.entropy.windows import anchor_mask
from codec.errors import BundleError, SettingsError
from codec.support.malloc import keep_freed_memory


class FixedTable(nn.Module):
    """A rate table as exported: integer rows on a grid, (256, width)."""

    table: Tensor

    def __init__(self, table: Tensor, grid: Grid) -> None:
        super().__init__()
        self.grid = grid
        self.register_buffer("table", table)

    def forward(self, codes: Tensor, math: Arithmetic) -> Tensor:
        return math.snap(self.table[codes].sum(1) * 0.25, self.grid)


class ExactEntropyModel:
    """The exported network in exact arithmetic. All methods take and return whole numbers or dyadic fractions."""

    def __init__(self, integers: Mapping[str, Tensor], settings: EntroformerSettings, device: str = "cpu") -> None:
        self.settings = settings
        self.device = torch.device(device)
        keep_freed_memory()  # before the first allocation that it helps
        try:
            self.math = Exact(integers["exponential"].to(self.device), settings.arithmetic)
            self.constants = RateConstants(*(integers[name] for name in ("alpha", "inverse", "level")))
            prove_bounds(integers, settings)
            self.network = _restore(integers, settings).to(self.device, self.math.dtype)
        except KeyError as error:
            raise BundleError(f"the bundle's entropy model is incomplete: tensor {error} is missing") from None
        except (ValueError, RuntimeError) as error:
            raise BundleError(f"the bundle's entropy model is not of this format version: {error}") from None

    def _check_products(self) -> None:
        """Raises SettingsError if this process computes float32 products with fewer bits than float32 has."""
        if self.math.dtype != torch.float32:
            return
        # torch has an old and a new way to set this; both show here, and asking the old one after the new one raises
        is_reduced = torch.backends.mkldnn.matmul.fp32_precision not in ("none", "ieee")  # type: ignore[attr-defined]
        if is_reduced or torch.is_autocast_enabled(self.device.type):
            raise SettingsError(
                "float32 matrix products have reduced precision in this process, so the entropy model would not be "
                'exact: call torch.set_float32_matmul_precision("highest"), and no autocast around the codec'
            )

    def hyper_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Shape (Z, h, w) of the hyper-latent of a latent tile."""
        step = 2**self.settings.halvings
        return self.settings.hyper_channels, -(-height // step), -(-width // step)

    def prior(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Alpha codes (B, 4) -> means in 1/32 and levels of the hyper-latent's channels, (B, Z) int64."""
        self._check_products()  # every use of the model begins with the prior
        row = self.network.prior(codes.to(self.device), self.math)
        mean, level = prior_distributions(row, self.constants.level_of_one, self.math)
        return _whole(mean, level)

    def hyper(self, z: Tensor, codes: Tensor, shape: tuple[int, int]) -> Tensor:
        """Hyper-latent (B, Z, h', w') -> features of the latent's raster, (B, h w, dim)."""
        step = 2**self.settings.halvings
        full = (step * z.shape[-2], step * z.shape[-1])
        tokens = self.network.hyper_decoder(z.to(self.device).double(), codes.to(self.device), self.math)
        return crop_tokens(tokens, full, shape)

    def context(
        self,
        symbols: Tensor,
        codes: Tensor,
        shape: tuple[int, int],
        seen: Tensor | None = None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Features (B, h w, dim) from all symbols (B, h w, 4): those `seen` in parallel order; in serial order each
        position uses those before it. With `seen` and `wanted`, only of the wanted positions."""
        codes = codes.to(self.device)
        _, inverse, _ = self.constants.rows(codes, torch.float64)
        if seen is not None:
            seen = seen.to(self.device)
        if wanted is not None:
            wanted = wanted.to(self.device)
        features: Tensor = self.network.context(
            symbols.to(self.device).double(), inverse, codes, shape, self.math, seen, wanted
        )
        return features

    def raster(self, codes: Tensor, shape: tuple[int, int]) -> Callable[[Tensor], Tensor]:
        """For decoding in serial order: a function that maps the symbols so far (1, h w, 4) to the features (1, 1, dim)
        of the next position, equal to those of `context`."""
        codes = codes.to(self.device)
        _, inverse, _ = self.constants.rows(codes, torch.float64)
        caches = self.network.context.caches(1, shape)
        positions = itertools.product(range(shape[0]), range(shape[1]))

        def step(symbols: Tensor) -> Tensor:
            position = next(positions)
            near = causal_neighbors(symbols, shape, position).to(self.device).double()
            return self.network.context.step(near, inverse, codes, position, caches, self.math)

        return step

    def parameters(self, hyper: Tensor, context: Tensor | None, codes: Tensor) -> "Parameters":
        """Distributions from the features of n positions; no context in the first pass."""
        base = self.network.parameter_net.base(hyper, context, self.math)
        return Parameters(self, base, codes.to(self.device))

    @torch.no_grad()
    def known_answer(self) -> str:
        """SHA-256 of the outputs on a fixed pattern, the same on any machine. Covers cut windows and all parts."""
        shape = (37, 41)  # larger than a window, and a multiple of nothing
        codes = torch.tensor([[100, 128, 140, 170]])
        hyper = self.hyper(_pattern(1, *self.hyper_shape(*shape)), codes, shape)
        symbols = _pattern(1, shape[0] * shape[1], CHANNELS)
        seen = None
        parts = [*self.prior(codes)]
        if self.settings.order == "parallel":
            seen = anchor_mask(*shape)
            parts += self.parameters(hyper, None, codes).of_all(symbols)
        parts += self.parameters(hyper, self.context(symbols, codes, shape, seen), codes).of_all(symbols)
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part.cpu().numpy().astype("<i4").tobytes())
        return digest.hexdigest()


class Parameters:
    """Distributions of n positions: all at once for known symbols, or channel by channel in decoding."""

    def __init__(self, model: ExactEntropyModel, base: Tensor, codes: Tensor) -> None:
        self.model = model
        self.base = base
        self.alpha, self.inverse, self.level = model.constants.rows(codes, torch.float64)

    def of_channel(self, symbols: Tensor, channel: int) -> tuple[Tensor, Tensor]:
        """Means in 1/32 and levels (B, n) int64 of a channel, given the channels before it in symbols (B, n, 4)."""
        net = self.model.network.parameter_net
        math = self.model.math
        symbols = symbols.to(self.base.device).double()
        outputs = net.channel(self.base, symbols, self.inverse, channel, math)
        alpha = self.alpha[..., channel : channel + 1]
        level = self.level[..., channel : channel + 1]
        mean, scale = _whole(*distributions(outputs, alpha, level, math))
        return mean[..., 0], scale[..., 0]

    def of_all(self, symbols: Tensor) -> tuple[Tensor, Tensor]:
        """The same for all channels, (B, 4, n) each."""
        means = []
        levels = []
        for channel in range(CHANNELS):
            mean, level = self.of_channel(symbols, channel)
            means.append(mean)
            levels.append(level)
        return torch.stack(means, 1), torch.stack(levels, 1)


def _pattern(*shape: int) -> Tensor:
    """Small whole numbers without an obvious period."""
    return (torch.arange(prod(shape)) * 7919 % 23 - 11).view(shape)


def _whole(mean: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    return torch.round(mean * 32).long(), level.long()


def trainable(integers: Mapping[str, Tensor], settings: EntroformerSettings) -> Entroformer:
    """A float Entroformer whose decoder parts are the exported ones, up to their grids; its hyper-encoder is new."""
    model = Entroformer(settings)
    exact = _restore(integers, settings).state_dict()
    for name, value in model.state_dict().items():
        if name.startswith("hyper_encoder"):
            continue
        if name.endswith(".knots"):
            # a knot has the row of its alpha code; the codes between were interpolated before export
            rows = torch.arange(len(value)) * KNOT_SPACING
            value.copy_(exact[name.removesuffix("knots") + "table"][rows.clamp(max=ALPHA_CODES - 1)])
        else:
            value.copy_(exact[name])
    return model


def _restore(integers: Mapping[str, Tensor], settings: EntroformerSettings) -> Entroformer:
    """An Entroformer in float64 whose weights are the exported integers on their grids.

    It is built on the meta device and takes the given tensors, so oversized settings allocate nothing.
    """
    with torch.device("meta"):
        network = Entroformer(settings).double().eval()
    del network.hyper_encoder
    for root, part in network.decoder_modules().items():
        for name, module in list(part.named_modules()):  # a list, since rate tables are replaced on the way
            path = f"{root}.{name}" if name else root
            if isinstance(module, nn.Linear):
                rows = module.out_features if settings.arithmetic.fraction_by_row else 1
                fraction = _shaped(integers, f"{path}.fraction", module.weight.new_empty(rows))
                weight = _shaped(integers, f"{path}.weight", module.weight)
                module.weight = _frozen(weight * 2.0 ** -fraction[:, None])
                if module.bias is not None:
                    bias = _shaped(integers, f"{path}.bias", module.bias)
                    _, input_fraction = input_limits(path, module.in_features, settings)
                    module.bias = _frozen(bias * 2.0 ** -(fraction + input_fraction))
            elif isinstance(module, RateTable):
                shape = module.knots.new_empty(ALPHA_CODES, module.knots.shape[1])
                table = FixedTable(_shaped(integers, f"{path}.table", shape) * 2.0**-module.grid.fraction, module.grid)
                parent, _, leaf = path.rpartition(".")  # get_submodule("") is the network itself
                setattr(network.get_submodule(parent), leaf, table)
        relative = getattr(part, "relative", None)
        if relative is not None:
            units = 2.0**-settings.arithmetic.heads.fraction
            part.relative = _frozen(_shaped(integers, f"{root}.relative", relative) * units)
    return network


def _frozen(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=False)


def _shaped(integers: Mapping[str, Tensor], name: str, like: Tensor) -> Tensor:
    """A tensor of the export as float64. Raises ValueError unless it has the shape of `like` and whole numbers."""
    values = integers[name]
    if values.shape != like.shape or values.is_floating_point():
        raise ValueError(
            f"tensor {name} is {values.dtype} {tuple(values.shape)}, expected integers {tuple(like.shape)}"
        )
    return values.double()
