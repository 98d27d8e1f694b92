"""python -m tests.golden.make: writes the golden files of format version 1, each once.

bundles.tar.xz   small frozen bundles of random weights, one folder for each kind of entropy model
KIND-NAME.fdc    files that have every feature of the format
symbols.json     what each of them must decode to, for ever

Files that exist are never written again: a decoder that reads them otherwise is wrong, not they.
"""

import dataclasses
import hashlib
import json
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.torch import load_file, save_file

from codec import Codec, Picture
from codec.bundle import Bundle
from codec.entropy.entroformer import EntroformerSettings
from codec.entropy.export import export
from codec.entropy.integer import ExactEntropyModel
from codec.errors import SettingsError
from codec.format.bitstream import parse
from codec.format.chunks import parse_content
from codec.format.tags import ALPHA, EXIF, ICC, MetadataBlock
from codec.quantization.estimator import AdapterSettings
from tests.conftest import synthetic
from tests.support.image_files import DISPLAY_P3, profile
from tests.support.tiny_bundles import tiny_bundle

GOLDEN = Path(__file__).parent
BUNDLES = "bundles.tar.xz"
SYMBOLS = "symbols.json"
SIZES = EntroformerSettings(dim=16, depth=2, heads=2, top_k=8, hyper_channels=4)
KINDS: Mapping[str, Mapping[str, Any]] = {
    "parallel": {"entropy": SIZES},
    "conditioned": {
        "entropy": dataclasses.replace(SIZES, channel_conditioning=True),
        "parameters": "learned",
        "adapter": AdapterSettings(channels=(4, 4, 4), alphas=4),
    },
    "serial": {"entropy": dataclasses.replace(SIZES, order="serial")},
}
"""Settings of the bundles by name; the second also has an alpha for each channel."""
DERIVED: Mapping[str, tuple[str, Mapping[str, bool]]] = {
    "dithered": ("parallel", {"dither": True}),
    "dithered-conditioned": ("conditioned", {"dither": True}),
    "dithered-serial": ("serial", {"dither": True}),
    "coarse": ("conditioned", {"dither": True, "finest_attention": False}),
}
"""Bundles that are others but for settings of their entropy model."""
NARROW: Mapping[str, str] = {
    "narrow": "dithered",
    "narrow-conditioned": "conditioned",
    "narrow-serial": "dithered-serial",
}
"""Bundles that are others with narrow grids: the same weights, rounded anew. For version 2 alone."""

EXTREME: Mapping[str, tuple[str, Mapping[str, int]]] = {
    "extreme": ("dithered-conditioned", {}),
    "extreme-serial": ("dithered-serial", {"halvings": 1}),
    "narrow-extreme": ("narrow-conditioned", {}),
}
"""Bundles with larger weights than training gives, so that every clamp of the arithmetic acts. For version 2 alone."""
ENLARGED = {"embed": 3, "project": 7, "merge": 6, "expand": 7, "contract": 5, "0": 4, "1": 4, "inner": 2, "outer": 5}
"""The power of two by which an extreme bundle's linear maps are larger, by the last part of their name."""
EXTREME_CODE = 255
"""The alpha code that has in extreme bundles so large an alpha and prior that means are clamped."""


def pictures() -> dict[str, tuple[Picture, float]]:
    """Pictures and their lambdas: odd sizes, one pixel, two tiles, gray, chunks, extreme rates."""
    exif = Image.Exif()
    exif[0x010F] = "maker"
    block = (MetadataBlock(EXIF, exif.tobytes()),)
    gray = np.repeat(synthetic(33, 47, seed=5)[..., :1], 3, axis=2)
    mask = np.tile(np.arange(31, dtype=np.uint8) * 8, (57, 1))
    return {
        "one-pixel": (Picture(synthetic(1, 1, seed=1)), 8.0),
        "odd": (Picture(synthetic(7, 3, seed=2)), 8.0),
        "plain": (Picture(synthetic(64, 96, seed=3)), 8.0),
        "two-tiles-wide": (Picture(synthetic(16, 1033, seed=4)), 2.0),
        "two-tiles-high": (Picture(synthetic(1040, 9, seed=4)), 2.0),
        "gray": (Picture(gray, gray=True), 8.0),
        "alpha": (Picture(synthetic(57, 31, seed=6), alpha=mask), 8.0),
        "binary-alpha": (Picture(gray, gray=True, alpha=np.where(gray[..., 0] > 100, 255, 0).astype(np.uint8)), 8.0),
        "icc-exif": (
            Picture(synthetic(40, 40, seed=7), icc=profile(2.2, DISPLAY_P3), blocks=block),
            8.0,
        ),
        "lowest-lambda": (Picture(synthetic(90, 70, seed=8)), 0.02),
        "highest-lambda": (Picture(synthetic(32, 24, seed=9)), 3000.0),
        "flat": (Picture(np.full((200, 136, 3), 77, np.uint8), gray=True), 0.5),
    }


def described(codec: Codec, kind: str, data: bytes) -> dict[str, Any]:
    """What must never change about a file: its bundle, its size, its symbols and its chunks."""
    file = parse(data)
    contents = {}
    for chunk in file.chunks:
        contents[chunk.tag] = parse_content(chunk.coded, "EXIF block") if chunk.tag == EXIF else chunk.content
    chunks = {name: contents.get(tag) for name, tag in {"alpha": ALPHA, "icc": ICC, "exif": EXIF}.items()}
    return {
        "bundle": kind,
        "width": file.width,
        "height": file.height,
        "gray": file.gray,
        "symbols": hashlib.sha256(codec.symbols(data).astype("<i4").tobytes()).hexdigest(),
        **{name: chunk and hashlib.sha256(chunk).hexdigest() for name, chunk in chunks.items()},
    }


def bundles(folder: Path, golden: Path = GOLDEN) -> dict[str, Bundle]:
    """The frozen bundles, unpacked into an empty folder."""
    with tarfile.open(golden / BUNDLES) as archive:
        archive.extractall(folder, filter="data")
    return {path.name: Bundle.open(path) for path in sorted(folder.iterdir())}


def derive(folder: Path, kind: str) -> None:
    """Write a derived bundle beside the one that it comes from."""
    other, changes = DERIVED[kind]
    config = Path(shutil.copytree(folder / other, folder / kind)) / "bundle.json"
    content = json.loads(config.read_text())
    content["entropy"] |= changes
    content["known_answer"] = computed_answer(folder / kind, EntroformerSettings(**content["entropy"]))
    config.write_text(json.dumps(content, indent=1) + "\n")


def narrow(folder: Path, kind: str) -> None:
    """Write a bundle with narrow grids beside the one that it comes from."""
    bundle = Path(shutil.copytree(folder / NARROW[kind], folder / kind))
    wide = Bundle.open(bundle)
    model = wide.trainable_entropy().with_grids("narrow")
    counts = load_file(bundle / "entropy.safetensors")["counts"]
    save_file(export(model) | {"counts": counts}, bundle / "entropy.safetensors")
    content = json.loads((bundle / "bundle.json").read_text())
    content["format"] = 2
    content["entropy"]["grids"] = "narrow"
    content["files"]["entropy.safetensors"] = hashlib.sha256((bundle / "entropy.safetensors").read_bytes()).hexdigest()
    content["known_answer"] = computed_answer(bundle, model.settings)
    (bundle / "bundle.json").write_text(json.dumps(content, indent=1) + "\n")


def enlarge(folder: Path, kind: str) -> None:
    """Write an extreme bundle beside the one that it comes from."""
    other, changes = EXTREME[kind]
    bundle = Path(shutil.copytree(folder / other, folder / kind))
    content = json.loads((bundle / "bundle.json").read_text())
    content["entropy"] |= changes
    tensors = load_file(bundle / "entropy.safetensors")
    halvings = content["entropy"]["halvings"]
    beyond = (f"hyper_decoder.grow.{halvings}.", f"hyper_decoder.blocks.{halvings + 1}.")
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(beyond)}
    for name, tensor in tensors.items():
        if name.endswith(".fraction"):
            tensor -= ENLARGED[name.split(".")[-2]]
    tensors["alpha"][EXTREME_CODE] = 2**31 - 1
    tensors["prior.table"][EXTREME_CODE, :2] = 2**19 - 1
    save_file(tensors, bundle / "entropy.safetensors")
    encoder = load_file(bundle / "encoder.safetensors")
    beyond = (f"hyper_encoder.shrink.{halvings}.", f"hyper_encoder.blocks.{halvings + 1}.")
    encoder = {name: tensor for name, tensor in encoder.items() if not name.startswith(beyond)}
    save_file(encoder, bundle / "encoder.safetensors")
    for name in ("encoder.safetensors", "entropy.safetensors"):
        content["files"][name] = hashlib.sha256((bundle / name).read_bytes()).hexdigest()
    content["known_answer"] = computed_answer(bundle, EntroformerSettings(**content["entropy"]))
    (bundle / "bundle.json").write_text(json.dumps(content, indent=1) + "\n")


def computed_answer(bundle: Path, settings: EntroformerSettings) -> str:
    """What the codec computes as the known answer of a bundle's entropy model under these settings."""
    tensors = load_file(bundle / "entropy.safetensors")
    del tensors["counts"]
    return ExactEntropyModel(tensors, settings).known_answer()


def freeze(folder: Path, golden: Path) -> None:
    """Pack the bundles; names and contents alone decide the bytes."""
    with tarfile.open(golden / BUNDLES, "w:xz", preset=9) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                entry = tarfile.TarInfo(path.relative_to(folder).as_posix())
                entry.size = path.stat().st_size
                with path.open("rb") as content:
                    archive.addfile(entry, content)


def make_bundles(golden: Path) -> None:
    """Add the kinds that the archive of bundles lacks."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        frozen = bundles(folder, golden) if (golden / BUNDLES).exists() else {}
        missing = [kind for kind in (*KINDS, *DERIVED, *NARROW, *EXTREME) if kind not in frozen]
        for kind in missing:
            if kind in KINDS:
                tiny_bundle(folder / kind, **KINDS[kind])
            elif kind in DERIVED:
                derive(folder, kind)
            elif kind in NARROW:
                narrow(folder, kind)
            else:
                enlarge(folder, kind)
        if missing:
            freeze(folder, golden)


def make(folder: Path) -> None:
    """Write the kinds that a folder lacks. Raises SettingsError where it has them all."""
    listed = folder / SYMBOLS
    expected: dict[str, dict[str, Any]] = json.loads(listed.read_text()) if listed.exists() else {}
    missing = {*KINDS, *DERIVED} - {each["bundle"] for each in expected.values()}
    if not missing:
        raise SettingsError(f"{folder} has golden files; they are never changed, only added to by a new kind")
    make_bundles(folder)
    with tempfile.TemporaryDirectory() as unpacked:
        frozen = bundles(Path(unpacked), folder)
        for kind in sorted(missing):
            codec = Codec.load(frozen[kind])
            for name, (picture, quality) in pictures().items():
                encoded = codec.encode(picture, quality=quality)
                (folder / f"{kind}-{name}.fdc").write_bytes(encoded.data)
                expected[f"{kind}-{name}.fdc"] = described(codec, kind, encoded.data)
    listed.write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else GOLDEN)
