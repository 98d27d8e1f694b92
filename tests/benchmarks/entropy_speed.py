"""python -m tests.benchmarks.entropy_speed FOLDER: seconds of the entropy stage, network and range coder apart.

Medians over the folder's pictures at lambda 8, after one picture to warm up. With --order or --size a4 the network has
random weights, whose time is the same, and the symbols are still the pictures'. --parts adds what matrix products, the
choice of the best keys, the sums of their values and everything else take of decoding. --device cuda runs the network
there.
"""

import argparse
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from codec import Codec, read_image
from codec.entropy import arithmetic, stream
from codec.entropy.coder import SymbolDecoder, SymbolEncoder
from codec.entropy.dither import dither
from codec.entropy.entroformer import A4, Entroformer
from codec.entropy.export import export
from codec.entropy.integer import ExactEntropyModel
from codec.entropy.rate import hyper_latent
from codec.images import to_tensor
from codec.quantization.parameters import QuantizationParameters
from codec.quantization.quantizer import alpha_code_of_quality

QUALITY = 8.0
PRODUCTS = {"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::matmul", "aten::linear"}
"""Operations that count as matrix products."""


class Stopwatch:
    """Adds up the seconds of calls."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time added."""

        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start

        return call


@contextmanager
def coder_watched() -> Iterator[Stopwatch]:
    """Measures the range coder, in encoder and decoder."""
    watch = Stopwatch()
    write = SymbolEncoder.write
    read = SymbolDecoder.read
    SymbolEncoder.write = watch.timed(write)  # type: ignore[method-assign]
    SymbolDecoder.read = watch.timed(read)  # type: ignore[method-assign]
    try:
        yield watch
    finally:
        SymbolEncoder.write = write  # type: ignore[method-assign]
        SymbolDecoder.read = read  # type: ignore[method-assign]


def seconds(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """The result, the network's seconds and the coder's."""
    with coder_watched() as watch:
        start = time.perf_counter()
        result = work()
        # A GPU computes on after the call has returned.
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        whole = time.perf_counter() - start
    return result, whole - watch.seconds, watch.seconds


def shares(work: Callable[[], Any], device: str) -> dict[str, float]:
    """Seconds of matrix products, of the choice of keys, of the sums of their values and of all else."""
    watch = Stopwatch()
    largest = arithmetic._largest
    arithmetic._largest = watch.timed(largest)
    activities = [ProfilerActivity.CPU]
    if device != "cpu":
        activities.append(ProfilerActivity.CUDA)
    try:
        with profile(activities=activities) as profiler:
            work()
    finally:
        arithmetic._largest = largest
    found = {"matrix products": 0.0, "choosing keys": 0.0, "sums of kept values": 0.0, "other": 0.0}
    for event in profiler.key_averages():
        if event.key in PRODUCTS:
            kind = "matrix products"
        elif event.key == "aten::topk":
            kind = "choosing keys"
        elif event.key == "aten::_embedding_bag_forward_only":
            kind = "sums of kept values"
        else:
            kind = "other"
        found[kind] += (event.self_cpu_time_total if device == "cpu" else event.self_device_time_total) / 1e6
    if device == "cpu":
        found["choosing keys"] = watch.seconds  # by NumPy, which torch's profiler does not see
    return found


def entropy_model(codec: Codec, order: str | None, size: str | None, device: str) -> ExactEntropyModel:
    """The bundle's model, or one of the sizes and the order asked for."""
    settings = A4 if size == "a4" else codec.bundle.config.entropy
    settings = dataclasses.replace(settings, order=order or settings.order)  # type: ignore[arg-type]
    if settings != codec.bundle.config.entropy:
        torch.manual_seed(0)
        return ExactEntropyModel(export(Entroformer(settings)), settings, device)
    from tests.benchmarks.exactness import load

    return load(codec.bundle.path, device)[0]


@torch.no_grad()
def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--order", choices=("parallel", "serial"))
    parser.add_argument("--size", choices=("mini", "a4"))
    parser.add_argument("--count", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--parts", action="store_true")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        print("no GPU here: nothing measured", file=sys.stderr)
        return 1
    codec = Codec.load(*[given.bundle] if given.bundle else [])
    model = entropy_model(codec, given.order, given.size, given.device)
    code = alpha_code_of_quality(QUALITY, codec.bundle.config.alpha_at_one)
    parameters = QuantizationParameters((code,), 0)
    rows = []
    parts: dict[str, float] = {}
    codes = parameters.channel_codes
    paths = sorted(given.folder.iterdir())[: given.count]
    for place, path in enumerate([paths[0], *paths]):
        scaled = parameters.alpha * codec.backbone.encode(to_tensor(read_image(path).pixels)[None])
        symbols = torch.round(scaled + dither(scaled, model.settings.dither))[0].int().numpy()
        shape = (scaled.shape[-2], scaled.shape[-1])
        hyper = []
        for tile_rows, tile_columns in stream.tiles(*shape):
            z = hyper_latent(codec.encoder, scaled[..., tile_rows, tile_columns], codes, codec.constants)[0]
            hyper.append(z.round().int().numpy())
        coded, *encoding = seconds(partial(stream.compress, model, codec.tables, symbols, hyper, codes))
        decompress = partial(stream.decompress, model, codec.tables, coded.data, shape, codes)
        decoded, *decoding = seconds(decompress)
        if not np.array_equal(decoded, symbols):
            raise AssertionError(f"{path.name} decoded to other symbols")
        # The first picture comes twice: at first it warms up, or is looked at part by part.
        if place:
            rows.append((sum(encoding), *encoding, sum(decoding), *decoding))
        elif given.parts:
            parts = shares(decompress, given.device)
    settings = model.settings
    print(
        f"{len(rows)} pictures of {given.folder.name}, {given.device}, {torch.get_num_threads()} thread(s), "
        f"dim {settings.dim}, {settings.depth} blocks, {settings.order} order\n"
    )
    print("| | whole (s) | network (s) | range coder (s) |\n|---|---|---|---|")
    medians = [statistics.median(column) for column in zip(*rows, strict=True)]
    for name, part in (("encode", medians[:3]), ("decode", medians[3:])):
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in part) + " |")
    if parts:
        spent = ", ".join(f"{part} {seconds_of:.3f} s" for part, seconds_of in parts.items())
        print(f"\nDecoding the first picture under the profiler: {spent}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
