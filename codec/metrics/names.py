"""Names of the metrics, as used in settings. Imports no network."""

from collections.abc import Collection, Mapping

from codec.errors import SettingsError

FIELDS: Mapping[str, str] = {
    "psnr": "psnr_db",
    "ms-ssim": "ms_ssim",
    "lpips": "lpips",
    "lpips-vgg": "lpips_vgg",
    "dists": "dists",
}
"""Maps each metric to its field of codec.metrics.quality.Quality."""
COSTLY = ("lpips-vgg", "dists")
"""Metrics that run a VGG16. On a CPU each costs more than encoding, verification and all other metrics together."""
NOT_MEASURED = "not asked for"
"""Reason for not measuring a metric of a picture."""
UNSAMPLED = "not in the sample"
"""Reason for not measuring a costly metric of a picture."""
DEFAULT = ("psnr", "ms-ssim", "lpips")
ALL = "all"
NONE = "none"


def chosen(names: Collection[str]) -> tuple[str, ...]:
    """Resolves metric names, in order and without duplicates; `all` and `none` stand alone. Raises SettingsError."""
    for name in names:
        if name not in FIELDS and name not in (ALL, NONE):
            raise SettingsError(f"metrics knows {', '.join(FIELDS)}, {ALL} and {NONE}, not {name!r}")
    if NONE in names:
        if len(names) > 1:
            raise SettingsError(f"metrics {NONE} cannot be combined with others")
        return ()
    # In the order of FIELDS, so that the same metrics are the same setting however they are listed.
    return tuple(name for name in FIELDS if name in names or ALL in names)
