"""The report of an evaluation folder: report.parquet, report.md, and the figures curves and published."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np

from codec import published
from codec.baselines.ours import NAME
from codec.comparison import Comparison, markdown
from codec.errors import SettingsError
from codec.evaluation import Evaluation, setting_name, write_parquet
from codec.realism import NETWORK, PATCH, kernel_distance

TABLE = (0.05, 0.10, 0.15, 0.20, 0.25, 0.30)
"""Bits per pixel at which the report compares."""


def write_report(
    folder: Path, *, missing: Mapping[str, str], ours: str | None = None, rates: Sequence[float] = TABLE
) -> str:
    """Write the report of all rows in the folder and return its Markdown; `missing` says which codecs did not run.

    `ours` is compared with all others (default: this codec, if it was measured with one bundle). Raises SettingsError
    where nothing was measured, or several bundles were and none is chosen.
    """
    kept = Evaluation(folder)
    compared = Comparison(kept.rows())
    if not compared.rows or (ours is not None and ours not in compared.codecs):
        raise SettingsError(f"{folder} has no rows of {ours or 'any codec'}: measure it first")
    candidates = [name for name in compared.codecs if name.startswith(f"{NAME}-")]
    if ours is None and len(candidates) > 1:
        raise SettingsError(f"several bundles were measured; choose one: {', '.join(candidates)}")
    ours = ours or next(iter(candidates), None)
    realism = realism_of(kept, compared)
    text = "# Evaluation\n\n" + markdown(compared, rates, ours) + _realism(realism) + _published(compared, ours)
    if missing:
        text += "\n## Unavailable\n\n" + "".join(f"- {name}: {reason}\n" for name, reason in missing.items())
    write_parquet(compared.rows, folder / "report.parquet")
    (folder / "report.md").write_text(text)
    if compared.codecs:
        from codec import plots  # matplotlib is an extra, and slow to import

        plots.draw_curves(compared, realism, folder / "curves", ours)
        if ours and _measured_of_table(compared, ours):
            plots.draw_published(compared, folder / "published", ours)
    return text


def realism_of(kept: Evaluation, compared: Comparison) -> list[tuple[str, float, float]]:
    """(codec, mean bpp, KID) at every point at which a codec has all pictures that are as large as a patch."""
    features = {(c, image): kept.features(c, image) for c in compared.codecs for image in compared.images}
    large = {image for (_, image), found in features.items() if found}
    curves = []
    for (codec, *_), rows in compared.points().items():
        of_image = {row["image"]: row for row in rows if row["bpp"] is not None and features.get((codec, row["image"]))}
        if not large or set(of_image) != large:
            continue
        pairs = []
        for image, row in of_image.items():
            found = features[codec, image] or {}
            pairs.append((found["original"], found[setting_name(row["setting"])]))
        distance = kernel_distance(*(np.concatenate(side) for side in zip(*pairs, strict=True)))
        if distance is not None:
            curves.append((codec, fmean(row["bpp"] for row in of_image.values()), distance))
    return curves


def _realism(realism: Sequence[tuple[str, float, float]]) -> str:
    title = f"\n## Kernel distance of {PATCH} px patches\n\n"
    if not realism:
        return title + f"None: no picture has a whole patch of {PATCH} x {PATCH} pixels, or rows are missing.\n"
    note = f"KID x 1000 with features of {NETWORK} (ImageNet weights), not Inception: no match for published figures.\n"
    table = "\n| codec | mean bpp | KID x 1000 |\n|---|---|---|\n"
    return title + note + table + "".join(f"| {c} | {bpp:.4f} | {1000 * value:.2f} |\n" for c, bpp, value in realism)


def _published(compared: Comparison, ours: str | None) -> str:
    if ours is None or not _measured_of_table(compared, ours):
        return ""
    lines = [
        "",
        "## Published bit rates",
        "",
        f"{published.SOURCE}: bits per pixel of the codecs in its user study, not",
    ]
    lines += [
        "measured here; it gives no qualities. Last column: this codec's files, from its first point to its last."
    ]
    lines += ["", f"| photo | {' | '.join(published.BITS_PER_PIXEL)} | {ours} |"]
    lines += ["|---" * (2 + len(published.BITS_PER_PIXEL)) + "|"]
    for number, photo in enumerate(published.PHOTOS):
        figures = " | ".join(f"{values[number]:g}" for values in published.BITS_PER_PIXEL.values())
        rates = [r["bpp"] for r in compared.measured if r["codec"] == ours and Path(r["image"]).stem == photo]
        lines.append(f"| {photo} | {figures} | {f'{min(rates):.4f} to {max(rates):.4f}' if rates else '-'} |")
    return "\n".join(lines) + "\n"


def _measured_of_table(compared: Comparison, ours: str) -> bool:
    return any(r["codec"] == ours and Path(r["image"]).stem in published.PHOTOS for r in compared.measured)
