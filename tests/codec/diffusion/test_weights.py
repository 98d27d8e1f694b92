"""What does not load as a backbone, and why: one line each; and the model hub, without a network."""

import hashlib
import json
import logging
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import codec.support.torchvision_shim  # noqa: F401

import huggingface_hub
import huggingface_hub.constants
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from codec.diffusion.backbone import Backbone
from codec.diffusion.stable_diffusion import MIRRORS
from codec.errors import BackboneError
from tests.support.tiny_backbones import WEIGHTS, edit, refused

pytestmark = pytest.mark.usefixtures("no_network")


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
    assert f"{weights} cannot be read" in refused(folder)


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


def drop_a_weight(tensors: dict[str, Tensor], name: str) -> None:
    del tensors[name]


def add_a_weight(tensors: dict[str, Tensor], name: str) -> None:
    tensors[f"{name}.more"] = torch.zeros(1)


def reshape_a_weight(tensors: dict[str, Tensor], name: str) -> None:
    tensors[name] = torch.zeros(5)


@pytest.mark.parametrize(
    "damage, reason",
    [(drop_a_weight, "lacks 1 weights"), (add_a_weight, "also holds 1 weights"), (reshape_a_weight, "conv_in.bias")],
)
def test_weights_that_do_not_fit_the_configuration_are_refused(
    folder: Path,
    damage: Callable[[dict[str, Tensor], str], None],
    reason: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    tensors = load_file(folder / "unet" / WEIGHTS)
    damage(tensors, "conv_in.bias")
    save_file(tensors, folder / "unet" / WEIGHTS, metadata={"format": "pt"})
    assert reason in refused(folder)
    assert not caplog.records  # one line is the error's; the libraries' own reports would be a screenful


@pytest.mark.parametrize(
    "damage, reason",
    [(drop_a_weight, "lacks 1 weights"), (add_a_weight, "also holds 1 weights"), (reshape_a_weight, "enter.bias")],
)
def test_embedded_weights_that_do_not_fit_their_configuration_are_refused(
    mini: Backbone, tmp_path: Path, damage: Callable[[dict[str, Tensor], str], None], reason: str
) -> None:
    mini.save(tmp_path)
    tensors = load_file(tmp_path / "unet" / WEIGHTS)
    damage(tensors, "enter.bias")
    save_file(tensors, tmp_path / "unet" / WEIGHTS)
    assert reason in refused(tmp_path)


def test_an_embedded_network_with_an_unknown_setting_is_refused(mini: Backbone, tmp_path: Path) -> None:
    mini.save(tmp_path)
    edit(tmp_path / "unet" / "config.json", attention=True)
    assert "attention" in refused(tmp_path)


@pytest.mark.parametrize(
    "file, change, reason",
    [
        ("vae/config.json", {"_class_name": "AutoencoderTiny"}, "only AutoencoderKL and MiniAutoencoder can be loaded"),
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


def test_a_single_file_is_never_taken_for_an_embedded_network(published: Path, tmp_path: Path) -> None:
    shutil.copytree(published / "configuration", tmp_path / "configuration")
    edit(tmp_path / "configuration" / "unet" / "config.json", _class_name="MiniUNet")
    message = refused(published / "model.safetensors", config=tmp_path / "configuration")
    assert "names the class MiniUNet: only UNet2DConditionModel can be loaded" in message


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

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    Backbone.load("someone/tiny", prompt_embedding=backbone.prompt_embedding)
    Backbone.load("someone/tiny")
    assert "unet/*.safetensors" in asked[0]
    assert not any("text_encoder" in pattern for pattern in asked[0])
    assert "text_encoder/*.safetensors" in asked[1]
