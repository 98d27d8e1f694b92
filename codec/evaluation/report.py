"""The report of an evaluation folder: report.parquet, report.md, index.html, and the figures curves and published."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
from markdown_it import MarkdownIt

from codec.errors import SettingsError
from codec.evaluation import plots, published
from codec.evaluation.baselines.ours import NAME
from codec.evaluation.experiments import folder_of
from codec.evaluation.runner import Evaluation, setting_name, write_parquet
from codec.evaluation.tables import Comparison, markdown, plain
from codec.metrics.kernel_distance import NETWORK, PATCH, Features, kernel_distance

TABLE = (0.07, 0.10, 0.15, 0.20)
"""Bits per pixel at which the report compares."""
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src * file:">
<title>Evaluation</title>
<style>
  :root { color-scheme: light dark; }
  body { font: 16px/1.5 system-ui, sans-serif; margin: 1.5rem auto; max-width: 72rem; padding: 0 1rem; }
  table { border-collapse: collapse; display: block; overflow-x: auto; font-size: 0.85rem; }
  th, td { border-bottom: 1px solid #8884; padding: 0.2rem 0.6rem; text-align: left; white-space: nowrap; }
  img { background: white; border-radius: 4px; height: auto; max-width: 100%; }
  li { overflow-wrap: anywhere; }
</style>
"""


def write_report(folder: Path, codecs: Sequence[str], missing: Mapping[str, str]) -> str:
    """Writes the report of the folder's rows of these codecs, with the available experiments, and returns its Markdown.

    `missing` maps codecs that did not run to the reason. Raises SettingsError if nothing was measured.
    """
    evaluation = Evaluation(folder)
    # The folder may hold rows of other bundles and of codecs that were not asked for.
    compared = Comparison(row for row in evaluation.rows() if row["codec"] in codecs)
    if not compared.rows:
        raise SettingsError(f"{folder} has no rows of {', '.join(codecs) or 'any codec'}")
    ours = _ours(compared)
    realism = realism_of(evaluation, compared)
    curves = "![Rate-distortion curves](curves.png)" if compared.codecs else ""
    text = "# Evaluation\n\n" + markdown(compared, TABLE, ours, curves)
    if curves:
        plots.draw_curves(compared, realism, folder / "curves", ours)
    text += _realism(realism)
    if ours and _measured_of_table(compared, ours):
        plots.draw_published(compared, folder / "published", ours)
        text += _published(compared, ours)
    if missing:
        text += "\n## Unavailable\n\n"
        for name, reason in missing.items():
            text += f"- {plain(name)}: {plain(reason)}\n"
    if ours:
        text += _experiments(folder, ours)
    write_parquet(compared.rows, folder / "report.parquet")
    (folder / "report.md").write_text(text)
    # Without HTML from the text: names of pictures and messages of codecs are in it.
    renderer = MarkdownIt("commonmark", {"html": False}).enable("table")
    (folder / "index.html").write_text(PAGE + renderer.render(text))
    return text


def _ours(compared: Comparison) -> str | None:
    """The name of this codec in the rows, which ends with its bundle's id; None if it has no files."""
    for name in compared.codecs:
        if name.startswith(f"{NAME}-"):
            return name
    return None


def _experiments(folder: Path, ours: str) -> str:
    """The pages of the bundle's experiments, their links prefixed with the folder that they are in."""
    text = ""
    bundle_id = ours.removeprefix(f"{NAME}-")
    for page in sorted(folder_of(folder, bundle_id).glob("*.md")):
        location = page.parent.relative_to(folder).as_posix()
        text += "\n" + page.read_text().replace("](", f"]({location}/")
    return text


def realism_of(evaluation: Evaluation, compared: Comparison) -> list[tuple[str, float, float]]:
    """(codec, mean bpp, KID) at every point at which a codec has all pictures that are as large as a patch."""
    features: dict[tuple[str, str], dict[str, Features]] = {}
    for codec in compared.codecs:
        for image in compared.images:
            found = evaluation.features(codec, image)
            if found:
                features[codec, image] = found
    # Pictures smaller than a patch have no features with any codec.
    large = {image for _, image in features}
    if not large:
        return []
    curves = []
    for (codec, *_), rows in compared.points().items():
        of_image = {}
        for row in rows:
            if row["bpp"] is not None and (codec, row["image"]) in features:
                of_image[row["image"]] = row
        # A set of other pictures would have another distance: such a point does not compare.
        if set(of_image) != large:
            continue
        originals = []
        decoded = []
        for image, row in of_image.items():
            found = features[codec, image]
            originals.append(found["original"])
            decoded.append(found[setting_name(row["setting"])])
        distance = kernel_distance(np.concatenate(originals), np.concatenate(decoded))
        if distance is not None:
            curves.append((codec, fmean(row["bpp"] for row in of_image.values()), distance))
    return curves


def _realism(realism: Sequence[tuple[str, float, float]]) -> str:
    title = f"\n## Kernel distance of {PATCH} px patches\n\n"
    if not realism:
        return title + f"None: fewer than two whole patches of {PATCH} x {PATCH} pixels, or rows are missing.\n"
    text = title
    text += (
        f"KID x 1000 with features of {NETWORK} (ImageNet weights), not Inception: no match for published figures.\n"
    )
    text += "\n| codec | mean bpp | KID x 1000 |\n|---|---|---|\n"
    for codec, bpp, value in realism:
        text += f"| {plain(codec)} | {bpp:.4f} | {1000 * value:.2f} |\n"
    return text


def _published(compared: Comparison, ours: str) -> str:
    lines = [
        "",
        "## Published bit rates",
        "",
        f"{published.SOURCE}: bits per pixel of the codecs in its user study, not",
        "measured here; it gives no qualities. Last column: this codec's files, from its first point to its last.",
        "",
        f"| photo | {' | '.join(published.BITS_PER_PIXEL)} | {ours} |",
        "|---" * (2 + len(published.BITS_PER_PIXEL)) + "|",
    ]
    for number, photo in enumerate(published.PHOTOS):
        figures = " | ".join(f"{values[number]:g}" for values in published.BITS_PER_PIXEL.values())
        rates = compared.rates_of(ours, photo)
        measured = f"{min(rates):.4f} to {max(rates):.4f}" if rates else "-"
        lines.append(f"| {photo} | {figures} | {measured} |")
    lines += ["", "![Published and measured bit rates](published.png)"]
    return "\n".join(lines) + "\n"


def _measured_of_table(compared: Comparison, ours: str) -> bool:
    """Whether any photo of the published table was measured with this codec."""
    return any(compared.rates_of(ours, photo) for photo in published.PHOTOS)
