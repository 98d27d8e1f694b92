"""The head of a JPEG XL codestream (ISO/IEC 18181-1, annexes B and D): size, depth and color space, bit by bit."""

from dataclasses import dataclass

RATIOS = (None, (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
"""Width to height by the field `ratio`; 0 means that the width is coded too."""
RGB = 0
GRAY = 1
D65 = 1
SRGB_PRIMARIES = 1
SRGB_TRANSFER = 13


class UnreadError(Exception):
    """The head uses an unsupported feature, named by the message."""


@dataclass(frozen=True)
class JxlHeader:
    """The parsed head. `srgb` is false for any other color space, which the decoder does not report."""

    width: int
    height: int
    bits: int
    srgb: bool


class _Bits:
    def __init__(self, data: bytes) -> None:
        self.value = int.from_bytes(data, "little")
        self.length = 8 * len(data)
        self.position = 0

    def take(self, count: int) -> int:
        """The next bits as a number, the lowest first."""
        if self.position + count > self.length:
            raise UnreadError("a truncated head")
        self.position += count
        return self.value >> (self.position - count) & ((1 << count) - 1)

    def number(self, *choices: tuple[int, int]) -> int:
        """U32: two bits select a base and the number of bits added to it."""
        base, bits = choices[self.take(2)]
        return base + self.take(bits)


def read(codestream: bytes) -> JxlHeader:
    """Parses the head of a codestream that begins with FF 0A. Raises UnreadError."""
    bits = _Bits(codestream[2:258])  # a longer head counts as truncated
    width, height = _size(bits)
    if bits.take(1):  # all fields have their default values
        return JxlHeader(width, height, 8, srgb=True)
    if bits.take(1):  # extra fields
        bits.take(3)  # orientation, which the decoder applies
        # Each of these flags brings fields of its own, so nothing after the first one set can be read.
        if bits.take(1) or bits.take(1) or bits.take(1):
            raise UnreadError("an intrinsic size, a preview or an animation")
    depth = _depth(bits)
    bits.take(1)  # whether 16-bit buffers suffice to decode it
    extra_channels = bits.number((0, 0), (1, 0), (2, 4), (1, 12))
    for _ in range(extra_channels):
        if not bits.take(1):
            raise UnreadError("an extra channel other than plain alpha")
    bits.take(1)  # whether colors are in XYB
    return JxlHeader(width, height, depth, srgb=_srgb(bits))


def _size(bits: _Bits) -> tuple[int, int]:
    """Width and height: both as multiples of 8 if the first bit says so."""
    small = bool(bits.take(1))
    height = _side(bits, small=small)
    ratio = RATIOS[bits.take(3)]
    if ratio is None:
        return _side(bits, small=small), height
    across, down = ratio
    return height * across // down, height


def _side(bits: _Bits, *, small: bool) -> int:
    if small:
        return 8 * (bits.take(5) + 1)
    return bits.number((1, 9), (1, 13), (1, 18), (1, 30))


def _depth(bits: _Bits) -> int:
    if bits.take(1):
        raise UnreadError("floating-point samples")
    return bits.number((8, 0), (10, 0), (12, 0), (1, 6))


def _srgb(bits: _Bits) -> bool:
    """Whether the color encoding is sRGB, or gray with its curve."""
    if bits.take(1):  # the default
        return True
    if bits.take(1):
        return False  # an ICC profile
    space = _enum(bits)
    if space not in (RGB, GRAY):
        return False
    if _enum(bits) != D65:
        return False  # another white point has fields of its own
    if space == RGB and _enum(bits) != SRGB_PRIMARIES:  # gray has no primaries
        return False
    if bits.take(1):
        return False  # a gamma instead of a named transfer function
    return _enum(bits) == SRGB_TRANSFER


def _enum(bits: _Bits) -> int:
    return bits.number((0, 0), (1, 0), (2, 4), (18, 6))
