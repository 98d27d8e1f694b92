"""The fixed-point grids to which the entropy network rounds its numbers, by the kind of a bundle."""

from dataclasses import dataclass
from typing import Literal


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


RESIDUAL = Grid(20, 9)
"""The residual stream and the rate tables."""
OUTPUT = Grid(20, 12)
"""Mean and scale as the network gives them."""


@dataclass(frozen=True)
class Grids:
    """The grids that a kind of bundle rounds to, by what is rounded, and the limits that follow from them."""

    normalized: Grid
    """Outputs of layer normalization, and the context features beside them."""
    heads: Grid
    """Queries, keys, values and relative positions."""
    mixed: Grid
    """Outputs of attention."""
    hidden: Grid
    """Outputs of the leaky rectifier."""
    symbols: Grid
    """Symbols as seen by the network, and the same divided by alpha."""
    hyper: Grid
    """Hyper-latent symbols."""
    grown: Grid
    """Inputs of the maps that double the resolution."""
    weight_bits: int
    """Bits of a weight's magnitude, without sign."""
    fraction_by_row: bool
    """Whether each row of a linear map has a power of two of its own, or all share one."""
    exponent_one: int
    """Value of the softmax table at a logit difference of zero."""
    masked_units: int
    """Magnitude of a hidden key's score, in units: real scores are smaller."""
    most_keys: int
    """Upper bound on keys of a query: the factor reserved for positions in sort keys."""
    largest_key: int
    """Sort keys are smaller in magnitude."""
    largest_sum: int
    """Sums in linear maps and attention are smaller in magnitude, in units."""

    @property
    def score_fraction(self) -> int:
        """Fractional bits of an attention score."""
        return 2 * self.heads.fraction

    @property
    def masked(self) -> float:
        """Score of a hidden key: below any real score, and exact as a sort key."""
        return -self.masked_units * 2.0**-self.score_fraction


_ACTIVATION = Grid(16, 9)
GridsName = Literal["wide", "narrow"]
GRIDS: dict[GridsName, Grids] = {
    "wide": Grids(
        normalized=_ACTIVATION,
        heads=_ACTIVATION,
        mixed=_ACTIVATION,
        hidden=_ACTIVATION,
        symbols=_ACTIVATION,
        hyper=_ACTIVATION,
        grown=_ACTIVATION,
        weight_bits=15,
        fraction_by_row=False,
        exponent_one=2**20,
        masked_units=2**38,
        most_keys=2**13,
        largest_key=2**53,
        largest_sum=2**53,
    ),
    # 8-bit queries and keys keep sort keys in 32 bits: NumPy partitions those eight times as fast as float64
    "narrow": Grids(
        normalized=Grid(11, 7),
        heads=Grid(8, 4),
        mixed=Grid(11, 7),
        hidden=Grid(11, 7),
        symbols=Grid(11, 5),
        hyper=Grid(11, 4),
        grown=Grid(9, 4),
        weight_bits=7,
        fraction_by_row=True,
        exponent_one=2**11,
        masked_units=2**21 - 2,
        most_keys=2**10,
        largest_key=2**31,
        largest_sum=2**24,
    ),
}
"""The grids of a bundle, by the name in its configuration (FORMAT.md, section 6)."""
WIDE = GRIDS["wide"]
