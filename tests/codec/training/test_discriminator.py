"""The patch discriminator and the color term: what each punishes, and that a training with them resumes exactly."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from codec.bundle import Bundle
from codec.training.__main__ import main
from codec.training.color import color_error
from codec.training.discriminator import PatchDiscriminator, fooling_loss, telling_loss
from codec.training.draws import Draws
from codec.training.pretraining import DecoderStage
from codec.training.settings import StageSettings
from tests.support.tiny_bundles import tiny_backbone

LAB = {"red": ((1, 0, 0), (53.24, 80.09, 67.20)), "gray": ((0.5, 0.5, 0.5), (53.39, 0, 0))}
"""sRGB in 0..1 and its CIELAB for D65."""


def plain(color: tuple[float, ...]) -> torch.Tensor:
    """A picture (1, 3, 16, 16) of one color in 0..1."""
    return (2 * torch.tensor(color) - 1).view(1, 3, 1, 1).expand(1, 3, 16, 16)


@pytest.mark.parametrize("name", LAB)
def test_colors_are_compared_in_cielab(name: str) -> None:
    color, lab = LAB[name]
    error = color_error(plain((0, 0, 0)), plain(color))
    assert float(error) == pytest.approx(sum(map(abs, lab)) / 300, abs=2e-4)


def test_texture_of_the_right_mean_is_no_color_error_and_a_tint_is() -> None:
    stripes = torch.zeros(1, 3, 16, 16)
    stripes[..., ::2] = 1  # linear light
    stored = torch.where(stripes > 0, 1.0, -1.0)
    even = 2 * (1.055 * 0.5 ** (1 / 2.4) - 0.055) - 1  # half of the light
    flat = torch.full((1, 3, 16, 16), even)
    assert float(color_error(stored, flat)) < 1e-3
    tinted = flat.clone()
    tinted[:, 1] += 0.05
    assert float(color_error(stored, tinted)) > 0.01


def test_black_and_colors_out_of_range_have_finite_gradients() -> None:
    decoded = torch.tensor([-1.0, -1.2, 1.3]).view(1, 3, 1, 1).repeat(1, 1, 16, 16).requires_grad_(True)
    color_error(plain((0.2, 0.1, 0.3)), decoded).sum().backward()
    assert decoded.grad is not None and torch.isfinite(decoded.grad).all()


def test_each_side_learns_from_its_own_loss_alone() -> None:
    torch.manual_seed(1)
    discriminator = PatchDiscriminator()
    original, latent = torch.rand(2, 3, 64, 64) * 2 - 1, torch.randn(2, 4, 8, 8)
    decoded = (original * 0.5).requires_grad_(True)
    fooling_loss(discriminator, decoded, latent).sum().backward()
    assert decoded.grad is not None and float(decoded.grad.abs().sum()) > 0
    assert all(parameter.grad is None for parameter in discriminator.parameters())
    decoded.grad = None
    telling_loss(discriminator, original, decoded, latent).backward()
    assert decoded.grad is None
    assert all(parameter.grad is not None for parameter in discriminator.parameters())


def test_it_learns_to_tell_a_weave_from_a_photo() -> None:
    torch.manual_seed(2)
    discriminator = PatchDiscriminator()
    optimizer = torch.optim.AdamW(discriminator.parameters(), lr=3e-3)
    weave = 0.3 * torch.cos(torch.arange(64) * (torch.pi / 2)).view(1, 1, 1, 64)
    latent = torch.zeros(4, 4, 8, 8)
    losses = []
    for _ in range(40):
        photo = F.interpolate(torch.rand(4, 3, 9, 9) * 2 - 1, size=64, mode="bicubic")
        loss = telling_loss(discriminator, photo, photo + weave, latent)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_before_its_time_the_discriminator_has_no_say() -> None:
    backbone = tiny_backbone()
    settings = StageSettings(steps=9, perceptual=0.0, adversarial=0.5, adversarial_from=2)
    stage = DecoderStage(settings, backbone, dithered=True)
    pixels = torch.rand(2, 3, 64, 64) * 2 - 1
    lossy = {step: float(stage(pixels, Draws(1, step))[0].detach()) for step in (1, 2)}
    plainly = DecoderStage(StageSettings(steps=9, perceptual=0.0), backbone, dithered=True)
    for step, adds in ((1, False), (2, True)):
        loss, terms = stage(pixels, Draws(1, step))
        own = float(plainly(pixels, Draws(1, step))[0].detach())
        assert (float(loss.detach()) - float(terms["telling"].detach()) - own > 0.05) == adds
    assert all(value > 0 for value in lossy.values())


@pytest.mark.parametrize("stage", ["decoder", "end_to_end"])
def test_killed_and_resumed_a_training_with_a_discriminator_gives_the_same_weights(
    stage: str, tars: Path, bundle: Bundle, tmp_path: Path
) -> None:
    """Looks at held-out crops, which come by the clock, must not move the spectral norms either."""
    made = []
    for name, looks, seconds in (("whole", 0.0, None), ("parts", 1e9, "0")):
        settings = tmp_path / f"{name}.json"
        chosen = {"steps": 3, "batch_size": 2, "crop_size": 64, "perceptual": 0.0, "adversarial": 0.2, "color": 1.0}
        values = {"start": str(bundle.path), "held_out_seconds": looks, "evaluation_images": 0}
        settings.write_text(json.dumps(values | {"stages": {stage: chosen | {"calibration_crops": 4}}}))
        command = [str(settings), "--data", str(tars), "--held-out", str(tars), "--output", str(tmp_path / name)]
        if seconds is not None:
            for _ in range(2):  # a step each
                main([*command, "--seconds", seconds])
        assert main(command) == 0
        made.append(load_file(tmp_path / name / "bundle" / "backbone" / "vae" / "diffusion_pytorch_model.safetensors"))
    for name, value in made[0].items():
        assert torch.equal(value, made[1][name]), name
