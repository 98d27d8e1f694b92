"""A run of the trainer: the stages in order, and the export of their bundle."""

import gc
import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import codec.support.torchvision_shim  # noqa: F401

import torch
from accelerate import Accelerator
from torch.utils.tensorboard import SummaryWriter

from codec.bundle import Bundle, write_bundle
from codec.diffusion.backbone import Backbone
from codec.entropy.entroformer import Entroformer
from codec.errors import SettingsError
from codec.quantization.estimator import ParameterEstimator
from codec.training.card import write_card
from codec.training.data import BatchSource, CropSampler, ShardedImages
from codec.training.draws import Draws
from codec.training.end_to_end import EndToEndStage
from codec.training.evaluation import averages, evaluate_bundle
from codec.training.latents import CachedLatents
from codec.training.memory import does_not_fit, peak_gib
from codec.training.pretraining import AutoencoderStage, DecoderStage, UNetStage
from codec.training.recomputation import checkpoint_gradients
from codec.training.settings import StageName, StageSettings, TrainingSettings, to_json
from codec.training.stages import AdapterStage, EntropyStage
from codec.training.trainer import EVERY_TERM, Stage, Trainer
from codec.training.workspace import Workspace, measure_latents, put_in_place, recovered

PATCH_CROPS = 64
"""Number of crops whose patches initialize a new autoencoder."""
STATISTICS_CROPS = 4096
"""Number of crops for latent statistics: with a few dozen the deviation is off by a tenth."""
Scalar = Callable[[str, float, int], None]
"""Logs a value of this name at a step."""
log = logging.getLogger("codec.training")


def has_bfloat16() -> bool:
    """Whether the training's device computes bfloat16 natively: emulated, a step takes 11 to 60 times as long."""
    if torch.accelerator.is_available():
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _ignored(name: str, value: float, step: int) -> None:
    """Takes the scalars of processes that do not log."""


@dataclass(frozen=True)
class Networks:
    """What the stages train, or train on."""

    backbone: Backbone
    entropy: Entroformer
    estimator: ParameterEstimator


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
        # convolutions only: the entropy model has none behind its hyper-encoder
        torch.backends.cudnn.allow_tf32 = settings.tf32
        torch.backends.cuda.matmul.allow_tf32 = False  # the entropy model's grids need float32's full precision
        output.mkdir(parents=True, exist_ok=True)
        self.images = ShardedImages(data)
        self.held_out = ShardedImages(held_out) if held_out else self.images
        self.workspace = Workspace(output, settings, self.accelerator.device)

    @property
    def exact_device(self) -> torch.device:
        """The training's device, where that computes in float64 as the exact entropy model does; else the CPU."""
        device: torch.device = self.accelerator.device
        return device if device.type == "cuda" else torch.device("cpu")

    def train(self, names: Sequence[StageName]) -> bool:
        """Runs the stages in order and skips finished ones. Returns False if the time ran out."""
        if self.accelerator.is_main_process:
            (self.output / "settings.json").write_text(to_json(self.settings) + "\n")
        for name in names:
            steps = self.settings.stages[name].steps
            if self._is_done(name):
                log.info("stage %s: all %d steps are done", name, steps)
                continue
            log.info("stage %s: %d steps", name, steps)
            if not self._stage(name, self.settings.stages[name]):
                log.info("stage %s: time limit reached; run the same command to continue", name)
                return False
            self._let_go()
            # no process may begin the next stage before the main process has saved this one's results
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process:
                self._done(name).write_text(str(steps))
            self.accelerator.wait_for_everyone()
        return True

    def dry(self, names: Sequence[StageName]) -> dict[str, float]:
        """Makes one step of each unfinished stage, keeps no result, and returns each step's peak memory in GiB.

        Raises SettingsError if a stage does not fit in memory, or lacks an entropy model that none before it trains.
        """
        peaks: dict[str, float] = {}
        device = self.accelerator.device
        has_entropy = self.workspace.has("entropy")
        for name in names:
            settings = self.settings.stages[name]
            if name in ("adapter", "joint", "end_to_end") and not has_entropy:
                raise SettingsError(f"the {name} stage needs a trained entropy model: run the entropy stage first")
            has_entropy = has_entropy or name == "entropy"
            if self._is_done(name):
                continue
            step = partial(self._dry_step, name, settings)
            processes = self.accelerator.num_processes
            try:
                peaks[name] = peak_gib(step, device)
            except MemoryError as error:
                raise does_not_fit(name, settings, processes, str(error)) from error
            self._let_go()
            limit = self.settings.memory_gib
            if 0 < limit < peaks[name]:
                why = f"a step needs {peaks[name]:.2f} GiB, memory_gib is {limit:g}"
                raise does_not_fit(name, settings, processes, why)
            log.info("stage %s: a step needs %.2f GiB of memory", name, peaks[name])
        if peaks and self.accelerator.is_main_process:
            record = {"device": str(device), "peak_gib": peaks}
            (self.output / "memory.json").write_text(json.dumps(record, indent=1) + "\n")
        return peaks

    def _dry_step(self, name: StageName, settings: StageSettings) -> None:
        stage = self._built(name, settings, self._networks(settings))
        self._trainer(name, settings, stage, self._crops(settings), _ignored).dry_step()

    def _let_go(self) -> None:
        """Frees the networks of a stage that has ended."""
        self.accelerator.free_memory()
        gc.collect()  # accelerate collects garbage before it lets go of its own references

    def _is_done(self, name: StageName) -> bool:
        """Whether a stage has made all its steps; settings with more steps continue a finished stage."""
        done = self._done(name)
        if not done.exists():
            return False
        steps = done.read_text()
        # empty after a kill or on a full disk: then the stage ends again from its last checkpoint
        return steps.isdecimal() and int(steps) >= self.settings.stages[name].steps

    def _done(self, name: StageName) -> Path:
        return self.output / "checkpoints" / f"{name}.done"

    def _stage(self, name: StageName, settings: StageSettings) -> bool:
        crops = self._crops(settings)
        networks = self._networks(settings)
        stage = self._built(name, settings, networks)
        source: BatchSource = crops
        if settings.cached_batches and name in ("unet", "entropy"):
            source = self._cached(crops, networks.backbone, settings)
        scalar: Scalar = _ignored
        if self.accelerator.is_main_process:
            scalar = SummaryWriter(str(self.output / "tensorboard")).add_scalar
        trainer = self._trainer(name, settings, stage, source, scalar)
        # expectations are those of the networks before the first step; a checkpoint has them
        if isinstance(stage, EndToEndStage) and not trainer.checkpoint.index.exists():
            stage.calibrate(self._calibration(crops, settings.calibration_crops))
        if not trainer.run():
            return False
        if self.accelerator.is_main_process:
            self._save(name, crops, networks)
        return True

    def _networks(self, settings: StageSettings) -> Networks:
        """The networks as earlier stages left them."""
        workspace = self.workspace
        backbone = workspace.backbone(self._patches)
        networks = Networks(backbone, workspace.entropy(), workspace.estimator())
        if settings.checkpoint_gradients:
            checkpoint_gradients(backbone, networks.entropy)
        return networks

    def _built(self, name: StageName, settings: StageSettings, networks: Networks) -> Stage:
        config = self.workspace.config
        backbone = networks.backbone
        entropy = networks.entropy
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
                return AdapterStage(settings, backbone, entropy, networks.estimator, joint=name == "joint")
            case "end_to_end":
                return EndToEndStage(settings, backbone, entropy, alpha_at_one=config.alpha_at_one)

    def _save(self, name: StageName, crops: CropSampler, networks: Networks) -> None:
        """Saves the networks that a stage has trained."""
        workspace = self.workspace
        backbone = networks.backbone
        if name in ("autoencoder", "end_to_end"):  # the encoder's latents have other statistics now
            backbone.autoencoder.to(self.accelerator.device)
            backbone = measure_latents(backbone, self._batches(crops, STATISTICS_CROPS))
        if name in ("autoencoder", "unet", "decoder", "end_to_end"):
            workspace.save_backbone(backbone)
        if name in ("entropy", "joint", "end_to_end"):
            workspace.save("entropy", networks.entropy)
        if name in ("adapter", "joint"):
            workspace.save("estimator", networks.estimator)

    def _crops(self, settings: StageSettings, images: ShardedImages | None = None) -> CropSampler:
        return CropSampler(
            images or self.images,
            seed=self.settings.seed,
            batch_size=settings.batch_size,
            crop_size=settings.crop_size,
            crops_per_image=settings.crops_per_image,
        )

    def _cached(self, crops: CropSampler, backbone: Backbone, settings: StageSettings) -> CachedLatents:
        folder = self.output / "latents"
        limit = self.settings.cache_gib
        return CachedLatents(crops, backbone, settings.cached_batches, folder, self.accelerator, limit_gib=limit)

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

    def _trainer(
        self, name: str, settings: StageSettings, stage: Stage, source: BatchSource, scalar: Scalar
    ) -> Trainer:
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
        # an embedded backbone was rounded when it was stored; a foreign one is the one in memory
        own = None if bundle.config.backbone_source == "embedded" else backbone
        rows = evaluate_bundle(bundle, photos, settings.evaluation_qualities, device=self.exact_device, backbone=own)
        table = averages(rows)
        (self.output / "evaluation.json").write_text(json.dumps(table, indent=1) + "\n")
        (folder / "CARD.md").write_text(write_card(bundle, settings, self.images, table))
        put_in_place(folder, target)
        return Bundle.open(target)
