"""The experiments of the method's supplement, each repeated with this codec: a figure and what it says in numbers."""

import importlib
from collections.abc import Sequence
from pathlib import Path

from codec.contest import Contest
from codec.errors import SettingsError
from codec.evaluation import pictures_of

EXPERIMENTS = ("one_step", "timesteps", "quantization_error", "sheets")
"""Fig. 1; Fig. 4 and section E; section C; Figs. 5 to 16."""


def run(name: str, contest: Contest) -> Path:
    """Make OUTPUT/experiments/BUNDLE/NAME.md and the figures it shows, unless they are there; returns that file.

    Raises SettingsError for an unknown name, and where the experiment finds nothing to show.
    """
    if name not in EXPERIMENTS:
        raise SettingsError(f"there is no experiment {name!r}; choose from {', '.join(EXPERIMENTS)}")
    from codec.codec import Codec

    codec = Codec.load(contest.bundle or None, device=contest.device, backbone=contest.backbone or None)
    folder = folder_of(Path(contest.output), codec.bundle.id)
    said = folder / f"{name}.md"
    if not said.exists():
        folder.mkdir(parents=True, exist_ok=True)
        pictures = [Path(contest.pictures) / image for image in pictures_of(Path(contest.pictures))]
        text = importlib.import_module(f"codec.experiments.{name}").run(codec, pictures, folder)
        partial = said.with_suffix(".partial")
        partial.write_text(text)
        partial.replace(said)
    return said


def folder_of(output: Path, bundle_id: str) -> Path:
    """Where the experiments with a bundle are."""
    return output / "experiments" / bundle_id[:8]


def spread(pictures: Sequence[Path], count: int) -> list[Path]:
    """So many of the pictures, evenly spaced."""
    kept = min(count, len(pictures))
    return [pictures[place * len(pictures) // kept] for place in range(kept)]
