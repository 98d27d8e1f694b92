"""python -m tests.benchmarks.foundation: milliseconds and TFLOP/s of a codec of Stable Diffusion 2.1's size on a GPU.

Random weights in SD 2.1's exact shapes, bfloat16, channels_last, each part captured as a CUDA graph: VAE encoder, one
U-Net step, VAE decoder; the exact entropy stage of entroformer-a4 apart, in float64. At 768 x 512 and 1024 x 1024,
batch 1 and the batch with most TFLOP/s, beside the rate of a large matrix product on the same card. Without a GPU the
same code runs once on tiny shapes, so that it stays whole, and says so: its figures mean nothing.
"""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import codec.compatibility  # noqa: F401

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from codec.entropy.entroformer import A4, MINI, Entroformer, EntroformerSettings
from codec.entropy.integer import ExactEntropyModel, export
from codec.entropy.stream import compress, decompress
from codec.entropy.tables import Tables, build_counts
from codec.stable_diffusion import SD21_CONFIGURATION

REPEATS = 10
TINY_VAE = {"block_out_channels": [32] * 4, "layers_per_block": 1}
TINY_UNET = {"block_out_channels": [32] * 4, "attention_head_dim": 8, "layers_per_block": 1, "cross_attention_dim": 32}


@dataclass(frozen=True)
class Scale:
    """What is run: on the GPU the real sizes, elsewhere tiny ones."""

    device: str
    dtype: torch.dtype
    sizes: tuple[tuple[int, int], ...]
    batches: tuple[int, ...]
    matrix: int
    entropy: EntroformerSettings


GPU = Scale("cuda", torch.bfloat16, ((512, 768), (1024, 1024)), (1, 2, 4, 8, 16), 8192, A4)
REHEARSAL = Scale("cpu", torch.float32, ((64, 96),), (1, 2), 256, replace(MINI, dim=32, depth=1))


def networks(scale: Scale) -> tuple[AutoencoderKL, UNet2DConditionModel]:
    """VAE and U-Net with random weights."""
    tiny = scale.device == "cpu"
    settings = {
        part: {key: value for key, value in SD21_CONFIGURATION[part].items() if key != "_class_name"}
        for part in ("vae", "unet")
    }
    with torch.device(scale.device):
        vae = AutoencoderKL(**settings["vae"] | (TINY_VAE if tiny else {}))
        unet = UNet2DConditionModel(**settings["unet"] | (TINY_UNET if tiny else {}))
    for network in (vae, unet):
        network.to(scale.dtype, memory_format=torch.channels_last).eval().requires_grad_(False)
    return vae, unet


def synchronised(device: str) -> float:
    """The time, when all work given to the device is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def captured(work: Callable[[], object], device: str) -> Callable[[], object]:
    """The work as a CUDA graph; as it is on another device."""
    if device != "cuda":
        return work
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def milliseconds(work: Callable[[], object], device: str) -> float:
    """Median of REPEATS runs after one to warm up."""
    work()
    taken = []
    for _ in range(REPEATS if device == "cuda" else 1):
        start = synchronised(device)
        work()
        taken.append(1000 * (synchronised(device) - start))
    return statistics.median(taken)


def flops(work: Callable[[], object]) -> int:
    """Floating-point operations of one run, a multiplication and an addition counted as two."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def matrix_peak(scale: Scale) -> float:
    """TFLOP/s of a square matrix product."""
    a, b = (torch.randn(scale.matrix, scale.matrix, device=scale.device, dtype=scale.dtype) for _ in range(2))
    return 2 * scale.matrix**3 / milliseconds(lambda: a @ b, scale.device) / 1e9


def parts(
    vae: AutoencoderKL, unet: UNet2DConditionModel, scale: Scale, size: tuple[int, int], batch: int
) -> dict[str, Callable[[], object]]:
    """The three networks on a batch of pictures of a size (height, width)."""

    def random(*shape: int) -> Tensor:
        values = torch.randn(shape, device=scale.device, dtype=scale.dtype)
        return values.to(memory_format=torch.channels_last) if len(shape) == 4 else values

    height, width = size
    pixels, latent = random(batch, 3, height, width), random(batch, 4, height // 8, width // 8)
    prompt = random(batch, 77, unet.config.cross_attention_dim)
    t = torch.full((batch,), 100.0, device=scale.device)
    return {
        "VAE encoder": lambda: vae.encode(pixels).latent_dist.mean,
        "U-Net step": lambda: unet(latent, t, encoder_hidden_states=prompt).sample,
        "VAE decoder": lambda: vae.decode(latent).sample,
    }


def entropy_milliseconds(scale: Scale, size: tuple[int, int]) -> tuple[float, float]:
    """Encoding and decoding of one picture's symbols with the exact model, range coder on the processor included."""
    torch.manual_seed(0)
    model = ExactEntropyModel(export(Entroformer(scale.entropy)), scale.entropy, scale.device)
    tables, shape, codes = Tables(build_counts()), (size[0] // 8, size[1] // 8), torch.full((1, 4), 144)
    symbols = np.random.default_rng(0).normal(0, 1.5, (4, *shape)).round().astype(np.int32)
    z = np.zeros(model.hyper_shape(*shape), np.int32)
    data = compress(model, tables, symbols, [z], codes).data
    encode = milliseconds(lambda: compress(model, tables, symbols, [z], codes), scale.device)
    return encode, milliseconds(lambda: decompress(model, tables, data, shape, codes), scale.device)


@torch.no_grad()
def main() -> int:
    """Print the table."""
    scale = GPU if torch.cuda.is_available() else REHEARSAL
    if scale is REHEARSAL:
        print("No GPU here: tiny shapes on the processor, to show that this runs. The figures mean nothing.\n")
    else:
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n")
    peak, (vae, unet) = matrix_peak(scale), networks(scale)
    print(f"matrix product {scale.matrix} x {scale.matrix}: {peak:.2f} TFLOP/s\n")
    print("| pixels | part | batch | ms a picture | TFLOP/s | of the matrix product |\n|---|---|---|---|---|---|")
    for size in scale.sizes:
        for name in parts(vae, unet, scale, size, 1):
            rows = []
            for batch in scale.batches:
                work = parts(vae, unet, scale, size, batch)[name]
                count = flops(work)
                try:
                    taken = milliseconds(captured(work, scale.device), scale.device)
                except torch.OutOfMemoryError:
                    break
                rows.append((batch, taken / batch, count / taken / 1e9))
            for batch, taken, rate in dict.fromkeys([rows[0], max(rows, key=lambda row: row[2])]):
                print(
                    f"| {size[1]} x {size[0]} | {name} | {batch} | {taken:.1f} | {rate:.2f} | {rate / peak:.0%} |",
                    flush=True,
                )
        encode, decode = entropy_milliseconds(scale, size)
        print(f"| {size[1]} x {size[0]} | entropy, encode | 1 | {encode:.1f} | | |")
        print(f"| {size[1]} x {size[0]} | entropy, decode | 1 | {decode:.1f} | | |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
