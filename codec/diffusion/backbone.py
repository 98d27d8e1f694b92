"""The frozen diffusion model of a codec: autoencoder, noise predictor, noise schedule, empty-prompt embedding."""

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from codec.diffusion import weights
from codec.diffusion.mini import MiniNetwork
from codec.diffusion.schedule import NoiseSchedule
from codec.diffusion.tiling import Tilings, bands, continued, whole
from codec.errors import BackboneError
from codec.images import to_tensor

if TYPE_CHECKING:
    from diffusers import ModelMixin

CHANNELS = 4
REDUCTION = 8

UNSEEN_IN_SHAPES = ("act_fn", "attention_head_dim", "flip_sin_to_cos", "freq_shift", "norm_eps", "norm_num_groups")
"""Network settings that change the computation but no weight's shape."""


class Backbone:
    """A frozen latent diffusion model: pictures to normalized latents and back, and the noise in a latent.

    The networks, from diffusers or codec.diffusion.mini, are frozen in place; gradients flow through them to their
    inputs. Latents are (B, 4, ceil(H/8), ceil(W/8)), each channel normalized with latents_mean and
    latents_std (a scaling_factor s is a standard deviation of 1/s). prompt_embedding is (1, L, D); without it,
    embed_prompt computes it when first needed. All computes in float32, but for networks of diffusers on a GPU: where
    no gradient is wanted they compute in bfloat16, as in training with mixed precision, prepared by
    codec.diffusion.gpu.
    Networks run whole on inputs that fit a tile of `tilings`, and tile by tile on larger ones.
    """

    def __init__(
        self,
        autoencoder: "ModelMixin",
        unet: "ModelMixin",
        schedule: NoiseSchedule,
        *,
        name: str,
        prompt_embedding: Tensor | None = None,
        embed_prompt: Callable[[], Tensor] | None = None,
    ) -> None:
        _check_fit(name, autoencoder.config, unet.config)
        self.name = name
        self.autoencoder = autoencoder.eval().requires_grad_(False).float()
        self.unet = unet.eval().requires_grad_(False).float()
        self.schedule = schedule
        self.tilings = Tilings.of(autoencoder, unet)
        self._statistics = _latent_statistics(name, autoencoder.config)
        self._prepared: dict[str, Any] = {}
        self._embed_prompt = embed_prompt
        self._prompt_embedding = None if prompt_embedding is None else self._checked(prompt_embedding)
        self.to(autoencoder.device)

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        device: str | torch.device = "cpu",
        config: Path | None = None,
        prompt_embedding: Tensor | None = None,
        content_hash: str | None = None,
    ) -> Self:
        """Loads a diffusers folder, a single .safetensors or .ckpt file with the original names, or a hub id.

        config is a folder in diffusers layout that describes a single file; without it the file must be Stable
        Diffusion 2.1. With a prompt_embedding the text encoder is not loaded. content_hash pins the weights: a hub
        id is looked for at its known mirrors in order until one has it. A single file with a published name must have
        the published SHA-256 unless it is pinned. Raises a one-line BackboneError for anything that cannot be loaded.
        """
        failures = []
        for location in weights.candidates(source):
            try:
                backbone = cls._read(location, config, prompt_embedding, content_hash)
            except BackboneError as error:
                failures.append(error)
            else:
                return backbone._on(device)
        raise BackboneError("; ".join(map(str, failures))) from failures[-1]

    @classmethod
    def _read(
        cls, location: str | Path, config: Path | None, prompt_embedding: Tensor | None, content_hash: str | None
    ) -> Self:
        parts = weights.read(
            location, configuration=config, with_prompt=prompt_embedding is None, pinned=content_hash is not None
        )
        backbone = cls(
            parts.autoencoder,
            parts.unet,
            NoiseSchedule.from_config(parts.scheduler),
            name=parts.name,
            prompt_embedding=prompt_embedding,
            embed_prompt=parts.embed_prompt,
        )
        if content_hash is not None and content_hash != backbone.content_hash:
            raise BackboneError(
                f"{location} holds other weights (content hash {backbone.content_hash}) than the ones asked for "
                f"({content_hash})"
            )
        return backbone

    def to(self, device: str | torch.device) -> Self:
        """Moves everything to a device, in place."""
        self.on_gpu = torch.device(device).type == "cuda"
        for network in (self.autoencoder, self.unet):
            network.to(device)
            if isinstance(network, MiniNetwork) and not self.on_gpu:  # a tenth faster than contiguous
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._prepared.clear()  # copies on the device that the networks leave
        self.schedule = self.schedule.to(device)
        self._mean, self._std = (part.to(device) for part in self._statistics)
        if self._prompt_embedding is not None:
            self._prompt_embedding = self._prompt_embedding.to(device)
        return self

    def _on(self, device: str | torch.device) -> Self:
        try:
            return self.to(device)
        except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for the device
            raise BackboneError(
                f"{self.name} cannot be put on device {device}: {str(error).splitlines()[0]}"
            ) from error

    @property
    def device(self) -> torch.device:
        return self.schedule.log_snr.device

    @property
    def latent_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each channel of the autoencoder's latents, (1, 4, 1, 1) each."""
        return self._mean, self._std

    @property
    def prediction_type(self) -> str:
        """The U-Net's output: 'epsilon' or 'v_prediction'. predict_noise returns epsilon for both."""
        return self.schedule.prediction_type

    @property
    def prompt_embedding(self) -> Tensor | None:
        """Embedding (1, L, D) of the empty prompt, computed on first use; None for a U-Net without a prompt."""
        if self._prompt_embedding is None and self._embed_prompt is not None:
            self._prompt_embedding = self._checked(self._embed_prompt()).to(self.device)
        return self._prompt_embedding

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 (64 hex digits) of everything that determines this backbone's computation.

        It covers classes, settings that shapes do not determine, the noise schedule's parameters, latent statistics,
        and name, shape and bytes of every weight. Names are those that diffusers uses and bytes are little-endian
        float32, the precision of the computation: so a folder, a single file, and a lossless copy in another
        precision of one model agree, while weights rounded to half precision are another backbone.
        """
        parts = {"vae": self.autoencoder, "unet": self.unet}
        networks = {}
        for part, network in parts.items():
            settings = {key: network.config.get(key) for key in UNSEEN_IN_SHAPES}
            networks[part] = [type(network).__name__, settings]
        header = {
            "networks": networks,
            "schedule": dict(self.schedule.settings),
            "latents": [part.flatten().tolist() for part in self._statistics],
        }
        digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
        for part, network in parts.items():
            for name, tensor in sorted(network.state_dict().items()):
                digest.update(f"{part}.{name} {list(tensor.shape)} float32\n".encode())
                digest.update(tensor.float().contiguous().cpu().numpy().astype("<f4", copy=False).data)
        return digest.hexdigest()

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in [-1, 1] to the normalized posterior mean (B, 4, ceil(H/8), ceil(W/8)).

        The picture is continued to multiples of 8 by repeating its last row and column.
        """
        return self._encode(lambda rows, columns: pixels[..., rows, columns], (pixels.shape[-2], pixels.shape[-1]))

    def encode_pixels(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Encodes one 8-bit picture (H, W, 3) without holding all of it in float32."""
        return self._encode(
            lambda rows, columns: to_tensor(pixels[rows, columns])[None].to(self.device),
            (pixels.shape[0], pixels.shape[1]),
        )

    def _encode(self, read: Callable[[slice, slice], Tensor], size: tuple[int, int]) -> Tensor:
        def mean(rows: slice, columns: slice) -> Tensor:
            tile = continued(read(_in_pixels(rows), _in_pixels(columns)), REDUCTION)
            return cast(Tensor, autoencoder.encode(tile.to(dtype)).latent_dist.mean).float()

        autoencoder, dtype = self._network("autoencoder")
        return (whole(mean, _latent_size(size), self.tilings.encoder) - self._mean) / self._std

    def decode(self, latent: Tensor, size: tuple[int, int]) -> Tensor:
        """A normalized latent (B, 4, ceil(H/8), ceil(W/8)) to pixels (B, 3, H, W) of size (H, W), not clamped."""
        return torch.cat(list(self.decode_bands(latent, size)), -2)

    def decode_bands(self, latent: Tensor, size: tuple[int, int]) -> Iterator[Tensor]:
        """Decodes in full-width bands (B, 3, any height, W) from top to bottom, computed one at a time."""
        height, width = size
        if tuple(latent.shape[-2:]) != _latent_size(size):
            raise ValueError(f"a picture of {height}x{width} has no latent of {tuple(latent.shape[-2:])}")

        def pixels(rows: slice, columns: slice) -> Tensor:
            tile = latent[..., rows, columns] * self._std + self._mean
            sample: Tensor = autoencoder.decode(tile.to(dtype)).sample
            return sample.float()

        autoencoder, dtype = self._network("autoencoder")
        row = 0
        for band in bands(pixels, _latent_size(size), self.tilings.decoder, scale=REDUCTION):
            yield band[..., : height - row, :width]  # without what the encoder added to reach multiples of 8
            row += band.shape[-2]

    def predict_noise(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The noise epsilon in x_t = sqrt(alpha_bar) y + sqrt(1 - alpha_bar) epsilon, float32, at any latent size.

        x_t is (B, 4, h, w); t is float32 (B,), real numbers in 0..999. A prediction of v is converted exactly:
        epsilon = sqrt(alpha_bar) v + sqrt(1 - alpha_bar) x_t (Salimans and Ho, 2022).
        """
        if t.dtype != torch.float32:
            raise TypeError(f"timesteps must be float32, not {t.dtype}")
        unet, dtype = self._network("unet")
        prompt = self.prompt_embedding
        if prompt is not None:
            prompt = prompt.expand(len(x_t), -1, -1).to(dtype)

        def prediction(rows: slice, columns: slice) -> Tensor:
            tile = x_t[..., rows, columns]
            sample = continued(tile, self.tilings.unet.multiple).to(dtype)
            output: Tensor = unet(sample, t, encoder_hidden_states=prompt).sample
            return output[..., : tile.shape[-2], : tile.shape[-1]].float()

        output = whole(prediction, (x_t.shape[-2], x_t.shape[-1]), self.tilings.unet)
        if self.prediction_type == "epsilon":
            return output
        alpha_bar = self.alpha_bar(t.double())[:, None, None, None]  # 1 - alpha_bar would lose digits in float32
        signal = alpha_bar.sqrt().float()
        noise = (1 - alpha_bar).sqrt().float()
        return signal * output + noise * x_t.float()

    def _network(self, part: Literal["autoencoder", "unet"]) -> tuple[Any, torch.dtype]:
        """The network to run, and its data type."""
        network = getattr(self, part)
        # training needs the networks themselves: gradients do not flow through the prepared copies
        trained = torch.is_grad_enabled() or torch.is_autocast_enabled("cuda")
        if not self.on_gpu or trained or isinstance(network, MiniNetwork):
            return network, torch.float32
        if part not in self._prepared:
            from codec.diffusion.gpu import for_inference

            self._prepared[part] = for_inference(copy.deepcopy(network).to(torch.bfloat16))
        return self._prepared[part], torch.bfloat16

    def alpha_bar(self, t: Tensor) -> Tensor:
        """alpha_bar at timesteps t in 0..999, of any shape, linear in log-SNR between integer steps; differentiable.

        t = 0 is the first entry of the schedule, not 1. The result has the dtype of t where that is floating point.
        """
        return self.schedule.alpha_bar(t)

    def timestep_of(self, alpha_bar: float) -> float:
        """The timestep in 0..999 that has this alpha_bar; clamped to the schedule's range."""
        return self.schedule.timestep_of(alpha_bar)

    def timesteps_of(self, alpha_bar: Tensor) -> Tensor:
        """timestep_of of each alpha_bar, of any shape, float32 as predict_noise takes them."""
        return self.schedule.timesteps_of(alpha_bar).float()

    def save(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Writes vae/, unet/ and scheduler/ in diffusers layout, weights in dtype as safetensors; no text encoder."""
        for part, network in (("vae", self.autoencoder), ("unet", self.unet)):
            target = Path(folder) / part
            target.mkdir(parents=True, exist_ok=True)
            tensors = {name: tensor.to("cpu", dtype).contiguous() for name, tensor in network.state_dict().items()}
            save_file(tensors, target / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
            settings = {key: value for key, value in network.config.items() if not key.startswith("_")}
            _write_json(target / "config.json", {"_class_name": type(network).__name__, **settings})
        scheduler = Path(folder) / "scheduler"
        scheduler.mkdir(exist_ok=True)
        _write_json(scheduler / "scheduler_config.json", {"_class_name": "DDIMScheduler", **self.schedule.settings})

    def _checked(self, prompt_embedding: Tensor) -> Tensor:
        width = weights.prompt_width(self.unet)
        if prompt_embedding.ndim != 3 or len(prompt_embedding) != 1 or prompt_embedding.shape[-1] != width:
            raise BackboneError(
                f"{self.name} needs a prompt embedding of shape (1, L, {width}), not {tuple(prompt_embedding.shape)}"
            )
        return prompt_embedding.detach().float()


def _check_fit(name: str, vae: Mapping[str, Any], unet: Mapping[str, Any]) -> None:
    """Refuses models that load but do not work on 4-channel latents at an eighth of the picture's size."""
    channels = [vae.get("latent_channels", CHANNELS)] + [unet.get(f"{end}_channels", CHANNELS) for end in ("in", "out")]
    if channels != [CHANNELS] * 3:
        raise BackboneError(f"{name} has {channels} latent channels (autoencoder, U-Net in, U-Net out) instead of 4")
    if 2 ** (len(vae.get("block_out_channels", range(4))) - 1) != REDUCTION:
        raise BackboneError(f"{name} has an autoencoder that does not reduce pictures by 8")
    for extra in ("addition_embed_type", "class_embed_type", "encoder_hid_dim"):
        if unet.get(extra) is not None:
            raise BackboneError(f"{name} has a U-Net that needs more than a prompt ({extra}): not a supported model")


def _latent_statistics(name: str, config: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    mean = config.get("latents_mean") or [config.get("shift_factor") or 0.0] * CHANNELS
    std = config.get("latents_std") or [1.0] * CHANNELS
    if len(mean) != CHANNELS or len(std) != CHANNELS or min(std) <= 0 or not config["scaling_factor"] > 0:
        raise BackboneError(f"{name} has latent statistics that are not four means and four positive deviations")
    scaled = [value / config["scaling_factor"] for value in std]
    return torch.tensor(mean).view(1, CHANNELS, 1, 1), torch.tensor(scaled).view(1, CHANNELS, 1, 1)


def _latent_size(size: tuple[int, int]) -> tuple[int, int]:
    return -(-size[0] // REDUCTION), -(-size[1] // REDUCTION)


def _in_pixels(latents: slice) -> slice:
    return slice(REDUCTION * latents.start, REDUCTION * latents.stop)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", "utf-8")
