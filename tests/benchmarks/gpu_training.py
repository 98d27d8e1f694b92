"""The training part of tests.benchmarks.gpu: samples a second of each stage, and what waiting for the loader costs."""

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch.utils.flop_counter import FlopCounterMode

from codec.training import settings as training_settings
from codec.training.draws import Draws, to_device
from codec.training.run import Run
from codec.training.settings import StageName, StageSettings, TrainingSettings, read_settings
from codec.training.trainer import Trainer
from tests.benchmarks.gpu_archive import photos

FOLDER = Path(training_settings.__file__).parent / "settings"
EVERY: dict[StageName, str] = {
    "autoencoder": "mini.toml",
    "unet": "mini.toml",
    "entropy": "mini.toml",
    "decoder": "mini.toml",
    "end_to_end": "mini-gpu.toml",
    "adapter": "mini-gpu.toml",
}
"""The settings file of each stage."""


@dataclass(frozen=True)
class Form:
    """Which stages, how their settings are changed, and for how many seconds each runs."""

    photos: int
    side: int
    seconds: float
    stages: dict[StageName, str]
    changes: dict[str, Any]
    """Of every stage."""


GPU = Form(64, 1024, 12, EVERY, {"steps": 10**6})
REHEARSAL = Form(
    3,
    96,
    60,
    {"unet": "mini.toml", "end_to_end": "mini-gpu.toml"},
    {"steps": 2, "batch_size": 4, "crop_size": 32, "crops_per_image": 1, "calibration_crops": 4},
)


def rows(form: Form, home: Path, peak: float) -> Iterator[str]:
    """The table; `peak` is the rate of a large matrix product in TFLOP/s."""
    data = home / "training.tar"
    folder = photos(home / "training", form.photos, form.side)
    with tarfile.open(data, "w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)
    yield "| stage | batch | crop | samples a second | TFLOP a sample | of the matrix product | waited for the loader |"
    yield "|---|---|---|---|---|---|---|"
    for name, file in form.stages.items():
        settings = replace(read_settings(FOLDER / file), start="mini")
        own = replace(settings.stages[name], **form.changes)
        try:
            found = _measured(name, settings, own, data, home / name, form.seconds)
        except Exception as error:  # perceptual networks are fetched, which a machine by itself cannot
            if not own.perceptual and not own.structural:
                raise
            yield f"{name} without perceptual terms, since with them: {type(error).__name__}: {str(error)[:100]}"
            own = replace(own, perceptual=0.0, structural=0.0)
            found = _measured(name, settings, own, data, home / f"{name}-plain", form.seconds)
        rate, operations, waited = found
        cells = f"{rate:.1f} | {operations / 1e12:.4f} | {rate * operations / 1e12 / peak:.0%} | {waited:.0%}"
        yield f"| {name} | {own.batch_size} | {own.crop_size} | {cells} |"


def _measured(
    name: StageName, settings: TrainingSettings, own: StageSettings, data: Path, output: Path, seconds: float
) -> tuple[float, float, float]:
    """Samples a second, operations a sample, and the share of the time in which the loader was waited for."""
    settings = replace(settings, stages={name: own}, checkpoint_seconds=1e9, checkpoint_every=10**9)
    run = _Watched(settings, [data], [], output, seconds)
    run.train([name])
    lines = [json.loads(line) for line in (output / "progress.jsonl").read_text().splitlines()]
    last = next(line for line in reversed(lines) if "samples_per_second" in line)
    return last["samples_per_second"], run.operations / own.batch_size, last["waiting"]


class _Watched(Run):
    """A run that counts the operations of a step before it begins: forwards and backwards, two for each product."""

    operations = 0.0

    def _trainer(self, name: str, settings: StageSettings, stage: Any, source: Any, scalar: Any) -> Trainer:
        trainer = super()._trainer(name, settings, stage, source, scalar)
        device = self.accelerator.device
        if device.type == "cuda":
            stage.to(device)
        with FlopCounterMode(display=False) as counter:
            loss, _ = stage(to_device(source.batch(0), device), Draws(1, 0, device=device))
            cast(torch.Tensor, loss).backward()
        for parameter in trainer.parameters.values():
            parameter.grad = None
        self.operations = float(counter.get_total_flops())
        return trainer
