"""Where the bits of an .fdc file went: each byte of it belongs to exactly one entry."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from codec.entropy.coder import SymbolDecoder, SymbolEncoder
from codec.entropy.distribution import alpha_of_code
from codec.entropy.integer import ExactEntropyModel
from codec.entropy.stream import tiles
from codec.entropy.tables import Tables
from codec.format.bitstream import BUNDLE_ID_BYTES, MAGIC, VERSION, File

Part = Literal["header", "side information", "hyper-latent", "latent", "stream", "chunks"]


@dataclass(frozen=True)
class Entry:
    """A field of a file: the part it belongs to, its name, its value as text, its bits."""

    part: Part
    name: str
    value: str
    bits: int


def account(file: File, entropy: tuple[ExactEntropyModel, Tables] | None = None) -> list[Entry]:
    """All fields in file order; the stream is one entry unless the bundle's entropy model is there to split it.

    Raises BitstreamError for a stream that no encoder wrote.
    """
    parameters, length = file.parameters, len(file.stream)
    alphas = ", ".join(f"{alpha_of_code(code):.4f} (code {code})" for code in parameters.alpha_codes)
    chunks = {
        "alpha plane": file.chunks.alpha,
        "colour profile": file.chunks.icc,
        "EXIF block": file.chunks.exif,
    }
    kinds = ["four alpha codes"] * (len(parameters.alpha_codes) == 4) + ["grey"] * file.grey
    kinds += [name for name, chunk in chunks.items() if chunk]
    fields: list[tuple[Part, str, str, int]] = [
        ("header", "magic", MAGIC.decode(), len(MAGIC)),
        ("header", "version", str(VERSION), 1),
        ("header", "flags", ", ".join(kinds) or "none", 1),
        ("header", "bundle id", file.bundle_id, BUNDLE_ID_BYTES),
        ("header", "width", str(file.width), _varint_bytes(file.width)),
        ("header", "height", str(file.height), _varint_bytes(file.height)),
        ("header", "lambda", f"{file.quality:g} (code {file.quality_code})", 1),
        ("side information", "timestep", f"{file.timestep:g} (code {parameters.timestep_code})", 2),
        ("side information", "alpha", alphas, len(parameters.alpha_codes)),
        ("header", "stream length", str(length), _varint_bytes(length)),
    ]
    entries = [Entry(part, name, value, 8 * size) for part, name, value, size in fields]
    rows, columns = file.latent_shape
    if entropy is None:
        entries.append(Entry("stream", "hyper-latent, latent", f"4 x {rows} x {columns}", 8 * length))
    else:
        hyper = hyper_bits(file, *entropy)
        shape = entropy[0].hyper_shape(rows, columns)
        entries.append(Entry("hyper-latent", "hyper-latent", " x ".join(map(str, shape)), hyper))
        entries.append(Entry("latent", "latent", f"4 x {rows} x {columns}", 8 * length - hyper))
    for name, chunk in chunks.items():
        if chunk:
            size = len(chunk.coded)
            entries.append(Entry("chunks", name, f"of {len(chunk.content)} bytes", 8 * (_varint_bytes(size) + size)))
    return [*entries, Entry("header", "checksum", "correct", 32)]


def hyper_bits(file: File, model: ExactEntropyModel, tables: Tables) -> int:
    """Bits of the stream that the hyper-latents take: their symbols are read and written again."""
    means, levels = (prior.flatten().cpu().numpy() for prior in model.prior(file.parameters.channel_codes))
    decoder, encoder = SymbolDecoder(tables, file.stream), SymbolEncoder(tables)
    for rows, columns in tiles(*file.latent_shape):
        _, height, width = model.hyper_shape(rows.stop - rows.start, columns.stop - columns.start)
        priors = np.repeat(means, height * width), np.repeat(levels, height * width)
        encoder.write(decoder.read(*priors), *priors)
    return encoder.bits


def _varint_bytes(value: int) -> int:
    return max(1, -(-value.bit_length() // 7))
