"""Colors: what a file says is honored, and pixels are coded only in a space that is near sRGB's."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from codec.color import icc, spaces
from codec.color.spaces import ADOBE_PRIMARIES, D65, PLAIN, PRIMARIES, ColorsError
from codec.containers.writing import write
from codec.images import Picture

RAMP = Image.fromarray(np.stack(np.meshgrid(*[np.arange(0, 256, 17, dtype=np.uint8)] * 3), -1).reshape(64, 64, 3))
PROPHOTO = (0.7347, 0.2653, 0.1596, 0.8404, 0.0366, 0.0001)


def rgb(primaries: tuple[float, ...], curve: bytes, white: tuple[float, float] = D65) -> bytes:
    return icc.build("made here", white, np.array(primaries).reshape(3, 2), curve)


def lcms(profile: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return np.asarray(ImageCms.profileToProfile(RAMP, source, ImageCms.createProfile("sRGB"), outputMode="RGB"))


def test_a_profile_built_for_srgb_moves_no_color_in_a_second_implementation() -> None:
    assert np.abs(lcms(rgb(PRIMARIES[1], spaces._srgb_tag())).astype(int) - np.asarray(RAMP)).max() <= 1


def test_profiles_built_for_p3_are_the_p3_of_a_second_implementation() -> None:
    """Each color through our matrices and lcms's own engine agree to one level."""
    space = spaces.of_cicp(12, 13)
    assert space.profile is not None
    linear = spaces.srgb_curve()[np.rint(np.asarray(RAMP) / 255 * (icc.CURVE_POINTS - 1)).astype(int)]
    to_srgb = np.linalg.inv(icc.colorants(D65, np.array(PRIMARIES[1]).reshape(3, 2)))
    light = linear @ (to_srgb @ icc.colorants(D65, np.array(PRIMARIES[12]).reshape(3, 2))).T
    light = light.clip(0, 1)
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(lcms(space.profile).astype(int) - np.rint(255 * encoded)).max() <= 2


@pytest.mark.parametrize(
    ("primaries", "transfer", "name"), [(1, 13, "sRGB"), (1, 1, "sRGB"), (2, 2, "sRGB"), (12, 13, "Display P3")]
)
def test_code_points_give_their_space(primaries: int, transfer: int, name: str) -> None:
    assert spaces.of_cicp(primaries, transfer).name == name


@pytest.mark.parametrize("transfer", [8, 9, 10, 16, 18, 12])
def test_hdr_linear_and_log_code_points_are_refused(transfer: int) -> None:
    with pytest.raises(ColorsError, match="not supported"):
        spaces.of_cicp(9, transfer)


def test_adobe_rgb_and_p3_are_coded_with_their_own_profile() -> None:
    for primaries, curve, name in (
        (ADOBE_PRIMARIES, icc.parametric(2.2), "Adobe RGB"),
        (PRIMARIES[12], spaces._srgb_tag(), "Display P3"),
    ):
        profile = rgb(primaries, curve)
        space = spaces.of_profile(profile, RAMP)
        assert (space.name, space.profile) == (name, profile)


def test_srgb_profiles_need_not_be_carried() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert spaces.of_profile(profile, RAMP) is PLAIN


@pytest.mark.parametrize(
    ("profile", "why"),
    [
        (rgb(PRIMARIES[1], icc.parametric(1.0)), "tone curve"),
        (rgb(PROPHOTO, icc.parametric(1.8), (0.3457, 0.3585)), "primaries"),
        (rgb(PRIMARIES[1], icc.parametric(3.2)), "tone curve"),
    ],
)
def test_linear_and_wider_than_any_display_are_refused(profile: bytes, why: str) -> None:
    with pytest.raises(ColorsError, match=why):
        spaces.of_profile(profile, RAMP)


def test_a_profile_of_tables_is_refused() -> None:
    profile = rgb(PRIMARIES[12], spaces._srgb_tag()).replace(b"desc", b"A2B0", 1)
    with pytest.raises(ColorsError, match="tables"):
        spaces.of_profile(profile, RAMP)


@pytest.mark.parametrize("length", [0, 20, 100, 131, 200, 400])
def test_a_profile_cut_anywhere_is_carried_and_changes_nothing(length: int) -> None:
    profile = rgb(PRIMARIES[12], spaces._srgb_tag())[:length]
    assert spaces.of_profile(profile, RAMP).profile == profile


def test_chromaticities_of_srgb_are_srgb_and_those_of_adobe_get_a_profile() -> None:
    assert spaces.of_chromaticities((*D65, *PRIMARIES[1]), 0.45455) is PLAIN
    assert spaces.of_chromaticities(None, None) is PLAIN
    space = spaces.of_chromaticities((*D65, *ADOBE_PRIMARIES), 1 / 2.2)
    assert space.name == "Adobe RGB"
    assert space.profile is not None
    assert spaces.of_profile(space.profile, RAMP).name == "Adobe RGB"


@pytest.mark.parametrize(("values", "gamma"), [(None, 1.0), ((0.0,) * 8, None), ((0.3,) * 8, None)])
def test_impossible_chromaticities_and_linear_gamma_are_refused(
    values: tuple[float, ...] | None, gamma: float | None
) -> None:
    with pytest.raises(ColorsError):
        spaces.of_chromaticities(values, gamma)


def test_curves_of_every_kind_are_read() -> None:
    samples = struct.pack(">4sII", b"curv", 0, 5) + struct.pack(">5H", 0, 4000, 15000, 35000, 65535)
    power = struct.pack(">4sIIH", b"curv", 0, 1, round(2.2 * 256))
    x = np.linspace(0, 1, icc.CURVE_POINTS)
    assert np.allclose(icc._curve(power), x**2.2, atol=1e-3)
    assert np.allclose(icc._curve(icc.parametric(2.2)), x**2.2, atol=1e-4)
    assert np.allclose(icc._curve(spaces._srgb_tag()), spaces.srgb_curve(), atol=1e-4)
    assert np.allclose(icc._curve(samples)[[0, -1]], [0, 1])
    assert np.allclose(icc._curve(b"curv" + bytes(8)), x)


@pytest.mark.parametrize(
    ("profile", "what"),
    [
        (spaces.of_cicp(12, 13).profile, "Display P3 by its code points"),
        (
            spaces.of_chromaticities((0.3127, 0.329, *ADOBE_PRIMARIES), 1 / 2.2).profile,
            "Adobe RGB by its chromaticities",
        ),
        (rgb(PRIMARIES[9], icc.parametric(2.2)), "BT.2020 with a tone curve of a display"),
    ],
)
def test_a_viewer_shows_what_was_built_as_our_own_conversion_does(profile: bytes, what: str, tmp_path: Path) -> None:
    """libvips reads a PNG with the profile and converts it by its own pipeline: equal to one level."""
    pyvips = pytest.importorskip("pyvips", reason="no pyvips: pip install pyvips-binary pyvips")
    written = write(Picture(np.asarray(RAMP), False, icc=profile), "png")
    (tmp_path / "p.png").write_bytes(written)
    shown = pyvips.Image.new_from_file(str(tmp_path / "p.png")).icc_transform("srgb", intent="relative", embedded=True)
    ours = np.asarray(spaces.to_srgb(RAMP, profile)).astype(int)
    assert np.abs(shown.numpy().astype(int)[..., :3] - ours).max() <= 1, what
