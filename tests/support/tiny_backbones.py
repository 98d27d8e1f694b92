"""Backbones of a few thousand random weights, written in exactly the layouts in which real ones are published."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import codec.support.torchvision_shim  # noqa: F401

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.loaders.single_file_utils import DIFFUSERS_TO_LDM_MAPPING
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from codec.diffusion.backbone import Backbone
from codec.diffusion.mini import MiniAutoencoder, MiniUNet
from codec.diffusion.schedule import NoiseSchedule
from codec.errors import BackboneError

WEIGHTS = "diffusion_pytorch_model.safetensors"
PROMPT_LENGTH = 8
PROMPT_WIDTH = 16
EMPTY_PROMPT = [3, 4, 0, 0, 0, 0, 0, 0]  # begin, end, and Stable Diffusion 2's padding, which is "!"
LAYERS = 2

SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}
TEXT_ENCODER: dict[str, Any] = {
    "hidden_size": PROMPT_WIDTH,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": PROMPT_LENGTH,
    "vocab_size": 5,
    "hidden_act": "gelu",
    "bos_token_id": 3,
    "eos_token_id": 4,
    "pad_token_id": 0,
}


def tiny_autoencoder(seed: int = 0) -> AutoencoderKL:
    torch.manual_seed(seed)
    return AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=LAYERS,
        norm_num_groups=4,
        scaling_factor=0.18215,
    ).eval()


def tiny_unet(seed: int = 1) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        block_out_channels=(8, 16, 16, 16),
        layers_per_block=LAYERS,
        norm_num_groups=4,
        attention_head_dim=(1, 2, 2, 2),
        cross_attention_dim=PROMPT_WIDTH,
        use_linear_projection=True,
    ).eval()


def tiny_text_encoder(seed: int = 2) -> CLIPTextModel:
    torch.manual_seed(seed)
    return CLIPTextModel(CLIPTextConfig(**TEXT_ENCODER)).eval()


def tiny_mini(seed: int = 3) -> Backbone:
    """A backbone of the embedded kind, with latent statistics and no prompt."""
    torch.manual_seed(seed)
    autoencoder = MiniAutoencoder(
        encoder_channels=(4, 8, 8),
        decoder_channels=(4, 8, 8),
        encoder_blocks=(1, 1, 1),
        decoder_blocks=(1, 1, 1),
        latents_mean=(0.1, -0.2, 0.3, 0.0),
        latents_std=(0.5, 1.0, 2.0, 0.25),
    )
    unet = MiniUNet(channels=(8, 8, 8), blocks=1, embedding=8)
    torch.nn.init.normal_(unet.leave[-1].weight, std=0.1)  # it begins at zero, where every prediction is the same
    schedule = NoiseSchedule.from_config({**SCHEDULER, "prediction_type": "v_prediction"})
    return Backbone(autoencoder, unet, schedule, name="tiny")


def write_folder(folder: Path, prediction_type: str = "v_prediction", dtype: torch.dtype = torch.float32) -> Path:
    """A whole diffusers folder: vae, unet, scheduler, tokenizer and text_encoder."""
    torch.nn.Module.to(tiny_autoencoder(), dtype).save_pretrained(folder / "vae")
    torch.nn.Module.to(tiny_unet(), dtype).save_pretrained(folder / "unet")
    scheduler = DDIMScheduler(**SCHEDULER, prediction_type=prediction_type, clip_sample=False, steps_offset=1)
    scheduler.save_pretrained(folder / "scheduler")
    write_text_encoder(folder / "text_encoder", dtype)
    write_tokenizer(folder / "tokenizer")
    return folder


def write_text_encoder(folder: Path, dtype: torch.dtype) -> None:
    """The published text encoders name their weights text_model.* and store a constant beside them."""
    folder.mkdir(parents=True)
    tensors = {f"text_model.{name}": tensor.to(dtype) for name, tensor in tiny_text_encoder().state_dict().items()}
    # Old releases of transformers stored it, newer ones compute it: a reader must not take it for an unknown weight.
    tensors["text_model.embeddings.position_ids"] = torch.arange(PROMPT_LENGTH)[None]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model", **TEXT_ENCODER}
    _write_json(folder / "config.json", config)


def write_tokenizer(folder: Path) -> None:
    """As published for Stable Diffusion 2: the padding of special_tokens_map.json overrules tokenizer_config.json."""
    folder.mkdir(parents=True)
    tokens = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    vocabulary = {"!": 0, "a": 1, "a</w>": 2, tokens["bos_token"]: EMPTY_PROMPT[0], tokens["eos_token"]: 4}
    _write_json(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("#version: 0.2\n")
    _write_json(folder / "special_tokens_map.json", {**tokens, "pad_token": "!"})
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": PROMPT_LENGTH, "do_lower_case": True}
    _write_json(folder / "tokenizer_config.json", {**settings, **tokens, "pad_token": tokens["eos_token"]})


def write_configuration(folder: Path, source: Path) -> Path:
    """The folder that describes a single file: a diffusers folder without weights."""
    return Path(shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors")))


def write_single_file(path: Path) -> Path:
    """The weights of write_folder under the names of v2-1_768-ema-pruned, as .safetensors or as pickled .ckpt."""
    tensors = original_tensors(
        tiny_autoencoder().state_dict(), tiny_unet().state_dict(), tiny_text_encoder().state_dict()
    )
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save({"state_dict": tensors, "global_step": 110000}, path)
    return path


def original_tensors(
    vae: dict[str, Tensor], unet: dict[str, Tensor], text: dict[str, Tensor], blocks: int = 4
) -> dict[str, Tensor]:
    """Rename weights from diffusers' and transformers' names back to those of the original training code."""
    original = {f"model.diffusion_model.{_unet_name(name, unet)}": tensor for name, tensor in unet.items()}
    for name, tensor in vae.items():
        # Linear layers in diffusers, 1x1 convolutions in the original.
        if re.search(r"attentions.*to_\w+.*weight", name):
            tensor = tensor[:, :, None, None]
        original[f"first_stage_model.{_vae_name(name, blocks)}"] = tensor
    original |= {f"cond_stage_model.model.{name}": tensor for name, tensor in _open_clip(text).items()}
    original["alphas_cumprod"] = torch.linspace(1, 0, 1000)
    return {name: tensor.contiguous() for name, tensor in original.items()}


def _unet_name(name: str, tensors: dict[str, Tensor]) -> str:
    fixed = DIFFUSERS_TO_LDM_MAPPING["unet"]["layers"]
    if name in fixed:
        return str(fixed[name])
    inner = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "time_emb_proj": "emb_layers.1",
        "conv_shortcut": "skip_connection",
    }
    if ".resnets." in name:
        name = re.sub("|".join(inner), lambda match: inner[match[0]], name)
    kind, *rest = name.split(".")
    if kind == "mid_block":
        # A residual block, an attention, a residual block.
        position = 2 * int(rest[1]) if rest[0] == "resnets" else 1
        return ".".join(["middle_block", str(position), *rest[2:]])
    block, part, index, *tail = rest
    # The original counts layers through all blocks; each block has LAYERS of them on its way down and a downsampler,
    # and one more on its way up.
    start = int(block) * (LAYERS + 1)
    if part == "downsamplers":
        return ".".join([f"input_blocks.{start + LAYERS + 1}.0.op", tail[-1]])
    if part == "upsamplers":
        # It comes last in its layer: behind the residual block, and the attention if the block has any.
        position = 1
        if any(other.startswith(f"up_blocks.{block}.attentions") for other in tensors):
            position = 2
        return ".".join([f"output_blocks.{start + LAYERS}.{position}", *tail])
    layer = start + int(index)
    position = 1 if part == "attentions" else 0
    if kind == "down_blocks":
        return ".".join([f"input_blocks.{layer + 1}.{position}", *tail])  # input_blocks.0 is the first convolution
    return ".".join([f"output_blocks.{layer}.{position}", *tail])


def _vae_name(name: str, blocks: int) -> str:
    def up_block(match: re.Match[str]) -> str:
        return f"up.{blocks - 1 - int(match[1])}"  # the original counts from the finest resolution, also on the way up

    def mid_block(match: re.Match[str]) -> str:
        return f"mid.block_{int(match[1]) + 1}"

    # In this order: later patterns look for what earlier ones have written.
    for pattern, replacement in (
        (r"down_blocks\.(\d)\.resnets", r"down.\1.block"),
        (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
        (r"up_blocks\.(\d)", up_block),
        (r"(up\.\d)\.resnets", r"\1.block"),
        (r"upsamplers\.0", "upsample"),
        (r"mid_block\.resnets\.(\d)", mid_block),
        (r"mid_block\.attentions\.0", "mid.attn_1"),
        (r"attn_1\.group_norm", "attn_1.norm"),
        (r"attn_1\.to_out\.0", "attn_1.proj_out"),
        (r"attn_1\.to_(\w)", r"attn_1.\1"),
        ("conv_shortcut", "nin_shortcut"),
        ("conv_norm_out", "norm_out"),
    ):
        name = re.sub(pattern, replacement, name)
    return name


def _open_clip(text: dict[str, Tensor]) -> dict[str, Tensor]:
    tensors = {
        "positional_embedding": text["embeddings.position_embedding.weight"],
        "token_embedding.weight": text["embeddings.token_embedding.weight"],
        "ln_final.weight": text["final_layer_norm.weight"],
        "ln_final.bias": text["final_layer_norm.bias"],
        "text_projection": torch.zeros(PROMPT_WIDTH, PROMPT_WIDTH),
        "logit_scale": torch.tensor(4.6),
    }
    layer_names = {
        "self_attn.out_proj": "attn.out_proj",
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    for layer in range(TEXT_ENCODER["num_hidden_layers"]):
        source = f"encoder.layers.{layer}"
        target = f"transformer.resblocks.{layer}"
        for end in ("weight", "bias"):
            for ours, theirs in layer_names.items():
                tensors[f"{target}.{theirs}.{end}"] = text[f"{source}.{ours}.{end}"]
            # OpenCLIP keeps query, key and value in one matrix.
            projections = [text[f"{source}.self_attn.{part}_proj.{end}"] for part in "qkv"]
            tensors[f"{target}.attn.in_proj_{end}"] = torch.cat(projections)
    return tensors


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content))


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
