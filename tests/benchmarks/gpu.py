"""python -m tests.benchmarks.gpu [--seconds 290] [--trace FILE]: what a GPU is fed, in one call of five minutes.

1. The exact entropy stage at 1024 x 1024, of the mini network and of entroformer-a4 (random weights): picture by
   picture as before, and together, its network replayed as graphs; streams and symbols must be the same.
   Before it the range coders alone, on the processor: constriction's and the compiled one.
2. A whole decode of four steps in Stable Diffusion 2.1's shapes, entropy stage included.
3. compress-archive from JPEG, without metrics and with the default ones: megapixels a second, what each stage is busy,
   and the time line in the format of Chrome's trace viewer (chrome://tracing, ui.perfetto.dev).
4. Training: samples a second, share of the rate of a large matrix product, and how long the loader is waited for.

Parts are left out when the seconds are over; one that fails is a line. Without a GPU tiny forms of all parts run on the
processor, so that they stay whole: their figures mean nothing, but for the coders'.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import codec.support.torchvision_shim  # noqa: F401

import numpy as np
import torch

from codec.entropy import many, stream
from codec.entropy.coder import SymbolDecoder, SymbolEncoder
from codec.entropy.distribution import LEVEL_STEP, SMALLEST_SIGMA
from codec.entropy.entroformer import A4, MINI, Entroformer, EntroformerSettings
from codec.entropy.export import export
from codec.entropy.integer import ExactEntropyModel
from codec.entropy.tables import Tables, build_counts
from codec.support import processors
from tests.benchmarks import foundation, gpu_archive, gpu_training
from tests.benchmarks.entropy_speed import coder_watched

TOGETHER = 8
"""Pictures that coders on threads take."""


@dataclass(frozen=True)
class Form:
    """What is run: on a GPU the real sizes, elsewhere tiny ones."""

    device: str
    side: int
    """Of the pictures, in pixels."""
    batches: tuple[int, ...]
    entropy: dict[str, EntroformerSettings]
    archive: gpu_archive.Form
    training: gpu_training.Form


TINY = replace(MINI, dim=32, depth=1)
GPU = Form("cuda", 1024, (1, 4, 8), {"mini": MINI, "entroformer-a4": A4}, gpu_archive.GPU, gpu_training.GPU)
REHEARSAL = Form("cpu", 64, (1, 2), {"tiny": TINY}, gpu_archive.REHEARSAL, gpu_training.REHEARSAL)


def entropy_stage(form: Form) -> Iterator[str]:
    """Rows: milliseconds a picture to encode and to decode, and the range coders' part of that."""
    yield "Milliseconds a picture.\n"
    yield "| network | pictures | way | encode | of that coders | decode | of that coders |"
    yield "|---|---|---|---|---|---|---|"
    tables = Tables(build_counts())
    shape = (form.side // 8, form.side // 8)
    for name, settings in form.entropy.items():
        torch.manual_seed(0)
        model = ExactEntropyModel(export(Entroformer(settings)), settings, form.device)
        for count in form.batches:
            rng = np.random.default_rng(count)
            symbols = [rng.normal(0, 1.5, (4, *shape)).round().astype(np.int32) for _ in range(count)]
            hyper = [[np.zeros(model.hyper_shape(*shape), np.int32)] for _ in symbols]
            codes = torch.full((count, 4), 144)
            singly = partial(_singly, model, tables, symbols, hyper, codes)
            together = partial(many.compress_many, model, tables, symbols, hyper, codes)
            streams = [one.data for one in together()]
            if [one.data for one in singly()] != streams:
                raise AssertionError(f"{name}: other streams together than one by one")
            found = many.decompress_many(model, tables, streams, shape, codes)
            if not all(np.array_equal(own, back) for own, back in zip(symbols, found, strict=True)):
                raise AssertionError(f"{name}: other symbols than were encoded")
            ways: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
                "one by one": (singly, partial(_read_singly, model, tables, streams, shape, codes)),
                "together": (together, partial(many.decompress_many, model, tables, streams, shape, codes)),
            }
            for way, works in ways.items():
                cells = " | ".join(cell for work in works for cell in _timed(work, count, form.device))
                yield f"| {name} | {count} | {way} | {cells} |"


def coders() -> Iterator[str]:
    """Milliseconds of the symbols of a picture of 1024 x 1024, and of one among several on threads."""
    tables = Tables(build_counts())
    count = 4 * 128 * 128
    rng = np.random.default_rng(0)
    levels = rng.normal(50, 15, count).round().clip(0, 127).astype(np.int64)
    means = rng.integers(-100, 100, count)
    spread = SMALLEST_SIGMA * np.exp(levels * LEVEL_STEP)
    symbols = np.round(means / 32 + rng.normal(0, 1, count) * spread).astype(np.int32)
    yield (
        f"{count} symbols, {processors.available()} threads, load average {os.getloadavg()[0]:.1f}. Milliseconds of a "
        "processor for one, wall time a picture for several.\n"
    )
    yield f"| coder | encode one | decode one | decode one of {TOGETHER} on threads, wall |"
    yield "|---|---|---|---|"
    writer: Callable[[], SymbolEncoder] = partial(SymbolEncoder, tables)
    encoder = writer()
    encoder.write(symbols, means, levels)
    data = encoder.finish()
    reader: Callable[[], SymbolDecoder] = partial(SymbolDecoder, tables, data, canonical=True)
    yield "| constriction | " + _coder_cells(writer, reader, symbols, means, levels)
    if many.has_compiled_coder():
        from codec.entropy.compiled import CompiledDecoder, CompiledEncoder

        compiled_writer = partial(CompiledEncoder, tables)
        compiled_reader = partial(CompiledDecoder, tables, data)
        yield "| compiled | " + _coder_cells(compiled_writer, compiled_reader, symbols, means, levels)


def _coder_cells(
    writer: Callable[[], SymbolEncoder],
    reader: Callable[[], SymbolDecoder],
    symbols: stream.Symbols,
    means: many.Numbers,
    levels: many.Numbers,
) -> str:
    def read(_: int = 0) -> None:
        if not np.array_equal(reader().read(means, levels), symbols):
            raise AssertionError("a coder reads other symbols than were written")

    cells = [_processor_milliseconds(lambda: writer().write(symbols, means, levels)), _processor_milliseconds(read)]
    with ThreadPoolExecutor(processors.available()) as pool:
        started = time.perf_counter()
        list(pool.map(read, range(TOGETHER)))
        cells.append(1000 * (time.perf_counter() - started) / TOGETHER)
    return " | ".join(f"{cell:.1f}" for cell in cells) + " |"


def _processor_milliseconds(work: Callable[[], None]) -> float:
    """Of one call, after one to warm up: the least of three."""
    work()
    taken = []
    for _ in range(3):
        started = time.process_time()
        work()
        taken.append(1000 * (time.process_time() - started))
    return min(taken)


def _timed(work: Callable[[], object], count: int, device: str) -> tuple[str, str]:
    """Milliseconds a picture, and those of the coders, added up over threads."""
    spent = foundation.milliseconds(work, device)
    with coder_watched() as watch:
        work()
    return f"{spent / count:.1f}", f"{1000 * watch.seconds / count:.1f}"


def _singly(
    model: ExactEntropyModel,
    tables: Tables,
    symbols: list[stream.Symbols],
    hyper: list[list[stream.Symbols]],
    codes: torch.Tensor,
) -> list[stream.CodedStream]:
    every = zip(symbols, hyper, codes.split(1), strict=True)
    return [stream.compress(model, tables, own, z, code) for own, z, code in every]


def _read_singly(
    model: ExactEntropyModel, tables: Tables, streams: list[bytes], shape: tuple[int, int], codes: torch.Tensor
) -> list[stream.Symbols]:
    every = zip(streams, codes.split(1), strict=True)
    return [stream.decompress(model, tables, data, shape, code) for data, code in every]


@torch.no_grad()
def whole_decode(form: Form) -> Iterator[str]:
    """Four steps of a foundation model and its decoder, then the entropy stage before them."""
    scale = foundation.GPU if form.device == "cuda" else foundation.REHEARSAL
    size = scale.sizes[-1]
    ways = foundation.variants(scale)
    networks = foundation.measured(ways, scale, foundation.TOGETHER, size, 1)
    _, entropy = foundation.entropy_milliseconds(scale, size)
    model, tables, shape, codes = _largest(form, size)
    symbols = np.random.default_rng(0).normal(0, 1.5, (4, *shape)).round().astype(np.int32)
    z = [[np.zeros(model.hyper_shape(*shape), np.int32)]]
    streams = [many.compress_many(model, tables, [symbols], z, codes)[0].data]
    together = partial(many.decompress_many, model, tables, streams, shape, codes)
    graphed = foundation.milliseconds(together, form.device)
    if networks is None:
        yield "the networks do not fit this card's memory"
        return
    yield f"{size[1]} x {size[0]}, {ways[0].name}, four steps and VAE decoder: {networks:.1f} ms"
    yield f"entropy stage before: {entropy:.1f} ms, whole decode {networks + entropy:.1f} ms"
    yield f"entropy stage as graphs: {graphed:.1f} ms, whole decode {networks + graphed:.1f} ms"


def _largest(form: Form, size: tuple[int, int]) -> tuple[ExactEntropyModel, Tables, tuple[int, int], torch.Tensor]:
    settings = list(form.entropy.values())[-1]
    torch.manual_seed(0)
    model = ExactEntropyModel(export(Entroformer(settings)), settings, form.device)
    return model, Tables(build_counts()), (size[0] // 8, size[1] // 8), torch.full((1, 4), 144)


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=290, help="no part begins after this time")
    parser.add_argument("--trace", type=Path, help="where the time line of the archive is written, as JSON")
    parser.add_argument("--bundle", default="", help="of the archive; the embedded one if left out")
    parser.add_argument("--only", nargs="+", choices=("coders", "entropy", "decode", "archive", "training"))
    given = parser.parse_args()
    begin = time.perf_counter()
    form = GPU if torch.cuda.is_available() else REHEARSAL
    if form is REHEARSAL:
        print("No GPU here: tiny forms on the processor, to show that this runs.")
        print("The figures mean nothing, but for the coders'.\n")
    else:
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n", flush=True)
    peak = foundation.matrix_peak(foundation.GPU if form is GPU else foundation.REHEARSAL)
    print(f"matrix product: {peak:.2f} TFLOP/s", flush=True)
    with tempfile.TemporaryDirectory() as home:
        parts: dict[str, Callable[[], Iterator[str]]] = {
            "coders": coders,
            "entropy": partial(entropy_stage, form),
            "archive": partial(gpu_archive.rows, form.archive, Path(home), given.bundle, given.trace),
            "decode": partial(whole_decode, form),
            "training": partial(gpu_training.rows, form.training, Path(home), peak),
        }
        failed = 0
        for name, part in parts.items():
            if given.only and name not in given.only:
                continue
            passed = time.perf_counter() - begin
            if passed > given.seconds:
                print(f"\nleft out after {passed:.0f} s: {name}", flush=True)
                continue
            print(f"\n## {name}, at second {passed:.0f}\n", flush=True)
            try:
                for line in part():
                    print(line, flush=True)
            except Exception as error:  # the other parts must not be lost with this one
                print(f"{name} failed: {foundation.first_line(error)}", flush=True)
                failed += 1
    print(f"\nended after {time.perf_counter() - begin:.0f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
