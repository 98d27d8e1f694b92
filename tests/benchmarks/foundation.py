"""python -m tests.benchmarks.foundation: milliseconds and TFLOP/s of a codec of Stable Diffusion 2.1's size on a GPU.

Random weights in SD 2.1's exact shapes, bfloat16, prepared by codec.diffusion.gpu, each part captured as a CUDA graph:
VAE encoder, one U-Net step, VAE decoder, at 768 x 512 and 1024 x 1024 and several batch sizes, beside the rate of a
large matrix product on the same card; a whole decode of four steps; the exact entropy stage of entroformer-a4 apart, in
float64. Rows come in order of their weight and are left out when --seconds are over. Without a GPU the same code runs
once on tiny shapes, so that it stays whole, and says so: its figures mean nothing.

With --train instead: two training steps of every stage and their memory, then one photo through an archive
(foundation_training.py).
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product

import codec.support.torchvision_shim  # noqa: F401

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from codec.diffusion.gpu import for_inference
from codec.diffusion.stable_diffusion import SD21_CONFIGURATION
from codec.entropy.entroformer import A4, MINI, Entroformer, EntroformerSettings
from codec.entropy.export import export
from codec.entropy.integer import ExactEntropyModel
from codec.entropy.stream import compress, decompress
from codec.entropy.tables import Tables, build_counts

REPEATS = 10
SECONDS_A_ROW = 1.5
SEARCH = 4
"""Ways to compute a convolution that cuDNN tries before it takes one."""
ALONE, TOGETHER, STEPS = ("VAE encoder", "U-Net step", "VAE decoder"), "four steps and VAE decoder", 4
TINY_VAE = {"block_out_channels": [32] * 4, "layers_per_block": 1}
TINY_UNET = {"block_out_channels": [32] * 4, "attention_head_dim": 8, "layers_per_block": 1, "cross_attention_dim": 32}
BACKENDS = (
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
)
Size = tuple[int, int]
"""Height and width in pixels."""
Networks = tuple[AutoencoderKL, UNet2DConditionModel]


@dataclass(frozen=True)
class Scale:
    """What is run: on the GPU the real sizes, elsewhere tiny ones."""

    device: str
    dtype: torch.dtype
    sizes: tuple[Size, ...]
    batches: tuple[int, ...]
    checked: Size
    attention: tuple[int, int, int]
    """Heads, tokens and width of a head with which ways to compute attention are compared."""
    matrix: int
    entropy: EntroformerSettings


GPU = Scale("cuda", torch.bfloat16, ((512, 768), (1024, 1024)), (1, 4, 8), (256, 384), (5, 16384, 64), 8192, A4)
REHEARSAL = Scale("cpu", torch.float32, ((64, 96),), (1, 2), (64, 96), (2, 64, 8), 256, replace(MINI, dim=32, depth=1))


@dataclass(frozen=True)
class Variant:
    """A way to run the networks: which, and the order in which ways to compute attention are considered."""

    name: str
    networks: Networks
    backends: tuple[SDPBackend, ...]


def networks(scale: Scale, device: str) -> Networks:
    """VAE and U-Net with random weights."""
    tiny = scale.device == "cpu"
    settings = {
        part: {key: value for key, value in SD21_CONFIGURATION[part].items() if key != "_class_name"}
        for part in ("vae", "unet")
    }
    with torch.device(device):
        vae = AutoencoderKL(**settings["vae"] | (TINY_VAE if tiny else {}))
        unet = UNet2DConditionModel(**settings["unet"] | (TINY_UNET if tiny else {}))
    for network in (vae, unet):
        network.to(scale.dtype, memory_format=torch.channels_last).eval().requires_grad_(False)
    return vae, unet


def synchronized(device: str) -> float:
    """The time, when all work given to the device is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def captured(work: Callable[[], object], device: str) -> Callable[[], object]:
    """The work as a CUDA graph; as it is on another device."""
    if device != "cuda":
        return work
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def milliseconds(work: Callable[[], object], device: str) -> float:
    """Median after one run to warm up, of REPEATS runs or as many as begin within SECONDS_A_ROW."""
    work()
    taken: list[float] = []
    end = synchronized(device) + SECONDS_A_ROW
    while not taken or (device == "cuda" and len(taken) < REPEATS and time.perf_counter() < end):
        start = synchronized(device)
        work()
        taken.append(1000 * (synchronized(device) - start))
    return statistics.median(taken)


def matrix_peak(scale: Scale) -> float:
    """TFLOP/s of a square matrix product."""
    a, b = (torch.randn(scale.matrix, scale.matrix, device=scale.device, dtype=scale.dtype) for _ in range(2))
    return 2 * scale.matrix**3 / milliseconds(lambda: a @ b, scale.device) / 1e9


def parts(vae: AutoencoderKL, unet: UNet2DConditionModel, size: Size, batch: int) -> dict[str, Callable[[], Tensor]]:
    """The three networks on a batch of pictures of a size."""

    def random(*shape: int) -> Tensor:
        values = torch.randn(shape, device=vae.device, dtype=vae.dtype)
        return values.to(memory_format=torch.channels_last) if len(shape) == 4 else values

    height, width = size
    pixels, latent = random(batch, 3, height, width), random(batch, 4, height // 8, width // 8)
    prompt = random(batch, 77, unet.config.cross_attention_dim)
    t = torch.full((batch,), 100.0, device=vae.device)

    def decode() -> Tensor:
        x = latent
        for _ in range(STEPS):
            x = 0.9 * x + 0.1 * unet(x, t, encoder_hidden_states=prompt).sample
        return vae.decode(x).sample

    return {
        "VAE encoder": lambda: vae.encode(pixels).latent_dist.mean,
        "U-Net step": lambda: unet(latent, t, encoder_hidden_states=prompt).sample,
        "VAE decoder": lambda: vae.decode(latent).sample,
        TOGETHER: decode,
    }


def operations(scale: Scale) -> dict[tuple[Size, str], int]:
    """Floating-point operations on one picture, a multiplication and an addition counted as two; without a device."""
    counts, shapes = {}, networks(scale, "meta")
    for size in scale.sizes:
        works = parts(*shapes, size, 1)
        for name in ALONE:
            with FlopCounterMode(display=False) as counter:
                works[name]()
            counts[size, name] = int(counter.get_total_flops())
        counts[size, TOGETHER] = STEPS * counts[size, "U-Net step"] + counts[size, "VAE decoder"]
    return counts


def quickest_attention(scale: Scale) -> tuple[SDPBackend, ...]:
    """The backends, those with fused kernels in order of their time on self-attention at a U-Net's full resolution."""
    heads, tokens, width = scale.attention
    joined = torch.randn(1, tokens, 3, heads, width, device=scale.device, dtype=scale.dtype)
    query, key, value = joined.permute(2, 0, 3, 1, 4)
    taken: dict[SDPBackend, float] = {}
    for backend in BACKENDS[:2]:
        try:
            with sdpa_kernel(backend):
                attend = captured(lambda: F.scaled_dot_product_attention(query, key, value), scale.device)
                taken[backend] = milliseconds(attend, scale.device)
        except RuntimeError as error:
            print(f"{backend.name} is not to be had: {first_line(error)}", flush=True)
    print(", ".join(f"{backend.name} {spent:.2f} ms" for backend, spent in taken.items()), flush=True)
    return (*sorted(taken, key=lambda backend: taken[backend]), *(one for one in BACKENDS if one not in taken))


def variants(scale: Scale) -> list[Variant]:
    """The ways to run the networks, the one to be measured first, the others in case that it fails."""
    plain = networks(scale, scale.device)
    result = [Variant("diffusers' own", plain, BACKENDS)]
    try:
        prepared = for_inference(plain[0]), for_inference(plain[1])
        for name in parts(*plain, scale.checked, 1):
            torch.manual_seed(0)
            expected = parts(*plain, scale.checked, 1)[name]().float()
            torch.manual_seed(0)
            found = parts(*prepared, scale.checked, 1)[name]().float()
            print(f"{name}: relative difference {float((found - expected).norm() / expected.norm()):.1e}", flush=True)
    except Exception as error:
        print(f"codec.diffusion.gpu failed: {first_line(error)}", flush=True)
        return result
    quickest = quickest_attention(scale)
    ways = dict.fromkeys((quickest, BACKENDS))
    return [Variant(f"codec.diffusion.gpu, {way[0].name}", prepared, way) for way in ways] + result


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


def entropy_milliseconds(scale: Scale, size: Size) -> tuple[float, float]:
    """Encoding and decoding of one picture's symbols with the exact model, range coder on the processor included."""
    torch.manual_seed(0)
    model = ExactEntropyModel(export(Entroformer(scale.entropy)), scale.entropy, scale.device)
    tables, shape, codes = Tables(build_counts()), (size[0] // 8, size[1] // 8), torch.full((1, 4), 144)
    symbols = np.random.default_rng(0).normal(0, 1.5, (4, *shape)).round().astype(np.int32)
    z = np.zeros(model.hyper_shape(*shape), np.int32)
    data = compress(model, tables, symbols, [z], codes).data
    encode = milliseconds(lambda: compress(model, tables, symbols, [z], codes), scale.device)
    return encode, milliseconds(lambda: decompress(model, tables, data, shape, codes), scale.device)


def measured(ways: list[Variant], scale: Scale, name: str, size: Size, batch: int) -> float | None:
    """Milliseconds of a part on a batch, by the first of the ways that works; None where memory is short.

    Ways that fail are taken from the list, with a word about it; the last stays.
    """
    while True:
        way = ways[0]
        try:
            with sdpa_kernel(list(way.backends), set_priority=True):
                return milliseconds(captured(parts(*way.networks, size, batch)[name], scale.device), scale.device)
        except torch.OutOfMemoryError:
            return None
        except Exception as error:
            print(f"{way.name} failed at {name}, batch {batch}: {first_line(error)}", flush=True)
            if len(ways) == 1:
                return None
            ways.pop(0)


def rows(scale: Scale) -> Iterator[tuple[Size, str, int]]:
    """What to measure: everything at batch 1, then what larger batches gain."""
    yield from product(scale.sizes, ALONE, scale.batches[:1])
    yield scale.sizes[-1], TOGETHER, 1
    for batch in scale.batches[1:]:
        yield from product(scale.sizes[::-1], ALONE[::-1], (batch,))


@torch.no_grad()
def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=100, help="no row begins after this time")
    budget, begin = parser.parse_args().seconds, time.perf_counter()
    scale = GPU if torch.cuda.is_available() else REHEARSAL
    if scale is REHEARSAL:
        print("No GPU here: tiny shapes on the processor, to show that this runs. The figures mean nothing.\n")
    else:
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n", flush=True)
    peak = matrix_peak(scale)
    print(f"matrix product {scale.matrix} x {scale.matrix}: {peak:.2f} TFLOP/s", flush=True)
    counts, ways = operations(scale), variants(scale)
    print(f"\nmeasured: {ways[0].name}, ready after {time.perf_counter() - begin:.0f} s\n")
    print("| pixels | part | batch | ms a picture | TFLOP a picture | TFLOP/s | of the matrix product | at second |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.benchmark_limit = True, SEARCH
    full: dict[tuple[Size, str], float] = {}
    for size, name, batch in rows(scale):
        if (passed := time.perf_counter() - begin) > budget:
            print(f"left out after {passed:.0f} s: {size[1]} x {size[0]}, {name}, batch {batch}", flush=True)
            continue
        torch.backends.cudnn.benchmark = passed < budget / 2
        taken = measured(ways, scale, name, size, batch)
        if taken is None:
            continue
        rate = batch * counts[size, name] / taken / 1e9
        full[size, name] = max(rate, full.get((size, name), 0.0))
        print(
            f"| {size[1]} x {size[0]} | {name} | {batch} | {taken / batch:.2f} | {counts[size, name] / 1e12:.2f} "
            f"| {rate:.2f} | {rate / peak:.0%} | {time.perf_counter() - begin:.0f} |",
            flush=True,
        )
    for (size, name), rate in full.items():
        print(f"best batch, {size[1]} x {size[0]}, {name}: {rate / peak:.0%} of the matrix product")
    for size in scale.sizes:
        if time.perf_counter() - begin > budget:
            break
        try:
            encode, decode = entropy_milliseconds(scale, size)
        except Exception as error:
            print(f"entropy stage failed: {first_line(error)}", flush=True)
            break
        print(f"{size[1]} x {size[0]}, entropy stage: encode {encode:.1f} ms, decode {decode:.1f} ms", flush=True)
    print(f"ended after {time.perf_counter() - begin:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    if "--train" in sys.argv:
        from tests.benchmarks import foundation_training

        sys.exit(foundation_training.main([word for word in sys.argv[1:] if word != "--train"]))
    sys.exit(main())
