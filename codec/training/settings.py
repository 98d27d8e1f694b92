"""Settings of a training run: one frozen dataclass, read from a TOML or JSON file."""

import dataclasses
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from codec.entropy.entroformer import MINI, EntroformerSettings
from codec.errors import SettingsError
from codec.quantization.estimator import AdapterSettings
from codec.support.dataclass_parsing import build

StageName = Literal["autoencoder", "unet", "decoder", "entropy", "adapter", "joint", "end_to_end"]


@dataclass(frozen=True)
class StageSettings:
    """Settings of one stage. Weights of loss terms that the stage does not use are ignored."""

    steps: int
    batch_size: int = 16
    """Photos in a global batch, over all processes and accumulated parts."""
    accumulate: int = 1
    """Parts into which each process splits its share of a batch. Memory shrinks with them; gradients are those of the
    whole batch, except where a stage uses the batch's own statistics (autoencoder, end_to_end): those are a part's."""
    checkpoint_gradients: bool = False
    """Recomputes activations in the backward pass: much less memory for a third to a half more time."""
    crop_size: int = 128
    crops_per_image: int = 1
    learning_rate: float = 4e-4
    warmup_steps: int = 200
    final_learning_rate: float = 0.03
    """Final learning rate of the cosine schedule, as a fraction of learning_rate."""
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    pixel_l1: float = 1.0
    pixel_mse: float = 2.0
    perceptual: float = 1.0
    perceptual_network: Literal["alex", "vgg"] = "vgg"
    perceptual_every: int = 1
    """Computes LPIPS every n-th step only, with n times the weight."""
    structural: float = 0.0
    """Weight of DISTS."""
    structural_every: int = 4
    """Computes DISTS every n-th step only, with n times the weight: it costs as much as everything else."""
    lattice: float = 0.0
    """Weight of the part of the error that repeats every 8 pixels (codec.training.loss)."""
    color: float = 0.0
    """Weight of the error of 8x8 means in CIELAB (codec.training.color)."""
    adversarial: float = 0.0
    """Decoder and end-to-end stage: weight of fooling a patch discriminator, which is trained along from nothing."""
    adversarial_from: int = 0
    """The step from which the discriminator has a say; before, it only learns."""
    kl: float = 1e-4
    latent_noise: float = 0.35
    """Largest standard deviation of the noise put on half of the latents, in deviations of each channel."""
    largest_timestep: float = 350.0
    """Timesteps are drawn uniformly in log-SNR from 1 up to this one."""
    cached_batches: int = 0
    """U-Net and entropy stage: encodes this many batches once and reuses their latents; 0 encodes every batch."""
    mask_ratio: float = 0.0
    """Entropy stage in parallel order: where positive, this fraction of the positions, drawn anew each step, takes the
    second pass instead of the checkerboard's half."""
    random_top_k: bool = False
    """Entropy stage: attention keeps between half and twice as many keys as the model's top_k, drawn anew each step."""
    alpha: tuple[float, float] = (0.35, 8.0)
    """Range of the reciprocal bin width, drawn log-uniformly."""
    quality: tuple[float, float] = (1.0, 64.0)
    """Range of lambda, drawn log-uniformly for each sample."""
    train_unet: bool = True
    """End-to-end stage: whether the U-Net is trained too."""
    calibration_crops: int = 256
    """End-to-end stage: crops whose rate and distortion before the first step are those that it expects."""
    rate_gain: float = 0.003
    """End-to-end stage: how much the logarithm of the distortion's weight falls in a step for each unit that the
    logarithm of the rate is above the start's."""


@dataclass(frozen=True)
class TrainingSettings:
    """A training run. Sample order and every random draw are functions of (seed, step)."""

    stages: Mapping[StageName, StageSettings]
    start: str = ""
    """A bundle to continue from (a folder, or 'mini' for the embedded one): backbone, entropy model, estimator."""
    backbone: str = "new"
    """'new' (a mini backbone from scratch), or a source for Backbone.load; ignored with a start."""
    backbone_hash: str | None = None
    """Content hash that the backbone must have."""
    entropy: EntroformerSettings = MINI
    """The entropy model; with a start, three settings count: `dither` true turns it on for what goes on from there,
    `finest_attention` false leaves that block out, and `grids` "narrow" rounds the weights to these grids."""
    parameters: Literal["measured", "tied", "learned"] = "measured"
    """How the exported bundle chooses bin width and timestep."""
    steps: int = 1
    """DDIM steps of the exported bundle."""
    alpha_at_one: float = 0.5
    """Reciprocal bin width at lambda = 1."""
    adapter: AdapterSettings = field(default_factory=AdapterSettings)
    """Sizes of a new estimator, and whether it predicts one bin width or one for each channel."""
    alpha_offsets: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Alpha codes by which the exported bundle's bins are narrower, for each channel."""
    cache_gib: float = 64.0
    """Largest size of the latents that cached_batches stores in the output folder, in GiB."""
    seed: int = 1
    mixed_precision: Literal["no", "bf16"] = "no"
    tf32: bool = True
    """Whether float32 convolutions, as in LPIPS and DISTS, may use TF32 on a GPU. Matrix products never do: the entropy
    model's grids need float32's full precision."""
    memory_gib: float = 0.0
    """Memory of its device that a process may use, in GiB; 0 for all of it. A stage whose dry step needs more is
    refused."""
    checkpoint_every: int = 200
    checkpoint_seconds: float = 300.0
    held_out_seconds: float = 1800.0
    """Interval in seconds between logs of the loss on held-out crops."""
    evaluation_images: int = 8
    """Held-out photos that the exported bundle is measured on."""
    evaluation_qualities: tuple[float, ...] = (2.0, 4.0, 8.0, 16.0)
    name: str = "codec"
    details: Mapping[str, str] = field(default_factory=dict)
    """Free text for the bundle's card."""


def read_settings(path: str | Path, overrides: Mapping[str, str] | None = None) -> TrainingSettings:
    """Reads a TOML or JSON file; overrides are dotted names and JSON values. Raises SettingsError."""
    path = Path(path)
    try:
        text = path.read_text()
        if path.suffix == ".json":
            data = json.loads(text)
        else:
            data = tomllib.loads(text)
    except OSError as error:
        raise SettingsError(f"cannot read settings {path}: {error.strerror}") from None
    except ValueError as error:
        kind = path.suffix.lstrip(".") or "TOML"
        raise SettingsError(f"settings {path} are not valid {kind}: {error}") from None
    for name, value in (overrides or {}).items():
        *parents, leaf = name.split(".")
        target = data
        for parent in parents:
            target = target.setdefault(parent, {})
        try:
            target[leaf] = json.loads(value)
        except ValueError:  # a word, which need not be quoted on a command line
            target[leaf] = value
    try:
        return cast(TrainingSettings, build(TrainingSettings, data, str(path)))
    except ValueError as error:
        raise SettingsError(str(error)) from None


def to_json(settings: TrainingSettings) -> str:
    """The settings as JSON for read_settings."""
    return json.dumps(dataclasses.asdict(settings), indent=1)
