"""Chooses the color space in which pixels are coded: their own with its profile, sRGB, or none (kept whole).

The networks were trained on sRGB. They also work for RGB with a tone curve close to sRGB's, so Display P3 and Adobe RGB
are coded as they are, with a profile. Linear light, log curves and HDR curves are not coded.
"""

import io
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from codec.color import icc
from codec.color.icc import CURVE_POINTS, Curve

SRGB = "sRGB"
DISPLAY_P3 = "Display P3"
ADOBE_RGB = "Adobe RGB"
LARGEST_DEVIATION = 0.1
"""Largest difference, in linear light, between a tone curve and sRGB's."""
D65 = (0.3127, 0.329)
PRIMARIES = {
    1: (0.64, 0.33, 0.30, 0.60, 0.15, 0.06),
    5: (0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    7: (0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
    12: (0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
}
"""x and y of red, green and blue by H.273's color primaries. 11 has the white of film, (0.314, 0.351), not D65."""
FILM_WHITE = (0.314, 0.351)
POWERS = {4: 2.2}
SRGB_LIKE = (1, 6, 13, 14, 15)
"""Transfer characteristics that viewers display like sRGB's: BT.709 and its relatives, and sRGB itself."""
UNSPECIFIED = 2
BT709 = 1
DISPLAY_P3_CODE = 12
SRGB_TRANSFER = 13
WIDEST = np.array(PRIMARIES[9]).reshape(3, 2)
"""BT.2020's primaries."""
ADOBE_PRIMARIES = (0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
SRGB_CHROMATICITIES = (*D65, *PRIMARIES[BT709])
ADOBE_CHROMATICITIES = (*D65, *ADOBE_PRIMARIES)
SAME_CHROMATICITY = 0.003
"""Largest difference of x or y, since files round them differently."""


@dataclass(frozen=True, eq=False)
class Space:
    """A supported color space. `profile` is None for sRGB."""

    name: str
    profile: bytes | None = None


PLAIN = Space(SRGB)


class ColorsError(ValueError):
    """An unsupported color space, named by the message."""


def srgb_curve() -> Curve:
    """Linear light of sRGB (IEC 61966-2-1)."""
    x = np.linspace(0, 1, CURVE_POINTS)
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def of_profile(profile: bytes, image: Image.Image) -> Space:
    """The space of a picture (mode RGB or L) with an ICC profile. Raises ColorsError.

    A profile that is unreadable, or for other pixels, is carried unchanged: viewers ignore it.
    """
    kind = profile[16:20]
    if len(profile) <= icc.HEADER:
        return Space("unusable profile", profile)
    if kind not in (b"RGB ", b"GRAY"):
        raise ColorsError(f"its profile is for {kind.decode('latin-1').strip()} pixels")
    if kind == b"GRAY" and image.mode == "RGB" and not is_gray(image):
        return Space("unusable profile", profile)
    try:
        found = icc.read(profile)
    except ValueError:
        return Space("unusable profile", profile)
    if found is None:
        raise ColorsError("its profile uses tables")
    displayable = found.colorants is None or _real(found.colorants)
    if not displayable or not _near_srgb(found.curves):
        raise ColorsError("its profile has a tone curve or primaries far from those of sRGB")
    if _is_srgb(found):
        return PLAIN
    return Space(_name(found), profile)


def of_cicp(primaries: int, transfer: int) -> Space:
    """The space of H.273 code points. Raises ColorsError for HDR, linear and unknown ones."""
    # Viewers take what is not specified for sRGB.
    if primaries == UNSPECIFIED:
        primaries = BT709
    if transfer == UNSPECIFIED:
        transfer = SRGB_TRANSFER
    if primaries not in PRIMARIES:
        raise ColorsError(f"color primaries {primaries} of H.273 are not supported")
    if transfer in SRGB_LIKE:
        if primaries in (1, 5, 6, 7):  # BT.709's, and those of older television standards, which differ little
            return PLAIN
        curve = _srgb_tag()
    elif transfer in POWERS:
        curve = icc.parametric(POWERS[transfer])
    else:
        raise ColorsError(f"transfer characteristics {transfer} of H.273 (HDR, linear or log) are not supported")
    white = FILM_WHITE if primaries == 11 else D65
    name = DISPLAY_P3 if primaries == DISPLAY_P3_CODE else f"H.273 primaries {primaries}"
    return Space(name, icc.build(name, white, np.array(PRIMARIES[primaries]).reshape(3, 2), curve))


def of_chromaticities(values: tuple[float, ...] | None, gamma: float | None) -> Space:
    """The space of PNG's cHRM (x and y of white, red, green, blue) and gAMA (the exponent of encoding).

    Raises ColorsError if the gamma is far from sRGB's, or the primaries are invalid.
    """
    chromaticities = values or SRGB_CHROMATICITIES
    exponent = None
    if gamma:
        exponent = 1 / gamma
    near = exponent is None or 2.15 <= exponent <= 2.25  # 2.2 stands for sRGB's curve in PNG
    if near and _close(chromaticities, SRGB_CHROMATICITIES, SAME_CHROMATICITY):
        return PLAIN
    points = np.array(chromaticities).reshape(4, 2)
    # XYZ divides by y, and primaries on a line span no colors.
    triangle = abs(float(np.linalg.det(np.c_[points[1:], np.ones(3)])))
    if not (points[:, 1] > 0.01).all() or triangle < 1e-3:
        raise ColorsError("its chromaticities are invalid")
    curve = _srgb_tag()
    if exponent is not None:
        x = np.linspace(0, 1, CURVE_POINTS)
        if not _near_srgb((np.asarray(x**exponent),)):
            raise ColorsError(f"its gamma of {gamma:.3f} is far from that of sRGB")
        curve = icc.parametric(exponent)
    name = "chromaticities of its file"
    if _close(chromaticities, ADOBE_CHROMATICITIES, SAME_CHROMATICITY):
        name = ADOBE_RGB
    white = (float(points[0, 0]), float(points[0, 1]))
    return Space(name, icc.build(name, white, points[1:], curve))


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Converts RGB or gray pixels with a profile to sRGB (H, W, 3); gray stays gray. Unchanged on failure."""
    kind = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}.get(profile[16:20])
    if kind is None:
        return image.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        target = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image.convert(kind), source, target, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image.convert("RGB")  # viewers ignore a profile that they cannot read
    return cast(Image.Image, converted)


def is_gray(image: Image.Image) -> bool:
    """Whether the three channels of RGB pixels are equal everywhere."""
    pixels = np.asarray(image)
    return pixels.ndim == 2 or bool((pixels == pixels[..., :1]).all())


def _near_srgb(curves: tuple[Curve, ...]) -> bool:
    return all(float(np.abs(curve - srgb_curve()).max()) <= LARGEST_DEVIATION for curve in curves)


def _real(colorants: NDArray[np.float64]) -> bool:
    """Whether all primaries are plausible for a display: within BT.2020's, with some tolerance.

    ProPhoto's are not: 8 bits would be spent on colors that no display shows.
    """
    adapted = np.linalg.inv(_to_d50()) @ colorants
    total = adapted.sum(axis=0)
    if (np.abs(total) < 1e-9).any():
        return False
    points = (adapted[:2] / total).T
    # Barycentric coordinates: a point outside the triangle has a negative one.
    weights = np.linalg.solve(np.c_[WIDEST, np.ones(3)].T, np.c_[points, np.ones(3)].T)
    return bool((weights > -0.03).all())


def _is_srgb(found: icc.MatrixProfile) -> bool:
    """Whether a profile says no more than sRGB, up to rounding."""
    deviation = max(float(np.abs(curve - srgb_curve()).max()) for curve in found.curves)
    if deviation > 0.004:
        return False
    if found.colorants is None:
        return True
    return bool(np.abs(found.colorants - _colorants_d50(PRIMARIES[BT709])).max() <= 0.003)


def _name(found: icc.MatrixProfile) -> str:
    if found.colorants is None:
        return "gray"
    named = ((DISPLAY_P3, PRIMARIES[DISPLAY_P3_CODE]), (ADOBE_RGB, ADOBE_PRIMARIES), (SRGB, PRIMARIES[BT709]))
    for name, primaries in named:
        if np.abs(found.colorants - _colorants_d50(primaries)).max() <= 0.005:
            return name
    return "RGB of its profile"


def _colorants_d50(primaries: tuple[float, ...]) -> NDArray[np.float64]:
    """XYZ of primaries with the white D65, relative to D50 as in profiles."""
    return np.asarray(_to_d50() @ icc.colorants(D65, np.array(primaries).reshape(3, 2)))


def _to_d50() -> NDArray[np.float64]:
    return icc.adaptation(D65)


def _srgb_tag() -> bytes:
    return icc.parametric(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def _close(values: tuple[float, ...], expected: tuple[float, ...], within: float) -> bool:
    return all(abs(value - other) <= within for value, other in zip(values, expected, strict=True))
