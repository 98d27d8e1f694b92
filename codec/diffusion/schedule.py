"""The noise schedule of a diffusion model at real-valued timesteps."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from torch import Tensor

from codec.errors import BackboneError

TIMESTEPS = 1000

SCHEDULE_DEFAULTS: dict[str, Any] = {
    "num_train_timesteps": TIMESTEPS,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
    "prediction_type": "epsilon",
}
"""Settings of a diffusers scheduler that determine alpha_bar and the prediction type, with their defaults."""
USUAL = {"linear": 1, "scaled_linear": 2}
"""Schedules with evenly spaced betas ** (1 / exponent), by exponent."""


@dataclass(frozen=True)
class NoiseSchedule:
    """alpha_bar over 1000 timesteps as a table of log(alpha_bar / (1 - alpha_bar)), float64, falling."""

    settings: Mapping[str, Any]
    log_snr: Tensor

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Reads the configuration of a diffusers scheduler defined by betas. Raises BackboneError for others."""
        settings = {name: config.get(name, default) for name, default in SCHEDULE_DEFAULTS.items()}
        if not ("beta_schedule" in config or config.get("trained_betas")):
            raise BackboneError(f"the scheduler {config.get('_class_name')} has no beta schedule: not a DDPM backbone")
        if settings["prediction_type"] not in ("epsilon", "v_prediction"):
            raise BackboneError(f"prediction type {settings['prediction_type']}: only epsilon and v_prediction work")
        if settings["num_train_timesteps"] != TIMESTEPS and settings["trained_betas"] is None:
            raise BackboneError(f"the schedule has {settings['num_train_timesteps']} timesteps instead of {TIMESTEPS}")
        try:
            alpha_bar = _alpha_bar(settings).double()
        except (NotImplementedError, TypeError, ValueError, RuntimeError) as error:
            raise BackboneError(f"the scheduler's settings do not give a schedule: {error}") from error
        if len(alpha_bar) != TIMESTEPS:
            raise BackboneError(f"the schedule has {len(alpha_bar)} timesteps instead of {TIMESTEPS}")
        alpha_bar = alpha_bar.clamp(min=2.0**-24)  # the logarithm is infinite for a schedule that ends in pure noise
        return cls(settings, torch.logit(alpha_bar))

    @property
    def prediction_type(self) -> str:
        return cast(str, self.settings["prediction_type"])

    def to(self, device: torch.device | str) -> "NoiseSchedule":
        return NoiseSchedule(self.settings, self.log_snr.to(device))

    def alpha_bar(self, t: Tensor) -> Tensor:
        """alpha_bar at real timesteps in 0..999, linear in log-SNR between the integer ones; differentiable."""
        position = t.double().clamp(0, TIMESTEPS - 1)
        below = position.detach().floor().clamp(max=TIMESTEPS - 2).long()
        log_snr = torch.lerp(self.log_snr[below], self.log_snr[below + 1], position - below)
        return torch.sigmoid(log_snr).to(t.dtype if t.is_floating_point() else torch.float32)

    def timestep_of(self, alpha_bar: float) -> float:
        """The real timestep with this alpha_bar; clamped to 0..999."""
        return float(self.timesteps_of(torch.tensor(alpha_bar, dtype=torch.float64, device=self.log_snr.device)))

    def timesteps_of(self, alpha_bar: Tensor) -> Tensor:
        """timestep_of of each alpha_bar, of any shape, in float64; without synchronizing with the device."""
        log_snr = torch.logit(alpha_bar.double())
        above = torch.searchsorted(-self.log_snr, -log_snr).clamp(1, TIMESTEPS - 1)
        low = self.log_snr[above - 1]
        high = self.log_snr[above]
        return (above - 1 + (log_snr - low) / (high - low)).clamp(0, TIMESTEPS - 1)


def _alpha_bar(settings: Mapping[str, Any]) -> Tensor:
    """alpha_bar (T,) float32 as computed by diffusers, which takes seconds to import; for rare schedules."""
    power = USUAL.get(settings["beta_schedule"])
    if power is None or settings["trained_betas"] is not None or settings["rescale_betas_zero_snr"]:
        import codec.support.torchvision_shim  # noqa: F401

        from diffusers import DDIMScheduler

        return cast(Tensor, DDIMScheduler(**settings).alphas_cumprod)
    first, last = (settings[end] ** (1 / power) for end in ("beta_start", "beta_end"))
    betas = torch.linspace(first, last, settings["num_train_timesteps"], dtype=torch.float32) ** power
    return (1.0 - betas).cumprod(0)
