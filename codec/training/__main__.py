"""accelerate launch -m codec.training SETTINGS --data TARS --output FOLDER [--stage NAME ...] [--set name=value ...]"""

import argparse
import json
import logging
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import codec.support.torchvision_shim  # noqa: F401

import torch
from accelerate import Accelerator
from torch.utils.tensorboard import SummaryWriter

from codec.bundle import Bundle, write_bundle
from codec.diffusion.backbone import Backbone
from codec.entropy.entroformer import Entroformer
from codec.errors import FdcError, SettingsError
from codec.quantization.estimator import ParameterEstimator
from codec.training.card import write_card
from codec.training.data import BatchSource, CropSampler, ShardedImages
from codec.training.draws import Draws
from codec.training.end_to_end import EndToEndStage
from codec.training.evaluation import averages, evaluate_bundle
from codec.training.latents import CachedLatents
from codec.training.pretraining import AutoencoderStage, DecoderStage, UNetStage
from codec.training.settings import StageName, StageSettings, TrainingSettings, read_settings, to_json
from codec.training.stages import AdapterStage, EntropyStage
from codec.training.trainer import EVERY_TERM, Stage, Trainer
from codec.training.workspace import Workspace, measure_latents, put_in_place, recovered

PATCH_CROPS = 64
"""Number of crops whose patches initialize a new autoencoder."""
STATISTICS_CROPS = 4096
"""Number of crops for latent statistics: with a few dozen the deviation is off by a tenth."""
log = logging.getLogger("codec.training")


def has_bfloat16() -> bool:
    """Whether the training's device computes bfloat16 natively: emulated, a step takes 11 to 60 times as long."""
    if torch.accelerator.is_available():
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _ignored(name: str, value: float, step: int) -> None:
    """Takes the scalars of processes that do not log."""


class Run:
    """One run of the trainer: the requested stages, then the export."""

    def __init__(
        self,
        settings: TrainingSettings,
        data: Sequence[Path],
        held_out: Sequence[Path],
        output: Path,
        seconds: float = math.inf,
    ) -> None:
        self.settings = settings
        self.output = output
        self.deadline = time.monotonic() + seconds
        on_cpu = not torch.accelerator.is_available()  # without this, CPU processes would train independently
        precision = settings.mixed_precision
        if precision != "no" and not has_bfloat16():
            precision = "no"
            log.info("this device has no bfloat16 arithmetic: training in float32")
        self.accelerator = Accelerator(cpu=on_cpu, mixed_precision=precision)
        torch.backends.cudnn.benchmark = True  # every batch of a stage has the same size
        torch.backends.cudnn.allow_tf32 = False  # the entropy model's grids need float32's full precision
        output.mkdir(parents=True, exist_ok=True)
        self.images = ShardedImages(data)
        self.held_out = ShardedImages(held_out) if held_out else self.images
        self.workspace = Workspace(output, settings, self.accelerator.device)

    def train(self, names: Sequence[StageName]) -> bool:
        """Runs the stages in order and skips finished ones. Returns False if the time ran out."""
        if self.accelerator.is_main_process:
            (self.output / "settings.json").write_text(to_json(self.settings) + "\n")
        for name in names:
            done = self.output / "checkpoints" / f"{name}.done"
            steps = self.settings.stages[name].steps
            # settings with more steps continue a finished stage
            if done.exists() and int(done.read_text()) >= steps:
                log.info("stage %s: all %d steps are done", name, steps)
                continue
            log.info("stage %s: %d steps", name, steps)
            if not self._stage(name, self.settings.stages[name]):
                log.info("stage %s: time limit reached; run the same command to continue", name)
                return False
            # no process may begin the next stage before the main process has saved this one's results
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process:
                done.write_text(str(steps))
            self.accelerator.wait_for_everyone()
        return True

    def _stage(self, name: StageName, settings: StageSettings) -> bool:
        workspace = self.workspace
        crops = self._crops(settings)
        backbone = workspace.backbone(self._patches)
        entropy = workspace.entropy()
        estimator = workspace.estimator()
        if name in ("adapter", "joint", "end_to_end") and not workspace.has("entropy"):
            raise SettingsError(f"the {name} stage needs a trained entropy model: run the entropy stage first")
        stage = self._built(name, settings, backbone, entropy, estimator)
        source: BatchSource = crops
        if settings.cached_batches and name in ("unet", "entropy"):
            source = self._cached(crops, backbone, settings)
        trainer = self._trainer(name, settings, stage, source)
        # expectations are those of the networks before the first step; a checkpoint has them
        if isinstance(stage, EndToEndStage) and not trainer.checkpoint.index.exists():
            stage.calibrate(self._calibration(crops, settings.calibration_crops))
        if not trainer.run():
            return False
        if self.accelerator.is_main_process:
            self._save(name, crops, backbone, entropy, estimator)
        return True

    def _built(
        self,
        name: StageName,
        settings: StageSettings,
        backbone: Backbone,
        entropy: Entroformer,
        estimator: ParameterEstimator,
    ) -> Stage:
        config = self.workspace.config
        match name:
            case "autoencoder":
                return AutoencoderStage(settings, backbone.autoencoder)
            case "unet":
                return UNetStage(settings, backbone)
            case "decoder":
                return DecoderStage(settings, backbone, dithered=config.entropy.dither)
            case "entropy":
                return EntropyStage(settings, backbone, entropy)
            case "adapter" | "joint":
                return AdapterStage(settings, backbone, entropy, estimator, joint=name == "joint")
            case "end_to_end":
                return EndToEndStage(settings, backbone, entropy, alpha_at_one=config.alpha_at_one)

    def _save(
        self,
        name: StageName,
        crops: CropSampler,
        backbone: Backbone,
        entropy: Entroformer,
        estimator: ParameterEstimator,
    ) -> None:
        """Saves the networks that a stage has trained."""
        workspace = self.workspace
        if name in ("autoencoder", "end_to_end"):  # the encoder's latents have other statistics now
            backbone.autoencoder.to(self.accelerator.device)
            backbone = measure_latents(backbone, self._batches(crops, STATISTICS_CROPS))
        if name in ("autoencoder", "unet", "decoder", "end_to_end"):
            workspace.save_backbone(backbone)
        if name in ("entropy", "joint", "end_to_end"):
            workspace.save("entropy", entropy)
        if name in ("adapter", "joint"):
            workspace.save("estimator", estimator)

    def _crops(self, settings: StageSettings, images: ShardedImages | None = None) -> CropSampler:
        return CropSampler(
            images or self.images,
            seed=self.settings.seed,
            batch_size=settings.batch_size,
            crop_size=settings.crop_size,
            crops_per_image=settings.crops_per_image,
        )

    def _cached(self, crops: CropSampler, backbone: Backbone, settings: StageSettings) -> CachedLatents:
        return CachedLatents(crops, backbone, settings.cached_batches, self.output / "latents", self.accelerator)

    def _batches(self, crops: CropSampler, count: int) -> Iterator[torch.Tensor]:
        """Batches with at least `count` crops in total, drawn differently from every training step."""
        batches = -(-count // crops.batch_size)  # rounded up
        for step in range(batches):
            yield crops.batch(-1 - step).to(self.accelerator.device)

    def _calibration(self, crops: CropSampler, count: int) -> Iterator[tuple[torch.Tensor, Draws]]:
        for number, batch in enumerate(self._batches(crops, count)):
            # draws of steps that compute every term
            yield batch, Draws(self.settings.seed, number * EVERY_TERM, device=self.accelerator.device)

    def _patches(self) -> torch.Tensor:
        """8x8 patches of a few crops, to initialize a new autoencoder's linear path."""
        sampler = CropSampler(self.images, seed=self.settings.seed, batch_size=PATCH_CROPS, crop_size=96)
        rows_of_patches = sampler.batch(0).unfold(2, 8, 8)
        patches = rows_of_patches.unfold(3, 8, 8)  # (crops, 3, 12, 12, 8, 8)
        return patches.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)

    def _trainer(self, name: str, settings: StageSettings, stage: Stage, source: BatchSource) -> Trainer:
        scalar: Callable[[str, float, int], None] = _ignored
        if self.accelerator.is_main_process:
            scalar = SummaryWriter(str(self.output / "tensorboard")).add_scalar
        return Trainer(
            name,
            settings,
            stage,
            source,
            self.accelerator,
            self.output,
            seed=self.settings.seed,
            checkpoint_every=self.settings.checkpoint_every,
            checkpoint_seconds=self.settings.checkpoint_seconds,
            scalar=scalar,
            deadline=self.deadline,
            held_out=self._crops(settings, self.held_out),
            held_out_seconds=self.settings.held_out_seconds,
        )

    def export(self) -> Bundle | None:
        """Writes the bundle and measures it on held-out photos. Does nothing without a trained entropy model.

        An earlier bundle is kept until the new one has been loaded and measured.
        """
        workspace = self.workspace
        settings = self.settings
        if not workspace.has("entropy"):
            log.info("no bundle: the entropy model is not trained yet")
            return None
        learned = workspace.has("estimator")
        if settings.parameters == "learned" and not learned:
            raise SettingsError("parameters = 'learned' needs the adapter stage; run it, or choose 'measured'")
        backbone = workspace.backbone(self._patches)
        folder = self.output / ".bundle"
        target = recovered(self.output / "bundle")
        shutil.rmtree(folder, ignore_errors=True)
        estimator = workspace.estimator() if learned else None
        entropy = workspace.entropy_to_export()
        bundle = write_bundle(folder, workspace.config, entropy, backbone=backbone, estimator=estimator)
        count = min(settings.evaluation_images, len(self.held_out))
        photos = []
        for number in range(1, count + 1):
            photos.append((self.held_out.key(-number), self.held_out.read(-number)))
        rows = evaluate_bundle(folder, photos, settings.evaluation_qualities)
        table = averages(rows)
        (self.output / "evaluation.json").write_text(json.dumps(table, indent=1) + "\n")
        (folder / "CARD.md").write_text(write_card(bundle, settings, self.images, table))
        put_in_place(folder, target)
        return Bundle.open(target)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line and runs. Returns 0, or 1 with one line on stderr for a usage error."""
    parser = argparse.ArgumentParser(prog="python -m codec.training", description=__doc__)
    parser.add_argument("settings", type=Path)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="WebDataset tars, or folders of them")
    parser.add_argument("--held-out", type=Path, nargs="+", default=[], help="tars of photos to measure on")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--stage", nargs="+", default=None, help="only these stages, in this order")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="override settings")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after so long; another call goes on")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        overrides = dict(_pair(text) for text in given.set)
        settings = read_settings(given.settings, overrides)
        names = given.stage or list(settings.stages)
        unknown = [name for name in names if name not in settings.stages]
        if unknown:
            raise SettingsError(f"stage {unknown[0]} has no settings in {given.settings}")
        run = Run(settings, given.data, given.held_out, given.output, given.seconds)
        if run.train(names) and run.accelerator.is_main_process:
            run.export()
        run.accelerator.end_training()
    except (FdcError, FloatingPointError) as error:
        print(f"codec.training: {error}", file=sys.stderr)
        return 1
    return 0


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise SettingsError(f"--set takes NAME=VALUE, not {text!r}")
    return name, value


if __name__ == "__main__":
    sys.exit(main())
