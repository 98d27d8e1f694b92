"""Promises of the backbone: every published layout loads to the same model, and nothing foreign loads at all."""

import hashlib
import json
import logging
import pickle
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import codec.compatibility  # noqa: F401

import huggingface_hub.constants
import pytest
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from safetensors.torch import load_file, save_file
from torch import Tensor

from codec import checkpoint
from codec.backbone import Backbone
from codec.errors import BackboneError
from codec.schedule import NoiseSchedule
from codec.stable_diffusion import MIRRORS, PUBLISHED_FILES, SD21_CONFIGURATION, SD21_EMPTY_PROMPT
from tests.codec import tiny_backbones as tiny

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Any attempt to reach a network fails the test, also one that the library under test swallows."""
    attempts = []

    def refuse(*arguments: Any, **_: Any) -> None:
        attempts.append(arguments)
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield
    assert not attempts


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model in every layout: folder/, model.ckpt, model.safetensors, and configuration/ for the single files."""
    root = tmp_path_factory.mktemp("published")
    tiny.write_folder(root / "folder")
    tiny.write_configuration(root / "configuration", root / "folder")
    tiny.write_single_file(root / "model.ckpt")
    tiny.write_single_file(root / "model.safetensors")
    return root


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    """A copy of the diffusers folder that a test may damage."""
    return Path(shutil.copytree(published / "folder", tmp_path / "damaged"))


@pytest.fixture(scope="module")
def backbone(published: Path) -> Backbone:
    return Backbone.load(published / "folder")


@pytest.fixture(scope="module")
def mini() -> Backbone:
    return tiny.tiny_mini()


def noisy_latent(height: int = 8, width: int = 8, batch: int = 2) -> Tensor:
    return torch.randn(batch, 4, height, width, generator=torch.Generator().manual_seed(7))


def refused(source: str | Path, **options: Any) -> str:
    """The message of the BackboneError that loading raises, which must be one line."""
    with pytest.raises(BackboneError) as caught:
        Backbone.load(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def embedding(model: Backbone) -> Tensor:
    assert model.prompt_embedding is not None
    return model.prompt_embedding


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# --- every layout loads to the same model -----------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["model.ckpt", "model.safetensors"])
def test_a_single_file_is_the_same_backbone_as_the_folder(published: Path, backbone: Backbone, file: str) -> None:
    single = Backbone.load(published / file, config=published / "configuration")

    assert single.content_hash == backbone.content_hash
    assert single.name == "model"
    assert single.prediction_type == "v_prediction"
    t = torch.tensor([12.5, 300.0])
    assert torch.equal(single.predict_noise(noisy_latent(), t), backbone.predict_noise(noisy_latent(), t))
    pixels = torch.rand(1, 3, 16, 24) * 2 - 1
    assert torch.equal(single.encode(pixels), backbone.encode(pixels))
    assert torch.equal(single.decode(noisy_latent(2, 3), (16, 24)), backbone.decode(noisy_latent(2, 3), (16, 24)))


def test_the_single_file_has_the_names_of_the_published_one() -> None:
    names = tiny.original_tensors(
        tiny.tiny_autoencoder().state_dict(), tiny.tiny_unet().state_dict(), tiny.tiny_text_encoder().state_dict()
    )
    for name in (
        "model.diffusion_model.time_embed.0.weight",
        "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight",
        "model.diffusion_model.input_blocks.3.0.op.weight",
        "model.diffusion_model.middle_block.1.proj_in.weight",
        "model.diffusion_model.output_blocks.2.1.conv.weight",
        "model.diffusion_model.output_blocks.8.2.conv.bias",
        "model.diffusion_model.out.2.weight",
        "first_stage_model.encoder.down.1.block.0.norm1.weight",
        "first_stage_model.encoder.mid.attn_1.proj_out.weight",
        "first_stage_model.decoder.up.3.upsample.conv.weight",
        "first_stage_model.quant_conv.weight",
        "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight",
        "cond_stage_model.model.ln_final.weight",
    ):
        assert name in names
    assert names["first_stage_model.encoder.mid.attn_1.q.weight"].shape == (16, 16, 1, 1)


def test_without_a_configuration_a_single_file_is_stable_diffusion_2_1(
    published: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "does not fit its configuration" in refused(published / "model.safetensors")

    parts = {"vae": "config.json", "unet": "config.json", "text_encoder": "config.json"}
    configuration = {part: json.loads((published / "folder" / part / name).read_text()) for part, name in parts.items()}
    configuration["scheduler"] = {**tiny.SCHEDULER, "prediction_type": "v_prediction"}
    monkeypatch.setattr(checkpoint, "SD21_CONFIGURATION", configuration)
    monkeypatch.setattr(checkpoint, "SD21_EMPTY_PROMPT", tiny.EMPTY_PROMPT)
    single = Backbone.load(published / "model.safetensors")
    assert single.content_hash == backbone.content_hash
    assert torch.equal(embedding(single), embedding(backbone))


def test_the_built_in_configuration_has_the_size_of_stable_diffusion_2_1() -> None:
    """83.7 and 865.9 million weights are the published figures."""
    with init_empty_weights():
        vae = AutoencoderKL.from_config(SD21_CONFIGURATION["vae"])
        unet = UNet2DConditionModel.from_config(SD21_CONFIGURATION["unet"])
    assert sum(weight.numel() for weight in vae.parameters()) == 83_653_863
    assert sum(weight.numel() for weight in unet.parameters()) == 865_910_724
    assert NoiseSchedule.from_config(SD21_CONFIGURATION["scheduler"]).prediction_type == "v_prediction"
    assert len(SD21_EMPTY_PROMPT) == SD21_CONFIGURATION["text_encoder"]["max_position_embeddings"]


def test_an_autoencoder_with_the_attention_names_of_older_diffusers_is_the_same(
    folder: Path, backbone: Backbone
) -> None:
    """The published folder of Stable Diffusion 2.1 has these names."""
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(folder / "vae" / WEIGHTS)
    for new, old in older.items():
        tensors = {name.replace(new, old): tensor for name, tensor in tensors.items()}
    save_file(tensors, folder / "vae" / WEIGHTS, metadata={"format": "pt"})
    assert Backbone.load(folder).content_hash == backbone.content_hash


def test_weights_stored_in_half_precision_compute_in_float32(tmp_path: Path) -> None:
    half = Backbone.load(tiny.write_folder(tmp_path / "half", dtype=torch.float16))
    assert {weight.dtype for weight in [*half.unet.parameters(), *half.autoencoder.parameters()]} == {torch.float32}
    assert embedding(half).dtype == torch.float32
    assert half.predict_noise(noisy_latent(), torch.tensor([5.0, 6.0])).dtype == torch.float32

    half.save(tmp_path / "copy")
    assert Backbone.load(tmp_path / "copy", prompt_embedding=half.prompt_embedding).content_hash == half.content_hash


def test_a_folder_that_has_only_half_precision_variants_loads(folder: Path, backbone: Backbone) -> None:
    for part in ("vae", "unet"):
        (folder / part / WEIGHTS).rename(folder / part / "diffusion_pytorch_model.fp16.safetensors")
    (folder / "text_encoder" / "model.safetensors").rename(folder / "text_encoder" / "model.fp16.safetensors")
    loaded = Backbone.load(folder)
    assert loaded.content_hash == backbone.content_hash
    assert torch.equal(embedding(loaded), embedding(backbone))


def test_a_folder_of_shards_loads(folder: Path, backbone: Backbone) -> None:
    (folder / "unet" / WEIGHTS).unlink()
    tiny.tiny_unet().save_pretrained(folder / "unet", max_shard_size="100KB")
    assert len(list((folder / "unet").glob("*.safetensors"))) > 1
    assert Backbone.load(folder).content_hash == backbone.content_hash


def test_a_folder_of_pickled_weights_loads(folder: Path, backbone: Backbone) -> None:
    for part, network in (("vae", tiny.tiny_autoencoder()), ("unet", tiny.tiny_unet())):
        (folder / part / WEIGHTS).unlink()
        torch.save(network.state_dict(), folder / part / "diffusion_pytorch_model.bin")
    assert Backbone.load(folder).content_hash == backbone.content_hash


@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors"])
def test_a_loaded_backbone_does_not_depend_on_its_file(
    published: Path, backbone: Backbone, tmp_path: Path, name: str
) -> None:
    file = Path(shutil.copy(published / name, tmp_path))
    single = Backbone.load(file, config=published / "configuration")
    with file.open("r+b") as opened:
        opened.write(bytes(file.stat().st_size))
    assert single.content_hash == backbone.content_hash


def test_a_saved_backbone_loads_to_the_same(mini: Backbone, tmp_path: Path) -> None:
    mini.save(tmp_path / "mini")
    loaded = Backbone.load(tmp_path / "mini")
    assert loaded.content_hash == mini.content_hash
    assert loaded.prompt_embedding is None
    assert torch.equal(loaded.encode(torch.ones(1, 3, 9, 9)), mini.encode(torch.ones(1, 3, 9, 9)))
    loaded.save(tmp_path / "again")
    for file in (tmp_path / "mini").rglob("*.*"):
        assert (tmp_path / "again" / file.relative_to(tmp_path / "mini")).read_bytes() == file.read_bytes()


def test_a_backbone_saved_in_half_precision_is_half_the_size_and_another_backbone(
    mini: Backbone, tmp_path: Path
) -> None:
    mini.save(tmp_path / "whole")
    mini.save(tmp_path / "half", dtype=torch.float16)
    weights = Path("unet") / WEIGHTS
    assert (tmp_path / "half" / weights).stat().st_size < 0.75 * (tmp_path / "whole" / weights).stat().st_size
    assert Backbone.load(tmp_path / "half").content_hash != mini.content_hash


# --- the empty prompt -------------------------------------------------------------------------------------------------


def test_the_empty_prompt_is_embedded_by_the_text_encoder_of_the_source(published: Path, backbone: Backbone) -> None:
    with torch.no_grad():
        expected = tiny.tiny_text_encoder()(torch.tensor([tiny.EMPTY_PROMPT])).last_hidden_state
    torch.testing.assert_close(embedding(backbone), expected)
    single = Backbone.load(published / "model.ckpt", config=published / "configuration")
    assert torch.equal(embedding(single), embedding(backbone))


def test_with_a_stored_embedding_no_text_encoder_is_needed(folder: Path, backbone: Backbone) -> None:
    shutil.rmtree(folder / "text_encoder")
    shutil.rmtree(folder / "tokenizer")
    assert "text_encoder" in refused(folder)
    loaded = Backbone.load(folder, prompt_embedding=backbone.prompt_embedding)
    t = torch.tensor([40.0, 41.0])
    assert torch.equal(loaded.predict_noise(noisy_latent(), t), backbone.predict_noise(noisy_latent(), t))


def test_an_embedding_of_another_text_encoder_is_refused(published: Path) -> None:
    assert "(1, L, 16)" in refused(published / "folder", prompt_embedding=torch.zeros(1, 77, 1024))


# --- pictures and latents ---------------------------------------------------------------------------------------------


def test_latents_are_the_scaled_posterior_mean(backbone: Backbone) -> None:
    pixels = torch.rand(2, 3, 16, 16) * 2 - 1
    expected = backbone.autoencoder.encode(pixels).latent_dist.mean * 0.18215
    torch.testing.assert_close(backbone.encode(pixels), expected)


def test_latents_are_normalised_by_channel(mini: Backbone) -> None:
    pixels = torch.rand(2, 3, 16, 16) * 2 - 1
    raw = mini.autoencoder.encode(pixels).latent_dist.mean
    latent = mini.encode(pixels)
    torch.testing.assert_close(latent[:, 1], raw[:, 1] + 0.2)
    torch.testing.assert_close(latent[:, 2], (raw[:, 2] - 0.3) / 2)
    torch.testing.assert_close(mini.decode(latent, (16, 16)), mini.autoencoder.decode(raw).sample)


@pytest.mark.parametrize("height, width", [(1, 1), (1, 17), (7, 9), (8, 8), (33, 5)])
@pytest.mark.parametrize("kind", ["backbone", "mini"])
def test_any_size_of_picture_works(kind: str, height: int, width: int, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(kind)
    pixels = torch.rand(2, 3, height, width) * 2 - 1
    latent = model.encode(pixels)
    assert latent.shape == (2, 4, -(-height // 8), -(-width // 8))
    assert model.predict_noise(latent, torch.tensor([1.0, 2.0])).shape == latent.shape
    decoded = model.decode(latent, (height, width))
    assert decoded.shape == pixels.shape
    assert decoded.isfinite().all()


def test_a_picture_is_continued_by_its_edge(mini: Backbone) -> None:
    pixels = torch.rand(1, 3, 7, 10)
    rows = torch.cat([pixels, pixels[:, :, -1:]], 2)
    whole = torch.cat([rows, rows[:, :, :, -1:].expand(-1, -1, -1, 6)], 3)
    assert torch.equal(mini.encode(pixels), mini.encode(whole))


def test_a_size_that_does_not_belong_to_the_latent_is_refused(mini: Backbone) -> None:
    with pytest.raises(ValueError, match="17x8"):
        mini.decode(torch.zeros(1, 4, 2, 1), (17, 8))


# --- noise ------------------------------------------------------------------------------------------------------------


class EpsilonOfVelocity(UNet2DConditionModel):
    """The same denoiser as a v-prediction U-Net, stated as epsilon through the definitions of v and of x_t."""

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, **_: Any) -> Any:
        velocity = super().forward(sample, timestep, encoder_hidden_states).sample
        scheduler = DDIMScheduler(**tiny.SCHEDULER)
        alpha_bar = scheduler.alphas_cumprod[timestep.long()][:, None, None, None]
        clean = alpha_bar.sqrt() * sample - (1 - alpha_bar).sqrt() * velocity
        return UNet2DConditionOutput(sample=(sample - alpha_bar.sqrt() * clean) / (1 - alpha_bar).sqrt())


def test_equivalent_v_and_epsilon_models_predict_the_same_clean_latent(backbone: Backbone) -> None:
    twin = EpsilonOfVelocity.from_config(backbone.unet.config)
    twin.load_state_dict(backbone.unet.state_dict())
    schedule = NoiseSchedule.from_config({**tiny.SCHEDULER, "prediction_type": "epsilon"})
    epsilon = Backbone(tiny.tiny_autoencoder(), twin, schedule, name="twin", prompt_embedding=backbone.prompt_embedding)
    t = torch.tensor([1.0, 50.0, 400.0, 999.0])
    x_t = noisy_latent(batch=4)

    def clean(model: Backbone) -> Tensor:
        alpha_bar = model.alpha_bar(t)[:, None, None, None]
        return (x_t - (1 - alpha_bar).sqrt() * model.predict_noise(x_t, t)) / alpha_bar.sqrt()

    assert backbone.prediction_type == "v_prediction"
    assert epsilon.prediction_type == "epsilon"
    torch.testing.assert_close(clean(epsilon), clean(backbone), rtol=1e-3, atol=1e-3)
    raw = backbone.unet(x_t, t, embedding(backbone).expand(4, -1, -1)).sample
    assert (raw - backbone.predict_noise(x_t, t)).abs().max() > 0.1  # v read as epsilon is another prediction


def test_a_folder_says_what_its_unet_predicts(tmp_path: Path, backbone: Backbone) -> None:
    loaded = Backbone.load(tiny.write_folder(tmp_path / "epsilon", prediction_type="epsilon"))
    assert loaded.prediction_type == "epsilon"
    assert loaded.content_hash != backbone.content_hash
    t = torch.tensor([3.0, 700.0])
    output = loaded.unet(noisy_latent(), t, embedding(loaded).expand(2, -1, -1)).sample
    torch.testing.assert_close(loaded.predict_noise(noisy_latent(), t), output)


@pytest.mark.parametrize("kind", ["backbone", "mini"])
def test_fractional_timesteps_lie_between_their_neighbours(kind: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(kind)
    x_t = noisy_latent(batch=1)
    below, middle, above = (model.predict_noise(x_t, torch.tensor([t])) for t in (40.0, 40.5, 41.0))
    assert (below - above).abs().max() > 0
    assert not torch.equal(middle, below)
    assert not torch.equal(middle, above)
    assert (middle - (below + above) / 2).abs().max() < 0.1 * (below - above).abs().max()


def test_timesteps_that_bfloat16_would_round_are_refused(mini: Backbone) -> None:
    assert torch.tensor(999.0, dtype=torch.bfloat16).item() == 1000
    with pytest.raises(TypeError, match="bfloat16"):
        mini.predict_noise(noisy_latent(), torch.tensor([999.0, 3.0], dtype=torch.bfloat16))


def test_a_latent_of_any_size_is_continued_by_its_edge(backbone: Backbone) -> None:
    x_t = noisy_latent(7, 8)
    whole = torch.cat([x_t, x_t[:, :, -1:]], 2)
    t = torch.tensor([9.0, 10.0])
    torch.testing.assert_close(backbone.predict_noise(x_t, t), backbone.predict_noise(whole, t)[:, :, :7])


@pytest.mark.parametrize("kind", ["backbone", "mini"])
def test_gradients_reach_the_inputs_and_never_the_weights(kind: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(kind)
    x_t = noisy_latent(2, 3).requires_grad_()
    t = torch.tensor([30.5, 80.25], requires_grad=True)
    model.decode(model.predict_noise(x_t, t), (16, 24)).square().sum().backward()
    assert x_t.grad is not None
    assert t.grad is not None
    assert (x_t.grad != 0).all()
    assert (t.grad != 0).all()
    weights = [*model.unet.parameters(), *model.autoencoder.parameters()]
    assert not any(weight.requires_grad for weight in weights)
    assert not model.unet.training
    assert not model.autoencoder.training


# --- the noise schedule -----------------------------------------------------------------------------------------------


def test_alpha_bar_is_the_schedule_at_integer_steps_and_linear_in_log_snr_between(mini: Backbone) -> None:
    table = DDIMScheduler(**tiny.SCHEDULER).alphas_cumprod
    torch.testing.assert_close(mini.alpha_bar(torch.arange(1000.0)), table)
    assert mini.alpha_bar(torch.tensor(0)).item() == pytest.approx(1 - 0.00085)
    steps = torch.tensor([10.0, 10.25, 11.0], dtype=torch.float64)
    low, middle, high = torch.logit(mini.alpha_bar(steps))
    torch.testing.assert_close(middle, 0.75 * low + 0.25 * high)


def test_alpha_bar_has_the_gradient_of_its_slope(mini: Backbone) -> None:
    t = torch.tensor([0.5, 20.3, 998.9], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(mini.alpha_bar, (t,))


@pytest.mark.parametrize("t", [0.0, 0.125, 99.5, 998.875, 999.0])
def test_timestep_of_undoes_alpha_bar(mini: Backbone, t: float) -> None:
    alpha_bar = mini.alpha_bar(torch.tensor(t, dtype=torch.float64)).item()
    assert mini.timestep_of(alpha_bar) == pytest.approx(t, abs=1e-9)


@pytest.mark.parametrize("alpha_bar, t", [(1.0, 0.0), (0.0, 999.0)])
def test_timestep_of_ends_where_the_schedule_ends(mini: Backbone, alpha_bar: float, t: float) -> None:
    assert mini.timestep_of(alpha_bar) == t


def test_a_schedule_that_ends_in_pure_noise_stays_finite() -> None:
    schedule = NoiseSchedule.from_config({**tiny.SCHEDULER, "rescale_betas_zero_snr": True})
    assert schedule.alpha_bar(torch.tensor([998.5, 999.0])).gt(0).all()


# --- the content hash -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "part, change", [("unet", {"attention_head_dim": [1, 1, 1, 1]}), ("vae", {"norm_num_groups": 8})]
)
def test_a_setting_that_no_shape_shows_changes_the_hash(
    folder: Path, backbone: Backbone, part: str, change: dict[str, Any]
) -> None:
    edit(folder / part / "config.json", **change)
    assert Backbone.load(folder).content_hash != backbone.content_hash


def test_one_changed_weight_changes_the_hash(folder: Path, backbone: Backbone) -> None:
    tensors = load_file(folder / "unet" / WEIGHTS)
    tensors["conv_in.bias"][0] += 1e-6
    save_file(tensors, folder / "unet" / WEIGHTS, metadata={"format": "pt"})
    changed = Backbone.load(folder)
    assert changed.content_hash != backbone.content_hash
    assert changed.content_hash in refused(folder, content_hash=backbone.content_hash)


def test_the_pinned_backbone_loads(published: Path, backbone: Backbone) -> None:
    loaded = Backbone.load(published / "folder", content_hash=backbone.content_hash)
    assert loaded.content_hash == backbone.content_hash


def test_a_file_with_a_published_name_must_be_the_published_file(
    published: Path, tmp_path: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "v2-1_768-ema-pruned.safetensors"
    file = Path(shutil.copy(published / "model.safetensors", tmp_path / name))
    configuration = published / "configuration"
    assert "5214604494" in refused(file, config=configuration)
    assert Backbone.load(file, config=configuration, content_hash=backbone.content_hash).name == file.stem

    content = file.read_bytes()
    genuine = (len(content), hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(PUBLISHED_FILES, name, genuine)
    assert Backbone.load(file, config=configuration).content_hash == backbone.content_hash
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert genuine[1] in refused(file, config=configuration)


# --- what does not load -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["vae", "unet", "scheduler", "tokenizer", "text_encoder"])
def test_a_missing_subfolder_is_named(folder: Path, part: str) -> None:
    shutil.rmtree(folder / part)
    message = refused(folder)
    assert part in message
    assert str(folder) in message


@pytest.mark.parametrize("file", ["vae/config.json", "unet/config.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize("content", [None, "", "[1, 2]", "{"])
def test_a_damaged_configuration_is_named(folder: Path, file: str, content: str | None) -> None:
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    assert file in refused(folder)


@pytest.mark.parametrize("part", ["vae", "unet"])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
def test_truncated_weights_are_refused(folder: Path, part: str, kept: float) -> None:
    weights = folder / part / WEIGHTS
    content = weights.read_bytes()
    weights.write_bytes(content[: int(kept * len(content))])
    assert f"{folder / part} cannot be read" in refused(folder)


@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_single_file_is_refused(published: Path, tmp_path: Path, name: str, kept: float) -> None:
    content = (published / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(kept * len(content))])
    assert f"{tmp_path / name} cannot be read" in refused(tmp_path / name, config=published / "configuration")


def test_a_truncated_text_encoder_is_refused_when_the_prompt_is_needed(folder: Path) -> None:
    weights = folder / "text_encoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(BackboneError, match="text_encoder"):
        _ = Backbone.load(folder).prompt_embedding


@pytest.mark.parametrize("part", ["vae", "unet", "text_encoder"])
def test_missing_weight_files_are_refused(folder: Path, part: str) -> None:
    next((folder / part).glob("*.safetensors")).unlink()
    assert str(folder / part) in refused(folder)


def drop_a_weight(tensors: dict[str, Tensor]) -> None:
    del tensors["conv_in.bias"]


def add_a_weight(tensors: dict[str, Tensor]) -> None:
    tensors["extra.weight"] = torch.zeros(1)


def reshape_a_weight(tensors: dict[str, Tensor]) -> None:
    tensors["conv_in.bias"] = torch.zeros(5)


@pytest.mark.parametrize(
    "damage, reason",
    [(drop_a_weight, "lacks 1 weights"), (add_a_weight, "also holds 1 weights"), (reshape_a_weight, "conv_in.bias")],
)
def test_weights_that_do_not_fit_the_configuration_are_refused(
    folder: Path,
    damage: Callable[[dict[str, Tensor]], None],
    reason: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    tensors = load_file(folder / "unet" / WEIGHTS)
    damage(tensors)
    save_file(tensors, folder / "unet" / WEIGHTS, metadata={"format": "pt"})
    assert reason in refused(folder)
    assert not caplog.records  # one line is the error's; the libraries' own reports would be a screenful


@pytest.mark.parametrize(
    "file, change, reason",
    [
        ("vae/config.json", {"_class_name": "AutoencoderTiny"}, "only AutoencoderKL and MiniAutoencoder are loaded"),
        ("unet/config.json", {"_class_name": "FluxTransformer2DModel"}, "only UNet2DConditionModel and MiniUNet"),
        ("unet/config.json", {"_class_name": None}, "the class None"),
        ("vae/config.json", {"latents_mean": [0.0] * 16}, "four means"),
        ("vae/config.json", {"scaling_factor": 0}, "four positive deviations"),
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, "only epsilon and v_prediction"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 4000}, "4000 timesteps"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "sigmoid"}, "do not give a schedule"),
    ],
)
def test_a_foreign_setting_is_refused(folder: Path, file: str, change: dict[str, Any], reason: str) -> None:
    edit(folder / file, **change)
    assert reason in refused(folder)


def test_a_flow_matching_scheduler_is_refused(folder: Path) -> None:
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    assert "FlowMatchEulerDiscreteScheduler has no beta schedule" in refused(folder)


@pytest.mark.parametrize(
    "part, change, reason",
    [
        ("unet", {"in_channels": 9}, "[4, 9, 4] latent channels"),
        ("unet", {"class_embed_type": "timestep"}, "class_embed_type"),
        ("vae", {"latent_channels": 16}, "[16, 4, 4] latent channels"),
        (
            "vae",
            {
                "block_out_channels": [8, 16],
                "down_block_types": ["DownEncoderBlock2D"] * 2,
                "up_block_types": ["UpDecoderBlock2D"] * 2,
            },
            "does not reduce pictures by 8",
        ),
    ],
)
def test_a_model_of_another_kind_is_refused(folder: Path, part: str, change: dict[str, Any], reason: str) -> None:
    edit(folder / part / "config.json", **change)
    network = AutoencoderKL if part == "vae" else UNet2DConditionModel
    network.from_config(json.loads((folder / part / "config.json").read_text())).save_pretrained(folder / part)
    assert reason in refused(folder)


def test_a_pickle_that_runs_code_is_refused_before_it_runs(published: Path, folder: Path, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[Path]]:
            return Path.touch, (tmp_path / "ran",)

    (tmp_path / "hostile.ckpt").write_bytes(pickle.dumps({"state_dict": Payload()}))
    torch.save({"state_dict": Payload()}, tmp_path / "hostile-zip.ckpt")
    for name in ("hostile.ckpt", "hostile-zip.ckpt"):
        assert f"{name} cannot be read" in refused(tmp_path / name, config=published / "configuration")
    (folder / "unet" / WEIGHTS).unlink()
    torch.save({"conv_in.bias": Payload()}, folder / "unet" / "diffusion_pytorch_model.bin")
    assert "unet cannot be read" in refused(folder)
    assert not (tmp_path / "ran").exists()


def test_a_single_file_of_another_model_is_refused(published: Path, tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    assert "lacks" in refused(tmp_path / "other.safetensors", config=published / "configuration")


def test_a_configuration_that_is_no_folder_is_refused(published: Path, tmp_path: Path) -> None:
    assert "no folder vae, unet, scheduler, text_encoder" in refused(published / "model.ckpt", config=tmp_path)


@pytest.mark.parametrize("source", ["nowhere", "./nowhere/at/all", "nowhere/model.safetensors"])
def test_a_source_that_does_not_exist_is_named(source: str) -> None:
    assert f"no backbone at {source}" in refused(source)


def test_a_file_of_another_type_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no weights")
    assert "ends in .safetensors or .ckpt" in refused(tmp_path / "notes.txt")


def test_a_device_that_is_not_there_is_refused(published: Path) -> None:
    assert "cannot be put on device xpu:99" in refused(published / "folder", device="xpu:99")


# --- the model hub ----------------------------------------------------------------------------------------------------


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path], None]:
    """An offline hub whose local cache the test fills: cache(repository, folder)."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))

    def cache(repository: str, source: Path) -> None:
        root = tmp_path / "cache" / f"models--{repository.replace('/', '--')}"
        commit = hashlib.sha1(repository.encode()).hexdigest()
        shutil.copytree(source, root / "snapshots" / commit)
        (root / "refs").mkdir()
        (root / "refs" / "main").write_text(commit)

    return cache


def test_a_hub_id_loads_from_the_local_cache(
    published: Path, backbone: Backbone, hub_cache: Callable[[str, Path], None]
) -> None:
    hub_cache("someone/tiny", published / "folder")
    loaded = Backbone.load("someone/tiny")
    assert loaded.content_hash == backbone.content_hash
    assert loaded.name == "someone/tiny"


def test_mirrors_are_tried_in_order_until_one_has_the_pinned_weights(
    published: Path, folder: Path, backbone: Backbone, hub_cache: Callable[[str, Path], None]
) -> None:
    first, second = MIRRORS["stabilityai/stable-diffusion-2-1"]
    hub_cache(second, published / "folder")
    assert Backbone.load(first).name == second

    edit(folder / "vae" / "config.json", scaling_factor=0.5)
    hub_cache(first, folder)
    assert Backbone.load(first).name == first
    assert Backbone.load(first, content_hash=backbone.content_hash).name == second
    message = refused(first, content_hash="0" * 64)
    assert first in message
    assert second in message


@pytest.mark.usefixtures("hub_cache")
def test_an_unreachable_hub_is_one_clear_line() -> None:
    message = refused("someone/unknown")
    assert "someone/unknown" in message
    assert "give a local folder or file" in message


def test_text_encoders_are_fetched_only_when_they_are_needed(
    published: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def fetch(repository: str, *, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(published / "folder")

    monkeypatch.setattr(checkpoint, "snapshot_download", fetch)
    Backbone.load("someone/tiny", prompt_embedding=backbone.prompt_embedding)
    Backbone.load("someone/tiny")
    assert "unet/*.safetensors" in asked[0]
    assert not any("text_encoder" in pattern for pattern in asked[0])
    assert "text_encoder/*.safetensors" in asked[1]
