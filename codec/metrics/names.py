"""What can be measured of a reconstruction, by the names that settings give it. Imports no network."""

from collections.abc import Collection, Mapping

from codec.errors import SettingsError

FIELDS: Mapping[str, str] = {
    "psnr": "psnr_db",
    "ms-ssim": "ms_ssim",
    "lpips": "lpips",
    "lpips-vgg": "lpips_vgg",
    "dists": "dists",
}
"""The metrics, each with its field of codec.metrics.quality.Quality."""
COSTLY = ("lpips-vgg", "dists")
"""Those that run a VGG16: on a processor each costs more than encoding, verifying and all others together."""
NOT_MEASURED, UNSAMPLED = "not asked for", "not in the sample"
"""Why a metric of a picture is left out."""
DEFAULT = ("psnr", "ms-ssim", "lpips")
ALL, NONE = "all", "none"


def chosen(names: Collection[str]) -> tuple[str, ...]:
    """The metrics that are named, in order and once each; `all` and `none` stand alone. Raises SettingsError."""
    if unknown := [name for name in names if name not in (*FIELDS, ALL, NONE)]:
        raise SettingsError(f"metrics knows {', '.join(FIELDS)}, {ALL} and {NONE}, not {unknown[0]!r}")
    if NONE in names:
        if len(names) > 1:
            raise SettingsError(f"metrics {NONE} cannot be combined with others")
        return ()
    return tuple(name for name in FIELDS if name in names or ALL in names)
