"""Rounds a trained entropy model to integers, once, and proves from their bounds that its sums are exact."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from codec.entropy.arithmetic import exponential_table
from codec.entropy.distribution import RateConstants
from codec.entropy.entroformer import CHANNELS, Entroformer, EntroformerSettings, RateTable
from codec.entropy.grids import RESIDUAL, Grid
from codec.errors import BundleError

LARGEST_EXACT = 2**53
"""Whole numbers below this are exact in float64, whatever the order of a sum."""
LARGEST_WEIGHT_FRACTION = 20
SMALLEST_WEIGHT_FRACTION = -8
"""A row whose sums need coarser weights is refused."""


def export(model: Entroformer) -> dict[str, Tensor]:
    """Exports the shared parts as integer tensors: weights int16, biases and tables int32, and fractions of weights.

    Raises BundleError if a sum could leave the range in which the arithmetic is exact.
    """
    grids = model.settings.arithmetic
    integers: dict[str, Tensor] = {"exponential": exponential_table(grids)}
    constants = RateConstants.computed()
    integers |= {"alpha": constants.alpha, "inverse": constants.inverse, "level": constants.level}
    for root, part in model.decoder_modules().items():
        for name, module in part.named_modules():
            path = f"{root}.{name}" if name else root
            if isinstance(module, RateTable):
                integers[f"{path}.table"] = torch.round(module.table().detach().double() * module.grid.units).int()
        relative = getattr(part, "relative", None)
        if relative is not None:
            integers[f"{root}.relative"] = _to_units(relative, grids.heads.fraction, grids.heads.limit).short()
    for root, part in model.decoder_modules().items():
        for name, module in part.named_modules():
            if isinstance(module, nn.Linear):
                integers |= _export_linear(f"{root}.{name}", module, integers, model.settings)
    prove_bounds(integers, model.settings)
    return integers


def _to_units(x: Tensor, fraction: int, limit: int) -> Tensor:
    return torch.round(x.detach().double() * 2.0**fraction).clamp(-limit, limit)


def _export_linear(
    path: str, linear: nn.Linear, integers: Mapping[str, Tensor], settings: EntroformerSettings
) -> dict[str, Tensor]:
    """Weight, fraction and bias of a map. The fraction is the finest at which the largest weight has its bits.

    With a fraction for each row, it is also coarse enough for the row's sums.
    """
    grids = settings.arithmetic
    weight = linear.weight.detach().double()
    largest = weight.abs().amax(1) if grids.fraction_by_row else weight.abs().max()[None]
    largest = largest.clamp(min=2.0**-LARGEST_WEIGHT_FRACTION)
    fraction = ((2.0**grids.weight_bits - 1) / largest).log2().floor().clamp(max=LARGEST_WEIGHT_FRACTION)
    while True:
        exported = _rounded_map(path, linear, fraction, settings)
        if not grids.fraction_by_row:
            return exported
        too_large = _largest_sums(path, {**integers, **exported}, settings) >= grids.largest_sum
        if not bool(too_large.any()) or float(fraction.min()) < SMALLEST_WEIGHT_FRACTION:
            return exported
        fraction = fraction - too_large.double()


def _rounded_map(path: str, linear: nn.Linear, fraction: Tensor, settings: EntroformerSettings) -> dict[str, Tensor]:
    """A map's tensors with weights in units of 2^-fraction; fraction is (1,) or (outputs,)."""
    grids = settings.arithmetic
    units = 2.0 ** fraction[:, None]
    most = 2**grids.weight_bits - 1
    exported = {
        f"{path}.weight": torch.round(linear.weight.detach().double() * units).clamp(-most, most).short(),
        f"{path}.fraction": fraction.int(),
    }
    if linear.bias is not None:
        _, input_fraction = input_limits(path, linear.in_features, settings)
        bias = torch.round(linear.bias.detach().double() * 2.0 ** (fraction + input_fraction))
        exported[f"{path}.bias"] = bias.clamp(-(2**31 - 1), 2**31 - 1).int()
    return exported


def input_limits(path: str, columns: int, settings: EntroformerSettings) -> tuple[Tensor, int]:
    """Largest magnitude of each input of a map, (columns,) float64 in units of the finest grid, and its fraction."""
    grids = settings.arithmetic
    leaf = path.rpartition(".")[2]
    kinds: list[tuple[Grid, int]]
    if leaf in ("project", "expand"):
        kinds = [(grids.normalized, columns)]
    elif leaf == "merge":
        kinds = [(grids.mixed, columns)]
    elif leaf in ("contract", "outer"):
        kinds = [(grids.hidden, columns)]
    elif leaf == "inner":  # features, then the position's known symbols
        features = min(columns, 2 * settings.dim)
        kinds = [(grids.normalized, features), (grids.symbols, columns - features)]
    elif path == "hyper_decoder.embed":
        kinds = [(grids.hyper, columns)]
    elif path == "context.embed":
        kinds = [(grids.symbols, columns)]
    else:
        kinds = [(grids.grown, columns)]
    finest = max(grid.fraction for grid, count in kinds if count)
    limits = [torch.full((count,), grid.limit * 2.0 ** (finest - grid.fraction)) for grid, count in kinds]
    return torch.cat(limits).double(), finest


def _largest_sums(path: str, integers: Mapping[str, Tensor], settings: EntroformerSettings) -> Tensor:
    """Largest possible magnitude of each output of a map, (outputs,) float64 in units of its products.

    After `embed`, the rate table's row is added before the result is rounded.
    """
    weight = integers[f"{path}.weight"].double()
    limits, input_fraction = input_limits(path, weight.shape[1], settings)
    sums = weight.abs() @ limits
    bias = integers.get(f"{path}.bias")
    if bias is not None:
        sums += bias.double().abs()
    if path.endswith(".embed"):
        finer = integers[f"{path}.fraction"].double() + input_fraction - RESIDUAL.fraction
        rate = integers[f"{path.removesuffix('embed')}rate.table"].double().abs().amax(0)
        # in units of the finer of both
        sums = sums * 2.0 ** (-finer).clamp(min=0) + rate * 2.0 ** finer.clamp(min=0)
    return sums


def prove_bounds(integers: Mapping[str, Tensor], settings: EntroformerSettings) -> dict[str, int]:
    """The largest possible magnitude of every sum, in units. Raises BundleError if one leaves the exact range.

    Linear maps: sum |w| max|x| + |b|. Attention: scores with their position in the sort key; numerator and denominator
    of the softmax over the kept keys. Layer norm: the sum and the sum of squares of centered residuals.
    """
    grids = settings.arithmetic
    sums: dict[str, int] = {}
    for name, tensor in integers.items():
        if name.endswith(".fraction") and grids.fraction_by_row:
            # beyond these a power of two could leave the range of float32
            if int(tensor.min()) < SMALLEST_WEIGHT_FRACTION or int(tensor.max()) > LARGEST_WEIGHT_FRACTION:
                raise BundleError(
                    f"the entropy model cannot be exact: {name} is not within {SMALLEST_WEIGHT_FRACTION} to "
                    f"{LARGEST_WEIGHT_FRACTION}; train with smaller weights"
                )
        elif name.endswith(".weight"):
            sums[name] = int(_largest_sums(name.removesuffix(".weight"), integers, settings).max())
        elif name.endswith(".table"):
            sums[name] = int(tensor.double().abs().max()) * CHANNELS
    head = settings.dim // settings.heads
    largest_weight = int(integers["exponential"].double().max())
    # query times key, and query times the difference of two relative positions: 2 + 2 times head limit**2
    sums["score"] = 4 * head * grids.heads.limit**2
    sums["softmax numerator"] = largest_weight * grids.heads.limit * settings.top_k
    sums["softmax denominator"] = grids.exponent_one * settings.top_k
    keys = {"sort key": (max(sums["score"], grids.masked_units) + 1) * grids.most_keys}
    in_float64 = {
        "squares": settings.dim * (2 * RESIDUAL.limit + 1) ** 2,  # a value minus the mean: twice the limit
        "alpha": int(integers["alpha"].max()) * 2**19,
    }
    for bounds, limit in ((sums, grids.largest_sum), (keys, grids.largest_key), (in_float64, LARGEST_EXACT)):
        for name, bound in bounds.items():
            if bound >= limit:
                raise BundleError(
                    f"the entropy model cannot be exact: {name} may reach {bound}, beyond 2**{limit.bit_length() - 1}; "
                    "train with smaller weights"
                )
    return sums | keys | in_float64
