"""Promises of the backbone: every published layout loads to the same model, which is known by its content."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import codec.support.torchvision_shim  # noqa: F401

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from safetensors.torch import load_file, save_file
from torch import Tensor

from codec.diffusion import weights
from codec.diffusion.backbone import Backbone
from codec.diffusion.schedule import NoiseSchedule
from codec.diffusion.stable_diffusion import PUBLISHED_FILES, SD21_CONFIGURATION, SD21_EMPTY_PROMPT
from tests.support import tiny_backbones as tiny
from tests.support.tiny_backbones import WEIGHTS, edit, embedding, refused

pytestmark = pytest.mark.usefixtures("no_network")


def noisy_latent(height: int = 8, width: int = 8, batch: int = 2) -> Tensor:
    return torch.randn(batch, 4, height, width, generator=torch.Generator().manual_seed(7))


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


def test_on_a_gpu_networks_compute_in_half_precision_where_no_gradient_is_wanted(published: Path) -> None:
    backbone, t = Backbone.load(published / "folder"), torch.tensor([12.5, 300.0])
    pixels, latent = torch.rand(1, 3, 32, 48) * 2 - 1, noisy_latent()

    def all_parts() -> list[Tensor]:
        parts = backbone.encode(pixels), backbone.decode(latent[:, :, :4, :6], (32, 48))
        return [*parts, backbone.predict_noise(latent, t)]

    expected, before = all_parts(), backbone.content_hash
    backbone.on_gpu = True  # the processor then takes the GPU's way, but for the kernels
    for found, exact in zip(all_parts(), expected, strict=True):
        assert torch.equal(found, exact), "a gradient may be wanted"
    with torch.no_grad():
        for found, exact in zip(all_parts(), expected, strict=True):
            assert found.dtype == torch.float32
            assert 0 < (found - exact).norm() <= 0.03 * exact.norm()
    backbone.__dict__.pop("content_hash")
    assert backbone.content_hash == before
    backbone.to("cpu")
    with torch.no_grad():
        assert torch.equal(backbone.encode(pixels), expected[0])


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
    monkeypatch.setattr(weights, "SD21_CONFIGURATION", configuration)
    monkeypatch.setattr(weights, "SD21_EMPTY_PROMPT", tiny.EMPTY_PROMPT)
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


def test_a_backbone_loaded_from_a_folder_does_not_depend_on_its_files(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    loaded = Backbone.load(copy)
    before = [value.clone() for network in (loaded.autoencoder, loaded.unet) for value in network.state_dict().values()]
    for file in copy.glob("*/*.safetensors"):
        with file.open("r+b") as opened:
            opened.write(bytes(file.stat().st_size))
    after = [value for network in (loaded.autoencoder, loaded.unet) for value in network.state_dict().values()]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


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


def test_latents_are_normalized_by_channel(mini: Backbone) -> None:
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
def test_fractional_timesteps_lie_between_their_neighbors(kind: str, request: pytest.FixtureRequest) -> None:
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
