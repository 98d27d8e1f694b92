"""The head of a JPEG XL codestream (ISO/IEC 18181-1, annexes B and D): size, depth and color space, bit by bit."""

from dataclasses import dataclass

RATIOS = (None, (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


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
        self.value, self.length, self.position = int.from_bytes(data, "little"), 8 * len(data), 0

    def take(self, count: int) -> int:
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
    bits = _Bits(codestream[2:258])
    width, height = _size(bits)
    if bits.take(1):
        return JxlHeader(width, height, 8, srgb=True)
    if bits.take(1):  # extra fields
        bits.take(3)  # orientation, which the decoder applies
        if bits.take(1) or bits.take(1) or bits.take(1):
            raise UnreadError("an intrinsic size, a preview or an animation")
    depth = _depth(bits)
    bits.take(1)
    for _ in range(bits.number((0, 0), (1, 0), (2, 4), (1, 12))):
        if not bits.take(1):
            raise UnreadError("an extra channel other than plain alpha")
    bits.take(1)  # whether colors are in XYB
    return JxlHeader(width, height, depth, srgb=_srgb(bits))


def _size(bits: _Bits) -> tuple[int, int]:
    small = bits.take(1)
    sizes = ((1, 9), (1, 13), (1, 18), (1, 30))
    height = 8 * (bits.take(5) + 1) if small else bits.number(*sizes)
    ratio = RATIOS[bits.take(3)]
    if ratio is not None:
        return height * ratio[0] // ratio[1], height
    return (8 * (bits.take(5) + 1) if small else bits.number(*sizes)), height


def _depth(bits: _Bits) -> int:
    if bits.take(1):
        raise UnreadError("floating-point samples")
    return bits.number((8, 0), (10, 0), (12, 0), (1, 6))


def _srgb(bits: _Bits) -> bool:
    """Whether the color encoding is sRGB, or gray with its curve."""
    if bits.take(1):
        return True
    if bits.take(1):
        return False  # an ICC profile
    space = _enum(bits)
    if space not in (0, 1):
        return False
    white = _enum(bits)
    primaries = _enum(bits) if space == 0 and white == 1 else 1
    if white != 1 or primaries != 1:
        return False
    return not bits.take(1) and _enum(bits) == 13


def _enum(bits: _Bits) -> int:
    return bits.number((0, 0), (1, 0), (2, 4), (18, 6))
