"""Reads a backbone's networks from a diffusers folder, a model hub, or a single file with the original names.

Builds only the classes named here, reads pickles with weights_only, and reports every fault of a source as a one-line
BackboneError.
"""

import hashlib
import json
import logging
import re
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from codec.diffusion.mini import MiniAutoencoder, MiniNetwork, MiniUNet
from codec.diffusion.stable_diffusion import MIRRORS, PUBLISHED_FILES, SD21_CONFIGURATION, SD21_EMPTY_PROMPT
from codec.errors import BackboneError

if TYPE_CHECKING:
    from diffusers import ModelMixin

Classes = Mapping[str, type[MiniNetwork] | None]

AUTOENCODERS: Classes = {"AutoencoderKL": None, "MiniAutoencoder": MiniAutoencoder}
UNETS: Classes = {"UNet2DConditionModel": None, "MiniUNet": MiniUNet}
"""Allowed classes by name; None for those of diffusers. diffusers, transformers and the hub client take seconds to
import, so they are imported on demand; the embedded backbone needs none of them."""
WEIGHTS = "diffusion_pytorch_model"
"""Stem of a network's files in a diffusers folder."""

FILE_SUFFIXES = (".safetensors", ".ckpt")
LICENSE_NAMES = r"(?i).*licen[cs]e.*|copying.*|notice.*|readme\.md"
"""Files next to weights that state their license, such as a model card."""


@dataclass(frozen=True)
class PretrainedBackbone:
    """Networks in float32 on the CPU, the scheduler's configuration, and a function for the empty prompt (1, L, D)."""

    name: str
    autoencoder: "ModelMixin"
    unet: "ModelMixin"
    scheduler: Mapping[str, Any]
    embed_prompt: Callable[[], Tensor] | None


def candidates(source: str | Path) -> list[str | Path]:
    """Candidate locations of a source, best first: one local path, or a hub id and its mirrors.

    Raises BackboneError if the source neither exists nor looks like a hub id.
    """
    path = Path(source)
    if path.exists():
        return [path]
    if isinstance(source, str) and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source) and path.suffix not in FILE_SUFFIXES:
        return list(MIRRORS.get(source, (source,)))
    raise BackboneError(f"no backbone at {source}: give a diffusers folder, a .safetensors or .ckpt file, or a hub id")


def read(location: str | Path, *, configuration: Path | None, with_prompt: bool, pinned: bool) -> PretrainedBackbone:
    """Reads one candidate: a local path, or a hub id as str.

    configuration is a diffusers folder that describes a single file (None: Stable Diffusion 2.1); with_prompt: the
    empty prompt will be needed; pinned: the caller checks the content hash, so the published file hash is not checked.
    """
    if isinstance(location, str):
        return _read_folder(_download(location, with_prompt), location, with_prompt)
    if location.is_dir():
        return _read_folder(location, location.resolve().name, with_prompt)
    if not pinned:
        _check_published(location)
    return _read_file(location, configuration, with_prompt)


def licenses(source: str | Path) -> list[Path]:
    """The files that state a backbone's license, in the folder of its weights; empty if there are none.

    Raises BackboneError as reading the source does.
    """
    for location in candidates(source):
        folder = _download(location, with_prompt=False) if isinstance(location, str) else location
        folder = folder if folder.is_dir() else folder.parent
        found = [path for path in folder.iterdir() if path.is_file() and re.fullmatch(LICENSE_NAMES, path.name)]
        if found:
            return sorted(found)
    return []


def prompt_width(unet: "ModelMixin") -> int | None:
    """Channels of the prompt embedding that a U-Net attends to; None if it takes no prompt."""
    return cast(int | None, unet.config.get("cross_attention_dim"))


def _read_folder(folder: Path, name: str, with_prompt: bool) -> PretrainedBackbone:
    _require(folder, "vae", "unet", "scheduler")
    autoencoder = _read_network(folder / "vae", AUTOENCODERS)
    unet = _read_network(folder / "unet", UNETS)
    scheduler = _read_json(folder / "scheduler" / "scheduler_config.json")
    if not with_prompt or prompt_width(unet) is None:
        return PretrainedBackbone(name, autoencoder, unet, scheduler, None)
    _require(folder, "tokenizer", "text_encoder")
    weights = _text_weights(folder / "text_encoder")

    def embed_prompt() -> Tensor:
        config = _read_json(folder / "text_encoder" / "config.json")
        return _embed(config, _empty_prompt(folder), weights, lambda _, tensors: tensors)

    return PretrainedBackbone(name, autoencoder, unet, scheduler, embed_prompt)


def _read_network(folder: Path, classes: Classes) -> "ModelMixin":
    config = _read_json(folder / "config.json")
    name = _checked_class(config, classes, folder)
    kind = classes[name]
    file = folder / f"{WEIGHTS}.safetensors"
    if kind is None:
        if file.is_file():
            _refuse_other_sizes(config, _diffusers_class(name), read_tensors(file), folder)
        return _read_diffusers(folder, name)
    tensors = read_tensors(file)
    network = _refuse_other_sizes(config, kind, tensors, folder)
    _fill(network, tensors, folder)
    return network


def _refuse_other_sizes(config: Mapping[str, Any], kind: Any, tensors: Mapping[str, Tensor], folder: Path) -> Any:
    """Builds the configured network on the meta device. Raises BackboneError if the tensors do not fit it."""
    # numbers of layers first: a huge one would take minutes to build, even on the meta device
    for name, value in config.items():
        layers = [number for number in _numbers(value) if "blocks" in name or "layers" in name]
        if layers and max(layers) > len(tensors):
            raise BackboneError(f"{folder} states {max(layers)} {name}, and has {len(tensors)} weights")
    with _explained(folder), torch.device("meta"):
        network = kind.from_config(dict(config))
    stated = network.state_dict()
    for name in sorted(stated.keys() & tensors.keys()):
        if stated[name].shape != tensors[name].shape:
            raise BackboneError(
                f"{folder} states {name} of {tuple(stated[name].shape)}, and has {tuple(tensors[name].shape)}"
            )
    wanted = sum(tensor.numel() for tensor in stated.values())
    found = sum(tensor.numel() for tensor in tensors.values())
    if wanted > found:
        _check_names(folder, stated.keys() - tensors.keys(), tensors.keys() - stated.keys())
        raise BackboneError(f"{folder} states {wanted} weights, and has {found}")
    return network


def _numbers(value: Any) -> list[float]:
    if isinstance(value, list | tuple):
        return [number for part in value for number in _numbers(part)]
    return [value] if isinstance(value, int | float) else []


def _read_diffusers(folder: Path, name: str) -> "ModelMixin":
    # full precision where the folder has both; [sb] are .safetensors and .bin
    half_only = any(folder.glob(f"{WEIGHTS}.fp16.*")) and not any(folder.glob(f"{WEIGHTS}.[sb]*"))
    kind = _diffusers_class(name)
    with _explained(folder):
        network, report = kind.from_pretrained(
            str(folder),
            variant="fp16" if half_only else None,
            torch_dtype=torch.float32,
            local_files_only=True,
            output_loading_info=True,
        )
    _check_names(folder, report["missing_keys"], report["unexpected_keys"])
    _fill(network, dict(network.state_dict()), folder)  # diffusers maps the file
    return network


def _read_file(path: Path, configuration: Path | None, with_prompt: bool) -> PretrainedBackbone:
    if path.suffix not in FILE_SUFFIXES:
        raise BackboneError(f"{path} is no backbone: a single file ends in {' or '.join(FILE_SUFFIXES)}")
    from diffusers.loaders import single_file_utils as single_file

    configs = _read_configuration(configuration)
    tensors = read_tensors(path)
    autoencoder = _build(configs["vae"], AUTOENCODERS, single_file.convert_ldm_vae_checkpoint, tensors, path)
    unet = _build(configs["unet"], UNETS, single_file.convert_ldm_unet_checkpoint, tensors, path)

    def embed_prompt() -> Tensor:
        tokens = SD21_EMPTY_PROMPT if configuration is None else _empty_prompt(configuration)
        return _embed(configs["text_encoder"], tokens, path, single_file.convert_open_clip_checkpoint)

    prompt = embed_prompt if with_prompt else None
    return PretrainedBackbone(path.stem, autoencoder, unet, configs["scheduler"], prompt)


def _read_configuration(folder: Path | None) -> Mapping[str, Mapping[str, Any]]:
    if folder is None:
        return SD21_CONFIGURATION
    _require(folder, *SD21_CONFIGURATION)
    configs = {}
    for part in SD21_CONFIGURATION:
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        configs[part] = _read_json(folder / part / name)
    return configs


def _build(
    config: Mapping[str, Any],
    classes: Classes,
    convert: Callable[..., dict[str, Tensor]],
    tensors: dict[str, Tensor],
    path: Path,
) -> "ModelMixin":
    from accelerate import init_empty_weights

    of_diffusers = [name for name, ours in classes.items() if ours is None]
    kind = _diffusers_class(_checked_class(config, of_diffusers, path))
    with _explained(path):
        with init_empty_weights():
            network = kind.from_config(dict(config))
        converted = convert(tensors, config=network.config)
    _fill(network, converted, path)
    return network


def _embed(
    config: Mapping[str, Any],
    tokens: list[int],
    weights: Path,
    convert: Callable[[nn.Module, dict[str, Tensor]], dict[str, Tensor]],
) -> Tensor:
    """The last hidden state (1, L, D) of a CLIP text encoder for the tokens of a prompt."""
    from accelerate import init_empty_weights
    from transformers import CLIPTextConfig, CLIPTextModel

    with _explained(weights):
        with init_empty_weights():
            network = CLIPTextModel(CLIPTextConfig.from_dict(dict(config))).eval()
        converted = convert(network, read_tensors(weights))
    inner = getattr(network, "text_model", network)  # older transformers wrap the encoder
    tensors = {name.removeprefix("text_model."): tensor for name, tensor in converted.items()}
    tensors.pop("embeddings.position_ids", None)  # a constant stored in older files
    _fill(inner, tensors, weights)
    with torch.no_grad():
        return cast(Tensor, network(torch.tensor([tokens])).last_hidden_state)


def _empty_prompt(folder: Path) -> list[int]:
    from transformers import CLIPTokenizer

    with _explained(folder / "tokenizer"):
        tokenizer = CLIPTokenizer.from_pretrained(str(folder / "tokenizer"), local_files_only=True)
        prompt = tokenizer("", padding="max_length", max_length=tokenizer.model_max_length, truncation=True)
    return cast(list[int], prompt.input_ids)


def _text_weights(folder: Path) -> Path:
    names = ("model.safetensors", "model.fp16.safetensors", "pytorch_model.bin")
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise BackboneError(f"{folder} holds no text encoder: {names[0]} is missing")


def _fill(network: nn.Module, tensors: dict[str, Tensor], location: Path) -> None:
    """Loads exactly these tensors into an empty network, as float32.

    They are copied: mapped tensors would change with the file, and their alignment, which depends on the layout,
    affects the last bits of results.
    """
    expected = network.state_dict().keys()
    _check_names(location, expected - tensors.keys(), tensors.keys() - expected)
    with _explained(location):
        owned = {name: tensor.to(torch.float32, copy=True).contiguous() for name, tensor in tensors.items()}
        network.load_state_dict(owned, assign=True)
    network.eval()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads all tensors of a .safetensors file, or of a pickle that contains only tensors and plain values."""
    with _explained(path):
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        return cast(dict[str, Tensor], content.get("state_dict", content))


def _download(repository: str, with_prompt: bool) -> Path:
    from huggingface_hub import snapshot_download

    folders = ["vae", "unet", "scheduler"]
    if with_prompt:
        folders += ["tokenizer", "text_encoder"]
    wanted = ["LICENSE*", "README.md"]
    for folder in folders:
        wanted += [f"{folder}/*.{suffix}" for suffix in ("json", "txt", "safetensors")]
    try:
        # a repository holds the weights several times over: halves, and those before the moving average
        found = snapshot_download(repository, allow_patterns=wanted, ignore_patterns=["*.fp16.*", "*.non_ema.*"])
        return Path(found)
    except Exception as error:
        raise BackboneError(
            f"{repository} is no local path, and the model hub did not return it ({_reason(error)}): check the path, "
            "or give a local folder or file"
        ) from error


def _check_published(path: Path) -> None:
    if path.name not in PUBLISHED_FILES:
        return
    size, digest = PUBLISHED_FILES[path.name]
    advice = "fetch it again, or rename it if these are weights of your own"
    if path.stat().st_size != size:
        raise BackboneError(f"{path} has {path.stat().st_size} bytes, the published file has {size}: {advice}")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != digest:
        raise BackboneError(f"{path} has SHA-256 {found}, the published file has {digest}: {advice}")


def _checked_class(config: Mapping[str, Any], names: Collection[str], location: Path) -> str:
    name = str(config.get("_class_name"))
    if name not in names:
        raise BackboneError(f"{location} names the class {name}: only {' and '.join(names)} can be loaded")
    return name


def _diffusers_class(name: str) -> "type[ModelMixin]":
    import codec.support.torchvision_shim  # noqa: F401

    import diffusers

    return cast("type[ModelMixin]", getattr(diffusers, name))


def _read_json(path: Path) -> dict[str, Any]:
    with _explained(path):
        return dict(json.loads(path.read_text("utf-8")))


def _require(folder: Path, *parts: str) -> None:
    missing = [part for part in parts if not (folder / part).is_dir()]
    if missing:
        raise BackboneError(f"{folder} is not a complete backbone in diffusers layout: no folder {', '.join(missing)}")


def _check_names(location: Path, missing: Iterable[str], unexpected: Iterable[str]) -> None:
    for kind, names in (("lacks", sorted(missing)), ("also holds", sorted(unexpected))):
        if names:
            raise BackboneError(
                f"{location} does not fit its configuration: it {kind} {len(names)} weights, the first being {names[0]}"
            )


@contextmanager
def _explained(location: Path) -> Iterator[None]:
    """Converts a loader's exceptions into one line and suppresses its multi-line reports."""
    reports = logging.getLogger("diffusers")
    level = reports.level
    reports.setLevel(logging.CRITICAL)
    try:
        yield
    except Exception as error:
        raise BackboneError(f"{location} cannot be read: {_reason(error)}") from error
    finally:
        reports.setLevel(level)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:240]}" if text else type(error).__name__
