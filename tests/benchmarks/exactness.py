"""python -m tests.benchmarks.exactness BUNDLE FOLDER: are streams and symbols the same however they are computed?

Latents of the folder's pictures are coded and decoded in separate processes that differ in what may change a result:
threads, instruction sets, library code paths, device (--devices cpu cuda), version of torch (--pythons PATH ...). Each
must give the bytes and the symbols of the first. In one process, batches, the order of tiles and, for a serial bundle,
one-shot against cached computation are compared too. Ends with status 1 when anything differs.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from codec.entropy.entroformer import EntroformerSettings
from codec.entropy.integer import ExactEntropyModel
from codec.entropy.stream import compress, decompress
from codec.entropy.tables import Tables
from codec.entropy.windows import anchor_mask

QUALITIES = (1.0, 4.0, 16.0, 64.0)
ENVIRONMENTS: dict[str, dict[str, str]] = {
    "1 thread": {"OMP_NUM_THREADS": "1"},
    "2 threads": {"OMP_NUM_THREADS": "2"},
    "plain loops (ATEN_CPU_CAPABILITY=default)": {"ATEN_CPU_CAPABILITY": "default"},
    "AVX2 loops (ATEN_CPU_CAPABILITY=avx2)": {"ATEN_CPU_CAPABILITY": "avx2"},
    "MKL without vectors (MKL_CBWR=COMPATIBLE)": {"MKL_CBWR": "COMPATIBLE"},
    "MKL with AVX2 (MKL_CBWR=AVX2)": {"MKL_CBWR": "AVX2"},
    "oneDNN with SSE4.1 (ONEDNN_MAX_CPU_ISA)": {"ONEDNN_MAX_CPU_ISA": "SSE41"},
}


class Cases:
    """Pictures as what the entropy stage is given: symbols, hyper-latent and alpha codes of each."""

    def __init__(self, file: Path) -> None:
        self.tensors = load_file(file)
        self.count = len([name for name in self.tensors if name.startswith("symbols")])

    def __iter__(self) -> Iterator[tuple[NDArray[np.int32], list[NDArray[np.int32]], Tensor]]:
        for i in range(self.count):
            hyper = []
            while f"z{i}.{len(hyper)}" in self.tensors:  # one for each tile
                hyper.append(self.tensors[f"z{i}.{len(hyper)}"].numpy())
            yield self.tensors[f"symbols{i}"].numpy(), hyper, self.tensors[f"codes{i}"]


def load(bundle: Path, device: str) -> tuple[ExactEntropyModel, Tables]:
    """The exact entropy model alone: this runs where the rest of the package's dependencies are not installed."""
    tensors = load_file(bundle / "entropy.safetensors")
    tables = Tables(tensors.pop("counts").numpy())
    settings = EntroformerSettings(**json.loads((bundle / "bundle.json").read_text())["entropy"])
    return ExactEntropyModel(tensors, settings, device), tables


def digest(*parts: Any) -> str:
    """SHA-256 of bytes and arrays."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part if isinstance(part, bytes) else np.ascontiguousarray(part).astype("<i4").tobytes())
    return sha.hexdigest()


def worker(bundle: Path, cases: Path, streams: Path, device: str) -> dict[str, str]:
    """Digests of each case's bytes, and of what decodes from the streams on disk, which the first worker writes."""
    model, tables = load(bundle, device)
    found = {"known answer": model.known_answer()}
    for i, (symbols, hyper, codes) in enumerate(Cases(cases)):
        data = compress(model, tables, symbols, hyper, codes).data
        stream = streams / f"{i}.stream"
        if not stream.exists():
            stream.write_bytes(data)
        decoded = decompress(model, tables, stream.read_bytes(), symbols.shape[1:], codes)
        assert decoded.shape == symbols.shape
        found |= {f"bytes {i}": digest(data), f"symbols {i}": digest(decoded), f"truth {i}": digest(symbols)}
    return found


@torch.no_grad()
def within(bundle: Path, cases: Path) -> Iterator[tuple[str, int, int]]:
    """(what, comparisons, mismatches) of computations that share one process."""
    model, _ = load(bundle, "cpu")
    every = list(Cases(cases))
    shape = every[0][0].shape[1:]
    # Cases of one size and one tile, which alone fit into one batch.
    alike = [case for case in every if case[0].shape[1:] == shape and len(case[1]) == 1][:4]
    tokens = [torch.from_numpy(symbols.reshape(4, -1).T.copy()).long() for symbols, _, _ in alike]
    codes = torch.cat([case[2] for case in alike])
    z = torch.stack([torch.from_numpy(case[1][0]) for case in alike])
    seen = anchor_mask(*shape) if model.settings.order == "parallel" else None

    def distributions(part: slice) -> Tensor:
        symbols = torch.stack(tokens)[part]
        context = model.context(symbols, codes[part], shape, seen)
        hyper = model.hyper(z[part], codes[part], shape)
        return torch.stack(model.parameters(hyper, context, codes[part]).of_all(symbols))

    together = distributions(slice(None))
    alone = {i: distributions(slice(i, i + 1)) for i in reversed(range(len(alike)))}
    differing = sum(not torch.equal(one[:, 0], together[:, i]) for i, one in alone.items())
    yield f"batch of {len(alike)} against one at a time, in reverse", len(alike), differing
    if model.settings.order == "serial":
        symbols = tokens[0][None]
        differing = 0
        whole = model.context(symbols, codes[:1], shape)
        step = model.raster(codes[:1], shape)
        for place in range(symbols.shape[1]):
            differing += not torch.equal(step(symbols)[:, 0], whole[:, place])
        yield "one-shot against cached steps, by position", symbols.shape[1], differing


@torch.no_grad()
def make_cases(bundle: Path, folder: Path, count: int, crop: int | None, target: Path) -> None:
    """The entropy stage's input of the first pictures of a folder, at different rates in turn."""
    from codec import Codec, read_image
    from codec.entropy.rate import hyper_latent
    from codec.entropy.stream import tiles
    from codec.images import to_tensor
    from codec.quantization import quantizer
    from codec.quantization.parameters import QuantizationParameters

    codec = Codec.load(bundle)
    tensors = {}
    for i, path in enumerate(sorted(folder.iterdir())[:count]):
        y = codec.backbone.encode(to_tensor(read_image(path).pixels[:crop, :crop])[None])
        code = quantizer.alpha_code_of_quality(QUALITIES[i % len(QUALITIES)], codec.bundle.config.alpha_at_one)
        parameters = QuantizationParameters((code,), 0)
        scaled = parameters.alpha * y
        codes = parameters.channel_codes
        tensors[f"symbols{i}"] = torch.round(scaled + codec.dither(y))[0].int()
        tensors[f"codes{i}"] = codes
        for k, (rows, columns) in enumerate(tiles(*y.shape[-2:])):
            z = hyper_latent(codec.encoder, scaled[..., rows, columns], codes, codec.constants)
            tensors[f"z{i}.{k}"] = z[0].round().int()
    save_file({name: value.contiguous() for name, value in tensors.items()}, target)


def main() -> int:
    """Print a table of comparisons and mismatches."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=12, help="pictures")
    parser.add_argument("--crop", type=int, help="use the top left square of this side")
    parser.add_argument("--devices", nargs="+", default=["cpu"])
    parser.add_argument("--devices-only", action="store_true", help="leave out the environments of the processor")
    parser.add_argument(
        "--pythons", nargs="+", default=[], help="further interpreters, with torch, numpy, constriction"
    )
    parser.add_argument("--worker", nargs=3, metavar=("CASES", "STREAMS", "DEVICE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        cases, streams, device = given.worker
        print(json.dumps(worker(given.bundle, Path(cases), Path(streams), device)))
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        cases = Path(scratch) / "cases.safetensors"
        streams = Path(scratch) / "streams"
        streams.mkdir()
        make_cases(given.bundle, given.folder, given.count, given.crop, cases)

        def run(name: str, environment: dict[str, str], device: str, python: str) -> dict[str, str]:
            command = [python, "-m", __spec__.name, given.bundle, given.folder, "--worker", cases, streams, device]
            print(f"... {name}", file=sys.stderr)
            arguments = list(map(str, command))
            done = subprocess.run(arguments, env=os.environ | environment, stdout=subprocess.PIPE, check=True)
            return dict(json.loads(done.stdout))

        expected = run("first", ENVIRONMENTS["1 thread"], "cpu", sys.executable)
        wrong = sum(expected[f"symbols {i}"] != expected[f"truth {i}"] for i in range(given.count))
        table = [("decoded against encoded", given.count, wrong)]
        environments = {} if given.devices_only else ENVIRONMENTS
        variants = [(name, environment, "cpu", sys.executable) for name, environment in environments.items()]
        variants += [(f"device {device}", {}, device, sys.executable) for device in given.devices if device != "cpu"]
        variants += [(f"torch {version(python)}", {}, "cpu", python) for python in given.pythons]
        for name, environment, device, python in variants:
            found = run(name, environment, device, python)
            different = [key for key, value in expected.items() if found[key] != value]
            table.append((name, len(expected), len(different)))
        table += within(given.bundle, cases)
    print(f"torch {torch.__version__}, {given.count} pictures of {given.folder.name}, bundle {given.bundle}\n")
    print("| computed with | comparisons | mismatches |\n|---|---|---|")
    compared = sum(row[1] for row in table)
    differing = sum(row[2] for row in table)
    table.append(("all", compared, differing))
    for what, comparisons, mismatches in table:
        print(f"| {what} | {comparisons} | {mismatches} |")
    return 1 if differing > 0 else 0


def version(python: str) -> str:
    """The release of torch that an interpreter has."""
    command = [python, "-c", "import torch; print(torch.__version__)"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
