"""Writes the model card of a trained bundle: how it was trained, and its measurements."""

import dataclasses
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import torch

from codec.bundle import Bundle
from codec.training.data import ShardedImages
from codec.training.settings import StageSettings, TrainingSettings


def write_card(
    bundle: Bundle, settings: TrainingSettings, images: ShardedImages, table: Sequence[Mapping[str, object]]
) -> str:
    """Markdown: identity, data, settings of every stage, machine, and the held-out measurements."""
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    if torch.cuda.is_available():
        machine += f", {torch.cuda.get_device_name()}"
    lines = [
        f"# {settings.name}",
        "",
        f"Bundle id `{bundle.id}`, backbone `{bundle.config.backbone_hash[:16]}`, {datetime.now(UTC):%Y-%m-%d}.",
        "",
        *(f"- {name}: {text}" for name, text in settings.details.items()),
        f"- photos seen: {len(images)}",
        f"- machine: {machine}",
        f"- made with `accelerate launch -m codec.training` and the settings listed here (seed {settings.seed})",
        "",
        *_stages(settings),
        "Held-out photos, whole files, means:",
        "",
        "| lambda | photos | bpp | PSNR | MS-SSIM | LPIPS (alex) | DISTS | timestep | hyper-latent's share |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    columns = ("quality", "photos", "bpp", "psnr_db", "ms_ssim", "lpips", "dists", "timestep", "hyper_share")
    for row in table:
        cells = [str(row[name]) for name in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _stages(settings: TrainingSettings) -> list[str]:
    """The table of stages; empty if a bundle was continued without training."""
    rows = [f"| {name} | {stage.steps} | {_changes(stage)} |" for name, stage in settings.stages.items()]
    if not rows:
        return []
    return ["| stage | steps | other than the defaults |", "|---|---|---|", *rows, ""]


def _changes(stage: StageSettings) -> str:
    """The settings of a stage that are not the defaults of codec/training/settings.py."""
    defaults = dataclasses.asdict(StageSettings(steps=stage.steps))
    chosen = dataclasses.asdict(stage)
    changes = [f"{name} {value}" for name, value in chosen.items() if value != defaults[name]]
    return ", ".join(changes) or "none"
