"""The part of tests.benchmarks.foundation that trains a codec of Stable Diffusion 2.1's size, and uses it once."""

import argparse
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import codec.support.torchvision_shim  # noqa: F401

import pyarrow.parquet as pq
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from codec.diffusion.stable_diffusion import SD21_CONFIGURATION
from codec.entropy.entroformer import MINI, EntroformerSettings
from codec.images import read_image, to_tensor
from codec.metrics.perceptual import lpips_network
from codec.training import settings as training_settings
from codec.training.memory import peak_gib
from codec.training.run import Run
from codec.training.settings import StageName, StageSettings, TrainingSettings, read_settings
from codec.training.trainer import Trainer
from tests.benchmarks.gpu_archive import photos
from tests.support.tiny_backbones import TEXT_ENCODER, WEIGHTS, edit, write_folder, write_tokenizer

SETTINGS = Path(training_settings.__file__).parent / "settings" / "sd21.toml"
DEVIATION = 0.02
"""Of every random weight."""
STEPS = 2
GPU_BATCHES = (1, 2, 4, 8, 16, 32, 64)
PROMPT = {"hidden_size": 1024, "num_attention_heads": 16, "max_position_embeddings": 77, "num_hidden_layers": 1}


@dataclass(frozen=True)
class Form:
    """Which backbone is written, and the sizes of what is trained and compressed."""

    write: Callable[[Path, Path], None]
    """Writes a diffusers folder; its second argument is a photo."""
    entropy: EntroformerSettings | None
    """Instead of the settings file's."""
    crop: int
    side: int
    """Of the photo that is compressed, in pixels."""


def random_sd21(folder: Path, photo: Path) -> None:
    """Stable Diffusion 2.1's shapes with random weights. Latents of the photo get unit variance, as real ones have."""
    torch.manual_seed(0)
    for part, kind in (("vae", AutoencoderKL), ("unet", UNet2DConditionModel)):
        settings = {key: value for key, value in SD21_CONFIGURATION[part].items() if key != "_class_name"}
        with init_empty_weights():
            network = kind(**settings)
        tensors = {name: _random(name, value) for name, value in network.state_dict().items()}
        if part == "vae":
            network.load_state_dict(tensors, assign=True)
            with torch.no_grad():
                pixels = to_tensor(read_image(photo.read_bytes()).pixels)[None]
                deviation = network.encode(pixels).latent_dist.mean.std((0, 2, 3)) * settings["scaling_factor"]
            tensors["quant_conv.weight"][:4] /= deviation.view(-1, 1, 1, 1)
        (folder / part).mkdir(parents=True)
        save_file(tensors, folder / part / WEIGHTS, metadata={"format": "pt"})
        (folder / part / "config.json").write_text(json.dumps(SD21_CONFIGURATION[part]))
    (folder / "scheduler").mkdir()
    scheduler = {"_class_name": "DDIMScheduler", **SD21_CONFIGURATION["scheduler"]}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    # one layer, since it runs once; its width is that of the U-Net's cross attention
    config = TEXT_ENCODER | PROMPT
    encoder = CLIPTextModel(CLIPTextConfig(**config))
    (folder / "text_encoder").mkdir()
    text = {f"text_model.{name}": tensor for name, tensor in encoder.state_dict().items()}
    save_file(text, folder / "text_encoder" / "model.safetensors", metadata={"format": "pt"})
    description = {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model", **config}
    (folder / "text_encoder" / "config.json").write_text(json.dumps(description))
    write_tokenizer(folder / "tokenizer")
    edit(folder / "tokenizer" / "tokenizer_config.json", model_max_length=PROMPT["max_position_embeddings"])


def tiny(folder: Path, _photo: Path) -> None:
    """A few thousand weights in the same layout."""
    write_folder(folder)


WHOLE = Form(random_sd21, None, 256, 512)
REHEARSAL = Form(tiny, replace(MINI, dim=32, depth=1, heads=2, hyper_channels=4, dither=True), 32, 96)


def main(arguments: Sequence[str]) -> int:
    """Trains, compresses, verifies and restores; prints the tables. Returns 0, or 1 if anything is not as it should."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.foundation --train", description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="networks of a few thousand weights: figures mean nothing")
    parser.add_argument("--home", type=Path, help="a new folder for some 15 GB, which stays; else a temporary one")
    given = parser.parse_args(arguments)
    form = REHEARSAL if given.tiny else WHOLE
    with tempfile.TemporaryDirectory() as name:
        for line in report(form, given.home or Path(name)):
            print(line, flush=True)
    return 0


def report(form: Form, home: Path) -> Iterator[str]:
    """The lines of all tables. Raises AssertionError if a step or the picture is not as it should be."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    yield f"{device}, torch {torch.__version__}, load average {os.getloadavg()[0]:.1f} beforehand\n"
    begin = time.perf_counter()
    source = photos(home / "photos", 2, form.side)
    data = home / "training.tar"
    with tarfile.open(data, "w") as tar:
        for path in sorted(source.iterdir()):
            tar.add(path, path.name)
    form.write(home / "backbone", min(source.iterdir()))
    (home / "backbone" / "LICENSE").write_text("Random numbers, which are nobody's.\n")
    yield f"backbone of {_gib(home / 'backbone'):.2f} GiB with random weights: {time.perf_counter() - begin:.0f} s\n"
    settings = _settings(form, home / "backbone")
    yield from dry_rows(settings, data, home)
    yield from training_rows(settings, data, home)
    yield from archive_rows(form, home)


def dry_rows(settings: TrainingSettings, data: Path, home: Path) -> Iterator[str]:
    """The memory of a step of each stage, with kept and with recomputed activations."""
    yield "| stage | crops at a time | recomputed | peak, GiB | of it activations for the backward pass, MiB |"
    yield "|---|---|---|---|---|"
    batches = GPU_BATCHES if torch.cuda.is_available() else (1,)
    for name, stage in settings.stages.items():
        for recomputed in (False, True):
            word = "yes" if recomputed else "no"
            for batch in batches:
                own = replace(stage, batch_size=batch, checkpoint_gradients=recomputed, cached_batches=0)
                run = _Counted(replace(settings, stages={name: own}, memory_gib=0.0), [data], [], home / "dry")
                try:
                    peak = run.tried(name)
                except MemoryError as error:
                    yield f"| {name} | {batch} | {word} | {error} | |"
                    break
                yield f"| {name} | {batch} | {word} | {peak:.2f} | {run.kept_bytes / 2**20:.1f} |"


def training_rows(settings: TrainingSettings, data: Path, home: Path) -> Iterator[str]:
    """Two steps of each stage, and the export."""
    yield "\n| stage | step | seconds | loss | gradient norm |"
    yield "|---|---|---|---|---|"
    output = home / "training"
    run = _Timed(settings, [data], [], output)
    for name in settings.stages:
        run.seconds.clear()
        assert run.train([name])
        records = [json.loads(line) for line in (output / "progress.jsonl").read_text().splitlines()]
        own = [record for record in records if record["stage"] == name]
        assert [record["step"] for record in own] == list(range(1, STEPS + 1))
        for record, seconds in zip(own, run.seconds, strict=True):
            assert record["gradient_norm"] > 0, "a step without a gradient"
            numbers = f"{record['loss']:.4f} | {record['gradient_norm']:.4f}"
            yield f"| {name} | {record['step']} | {seconds:.1f} | {numbers} |"
    begin = time.perf_counter()
    assert run.export() is not None
    yield f"\nexport of the bundle: {time.perf_counter() - begin:.0f} s"


def archive_rows(form: Form, home: Path) -> Iterator[str]:
    """One photo through compress-archive, which verifies it in a second process, and restore-archive."""
    source = home / "source"
    source.mkdir()
    photo = min((home / "photos").iterdir())
    pixels = read_image(photo.read_bytes()).pixels
    (source / photo.name).write_bytes(photo.read_bytes())
    archive, target = home / "archive", home / "restored"
    device = ["--device", "cuda"] if torch.cuda.is_available() else []
    bundle = ["--bundle", str(home / "training" / "bundle")]
    compress = ["compress_archive", str(source), str(archive), *bundle, "--metrics", "psnr"]
    yield "\n| command | seconds | largest process, GiB |"
    yield "|---|---|---|"
    for flow, *arguments in (compress, ["restore_archive", str(archive), str(target)]):
        seconds, gib = _flow(flow, [*arguments, *device, "--workers", "1", "--threads", "1", "--direct"])
        yield f"| {flow.replace('_', '-')} of {form.side} x {form.side} pixels | {seconds:.0f} | {gib:.2f} |"
    (row,) = pq.read_table(archive / "runs" / "000001" / "report").to_pylist()
    assert (row["status"], row["codec"], row["verified"]) == ("compressed", "fdc", True), row
    (restored,) = target.rglob("*.png")
    assert read_image(restored.read_bytes()).pixels.shape == pixels.shape
    yield f"\n{row['bytes']} bytes, {row['bpp']:.3f} bits per pixel, verified; restored with the same size"


def _settings(form: Form, backbone: Path) -> TrainingSettings:
    """The shipped settings, with two steps of one crop a stage."""
    shipped = read_settings(SETTINGS)
    changes: dict[str, Any] = {"steps": STEPS, "batch_size": 1, "accumulate": 1, "crop_size": form.crop}
    stages: dict[StageName, StageSettings] = {}
    for name, stage in shipped.stages.items():
        cached = STEPS if stage.cached_batches else 0
        stages[name] = replace(stage, **changes, cached_batches=cached, warmup_steps=1, checkpoint_gradients=True)
    precision = shipped.mixed_precision if torch.cuda.is_available() else "no"
    return replace(
        shipped,
        mixed_precision=precision,
        backbone=str(backbone),
        stages=stages,
        entropy=form.entropy or shipped.entropy,
        evaluation_images=0,
    )


class _Counted(Run):
    """A run that counts what the forward passes of a dry step keep for the backward pass, weights aside."""

    kept_bytes = 0

    def tried(self, name: StageName) -> float:
        """The dry step's peak memory in GiB, also of a stage whose entropy model is not trained yet."""
        return peak_gib(partial(self._dry_step, name, self.settings.stages[name]), self.accelerator.device)

    def _dry_step(self, name: StageName, settings: StageSettings) -> None:
        networks = self._networks(settings)
        perceptual = lpips_network(settings.perceptual_network, self.accelerator.device)
        backbone = networks.backbone
        modules = (backbone.autoencoder, backbone.unet, networks.entropy, networks.estimator, perceptual)
        weights = {parameter.data_ptr() for module in modules for parameter in module.parameters()}
        kept: dict[int, int] = {}

        def keep(value: Tensor) -> Tensor:
            place = value.untyped_storage().data_ptr()
            if place not in weights:
                kept[place] = value.untyped_storage().nbytes()
            return value

        stage = self._built(name, settings, networks)
        trainer = self._trainer(name, settings, stage, self._crops(settings), lambda *_: None)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            trainer.dry_step()
        self.kept_bytes = sum(kept.values())


class _Timed(Run):
    """A run that measures its steps."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.seconds: list[float] = []

    def _trainer(self, *arguments: Any) -> Trainer:
        trainer = super()._trainer(*arguments)
        learn = trainer._learn

        def timed(*values: Any) -> dict[str, Tensor]:
            begin = time.perf_counter()
            result = learn(*values)
            float(result["loss"])  # waits for a GPU
            self.seconds.append(time.perf_counter() - begin)
            return result

        trainer._learn = timed  # type: ignore[method-assign]
        return trainer


def _flow(name: str, arguments: list[str]) -> tuple[float, float]:
    """Seconds of a flow, and the resident memory of its largest process in GiB."""
    command = [sys.executable, "-m", f"flows.{name}", *arguments]
    begin = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return time.perf_counter() - begin, kib / 2**20


def _random(name: str, value: Tensor) -> Tensor:
    """A random weight; normalizations and biases begin at one and zero."""
    if value.ndim > 1:
        return DEVIATION * torch.randn(value.shape)
    return torch.ones(value.shape) if name.endswith("weight") else torch.zeros(value.shape)


def _gib(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**30
