"""Experiments of the method's supplement, repeated with this codec: a figure and its numbers each."""

import importlib
from collections.abc import Sequence
from pathlib import Path

from codec.errors import ImageError, SettingsError
from codec.evaluation.runner import pictures_of
from codec.evaluation.spec import EvaluationConfig
from codec.images import read_image

EXPERIMENTS = ("one_step", "timesteps", "quantization_error", "sheets")
"""Fig. 1; Fig. 4 and section E; section C; Figs. 5 to 16."""


def run(name: str, config: EvaluationConfig) -> Path:
    """Makes OUTPUT/experiments/BUNDLE/NAME.md and its figures unless they exist; returns that file.

    Raises SettingsError for an unknown name, or if there is nothing to show.
    """
    if name not in EXPERIMENTS:
        raise SettingsError(f"there is no experiment {name!r}; choose from {', '.join(EXPERIMENTS)}")
    from codec.codec import Codec

    codec = Codec.load(config.bundle or None, device=config.device, backbone=config.backbone or None)
    folder = folder_of(Path(config.output), codec.bundle.id)
    said = folder / f"{name}.md"
    if not said.exists():
        folder.mkdir(parents=True, exist_ok=True)
        pictures = [Path(config.pictures) / image for image in pictures_of(Path(config.pictures))]
        text = importlib.import_module(f"codec.evaluation.experiments.{name}").run(codec, pictures, folder)
        # Renamed when whole: the page says that the experiment is done.
        partial = said.with_suffix(".partial")
        partial.write_text(text)
        partial.replace(said)
    return said


def folder_of(output: Path, bundle_id: str) -> Path:
    """Folder of a bundle's experiments."""
    return output / "experiments" / bundle_id[:8]


def spread(pictures: Sequence[Path], count: int) -> list[Path]:
    """Chooses this many pictures, evenly spaced; an unreadable one is replaced by its neighbor.

    Raises SettingsError if none is readable.
    """
    kept = min(count, len(pictures))
    found = []
    for number in range(kept):
        part = pictures[number * len(pictures) // kept : (number + 1) * len(pictures) // kept]
        picture = _first_readable(part)
        if picture is not None:
            found.append(picture)
    if not found:
        raise SettingsError(f"none of {len(pictures)} files is a readable picture")
    return found


def _first_readable(pictures: Sequence[Path]) -> Path | None:
    for picture in pictures:
        if _readable(picture):
            return picture
    return None


def _readable(picture: Path) -> bool:
    try:
        read_image(picture)
    except ImageError:
        return False
    return True
