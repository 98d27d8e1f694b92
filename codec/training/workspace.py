"""The folder of a training run, which passes results from stage to stage.

settings.json, progress.jsonl, tensorboard/, evaluation.json
checkpoints/<stage>.json            checkpoint of an interrupted stage (checkpoint.py)
backbone/                           mini backbone in diffusers layout, replaced after a stage
latents/                            latents of a stage with cached_batches (latents.py)
memory.json                         peak memory of each stage's dry step
entropy.safetensors, estimator.safetensors
bundle/                             the export
"""

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from codec.bundle import Bundle, BundleConfig
from codec.bundle_id import DEFAULT_BUNDLE
from codec.diffusion.backbone import Backbone
from codec.diffusion.mini import MiniAutoencoder, MiniUNet
from codec.diffusion.schedule import NoiseSchedule
from codec.diffusion.stable_diffusion import SD21_CONFIGURATION
from codec.entropy.entroformer import Entroformer
from codec.errors import SettingsError
from codec.quantization.estimator import AdapterSettings, ParameterEstimator
from codec.training.settings import TrainingSettings

Network = TypeVar("Network", bound=nn.Module)


def put_in_place(made: Path, target: Path) -> None:
    """Replaces a folder by another. After a kill at any point, `recovered` finds one of them complete."""
    before = _before(target)
    recovered(target)  # else a folder that a kill left aside would be deleted next
    shutil.rmtree(before, ignore_errors=True)
    if target.exists():
        target.rename(before)
    made.rename(target)
    shutil.rmtree(before, ignore_errors=True)


def recovered(target: Path) -> Path:
    """Returns the folder, moved back if put_in_place was killed between its two renames."""
    if not target.exists() and _before(target).exists():
        _before(target).rename(target)
    return target


def _before(target: Path) -> Path:
    return target.with_name(f".{target.name}-before")


@dataclass(frozen=True)
class Workspace:
    """Loads the results of earlier stages, or initializes them; saves by replacing whole files and folders."""

    folder: Path
    settings: TrainingSettings
    device: torch.device

    def backbone(self, patches: Callable[[], Tensor]) -> Backbone:
        """The run's backbone: the one in the settings, the one being trained, or a new one (see new_backbone)."""
        made = recovered(self.folder / "backbone")
        if made.exists():
            return Backbone.load(made, device=self.device)
        if self.settings.start:
            return self._start().load_backbone(device=str(self.device))
        if self.settings.backbone != "new":
            pin = self.settings.backbone_hash
            return Backbone.load(self.settings.backbone, device=self.device, content_hash=pin)
        return new_backbone(patches(), self.settings.seed).to(self.device)

    def save_backbone(self, backbone: Backbone) -> None:
        """Replaces the backbone being trained."""
        spool = self.folder / ".backbone"
        made = self.folder / "backbone"
        shutil.rmtree(spool, ignore_errors=True)
        backbone.save(spool)
        put_in_place(spool, made)

    def entropy(self) -> Entroformer:
        """The entropy model so far."""
        torch.manual_seed(self.settings.seed)  # for weights that are new
        if not self.settings.start:
            return self._load("entropy", Entroformer(self.config.entropy))
        start = dataclasses.replace(self._start(), config=self.config)
        return self._load("entropy", start.trainable_entropy())

    def entropy_to_export(self) -> Entroformer | Bundle:
        """The entropy model of an earlier stage, or of the start bundle. Raises SettingsError if the latter has an
        extra block."""
        if (self.folder / "entropy.safetensors").exists():
            return self.entropy()
        start = self._start()
        if start.config.entropy.finest_attention != self.config.entropy.finest_attention:
            raise SettingsError("finest_attention = false leaves a block out: run the entropy stage")
        return start

    def estimator(self) -> ParameterEstimator:
        """The parameter estimator so far."""
        torch.manual_seed(self.settings.seed)
        estimator = ParameterEstimator(self.config.adapter)
        if self.settings.start:
            _, started = self._start().load_encoder()
            estimator = started or estimator  # a bundle without the adapter stage has none
        return self._load("estimator", estimator)

    @property
    def config(self) -> BundleConfig:
        """The exported bundle's configuration except hashes; with a start, sizes are taken from it."""
        settings = self.settings
        names = ("name", "steps", "parameters", "alpha_offsets")
        chosen: dict[str, Any] = {name: getattr(settings, name) for name in names}
        if settings.start:
            start = self._start().config
            entropy = dataclasses.replace(
                start.entropy,
                dither=start.entropy.dither or settings.entropy.dither,
                finest_attention=start.entropy.finest_attention and settings.entropy.finest_attention,
            )
            return dataclasses.replace(start, entropy=entropy, **chosen)
        return BundleConfig(
            backbone_hash="",
            backbone_source="embedded" if settings.backbone == "new" else settings.backbone,
            entropy=settings.entropy,
            adapter=AdapterSettings(alpha_at_one=settings.alpha_at_one),
            alpha_at_one=settings.alpha_at_one,
            **chosen,
        )

    def has(self, name: Literal["entropy", "estimator"]) -> bool:
        """Whether this network is trained, by an earlier stage or in the start bundle."""
        if (self.folder / f"{name}.safetensors").exists():
            return True
        if not self.settings.start:
            return False
        if name == "entropy":  # every bundle has one
            return True
        _, estimator = self._start().load_encoder()
        return estimator is not None

    def save(self, name: str, network: nn.Module) -> None:
        """Replaces a network's weights."""
        spool = self.folder / f".{name}.safetensors"
        weights = {key: value.contiguous().cpu() for key, value in network.state_dict().items()}
        save_file(weights, spool)
        os.replace(spool, self.folder / f"{name}.safetensors")  # noqa: PTH105

    def _start(self) -> Bundle:
        start = self.settings.start
        return Bundle.open(DEFAULT_BUNDLE if start == "mini" else start)

    def _load(self, name: str, network: Network) -> Network:
        path = self.folder / f"{name}.safetensors"
        if path.exists():
            network.load_state_dict(load_file(path))
        return network.to(self.device)


def new_backbone(patches: Tensor, seed: int) -> Backbone:
    """An untrained mini backbone around the principal components of (N, 3, 8, 8) patches, with SD's noise schedule."""
    torch.manual_seed(seed)
    autoencoder = MiniAutoencoder()
    unet = MiniUNet()
    autoencoder.start_from_patches(patches)
    schedule = NoiseSchedule.from_config(SD21_CONFIGURATION["scheduler"] | {"prediction_type": "epsilon"})
    return Backbone(autoencoder, unet, schedule, name="mini")


@torch.no_grad()
def measure_latents(backbone: Backbone, batches: Iterable[Tensor]) -> Backbone:
    """The mini backbone with each latent channel's mean and deviation over the batches in its configuration."""
    autoencoder = backbone.autoencoder
    values_of_batches = []
    for pixels in batches:
        means = autoencoder.encode(pixels).latent_dist.mean
        values_of_batches.append(means.transpose(0, 1).flatten(1))
    values = torch.cat(values_of_batches, 1)  # (channels, positions of all crops)
    autoencoder.config.update(
        latents_mean=[round(value, 6) for value in values.mean(1).tolist()],
        latents_std=[round(value, 6) for value in values.std(1).tolist()],
    )
    return Backbone(autoencoder, backbone.unet, backbone.schedule, name=backbone.name)
