"""Bit breakdown of an .fdc file: every byte belongs to exactly one entry."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from codec.entropy.coder import SymbolDecoder, SymbolEncoder
from codec.entropy.distribution import alpha_of_code
from codec.entropy.integer import ExactEntropyModel
from codec.entropy.stream import tiles
from codec.entropy.tables import Tables
from codec.format.bitstream import BUNDLE_ID_BYTES, SIGNATURE, FdcFile
from codec.format.chunks import Chunk
from codec.format.tags import NAMES, REPEATABLE

Part = Literal["header", "side information", "hyper-latent", "latent", "stream", "chunks"]


@dataclass(frozen=True)
class BreakdownEntry:
    """A field of a file: its part, name, value as text, and size in bits."""

    part: Part
    name: str
    value: str
    bits: int


def bit_breakdown(file: FdcFile, entropy: tuple[ExactEntropyModel, Tables] | None = None) -> list[BreakdownEntry]:
    """All fields in file order. The stream is one entry unless the bundle's entropy model is given to split it.

    Raises BitstreamError for an invalid stream.
    """
    entries = [BreakdownEntry(part, name, value, 8 * size) for part, name, value, size in _header(file)]
    length = len(file.stream)
    rows, columns = file.latent_shape
    if entropy is None:
        entries.append(BreakdownEntry("stream", "hyper-latent, latent", f"4 x {rows} x {columns}", 8 * length))
    else:
        hyper = hyper_bits(file, *entropy)
        shape = entropy[0].hyper_shape(rows, columns)
        entries.append(BreakdownEntry("hyper-latent", "hyper-latent", " x ".join(map(str, shape)), hyper))
        entries.append(BreakdownEntry("latent", "latent", f"4 x {rows} x {columns}", 8 * length - hyper))
    if file.version > 1:
        shown = "{} (shown as {} x {})".format(file.orientation, *file.upright_size)
        entries.append(BreakdownEntry("header", "orientation", shown, 8))
    seen: dict[str, int] = {}
    for chunk in file.chunks:
        index = seen.get(chunk.tag, 0)
        seen[chunk.tag] = index + 1
        frame = _frame_bytes(file, chunk, index)
        value = f"{chunk.tag}: of {len(chunk.content)} bytes"
        entries.append(BreakdownEntry("chunks", NAMES[chunk.tag], value, 8 * (frame + len(chunk.coded))))
    for tag, size in file.unknown:
        entries.append(
            BreakdownEntry("chunks", "unknown chunk", f"{tag}: {size} bytes", 8 * (4 + _varint_bytes(size) + size))
        )
    return [*entries, BreakdownEntry("header", "checksum", "correct", 32)]


def _header(file: FdcFile) -> list[tuple[Part, str, str, int]]:
    """Yields part, name, value and bytes of each field before the stream."""
    parameters = file.parameters
    alphas = ", ".join(f"{alpha_of_code(code):.4f} (code {code})" for code in parameters.alpha_codes)
    flags = []
    if len(parameters.alpha_codes) == 4:
        flags.append("four alpha codes")
    if file.gray:
        flags.append("gray")
    if file.version == 1:
        flags += [NAMES[chunk.tag] for chunk in file.chunks]
    signature: list[tuple[Part, str, str, int]] = [
        ("header", "signature", "FDC", 3 if file.version == 1 else len(SIGNATURE)),
        ("header", "version", str(file.version), 1),
    ]
    if file.version > 1:
        signature.append(("header", "minor version", str(file.minor), 1))
    return [
        *signature,
        ("header", "flags", ", ".join(flags) or "none", 1),
        ("header", "bundle id", file.bundle_id, BUNDLE_ID_BYTES),
        ("header", "width", str(file.width), _varint_bytes(file.width)),
        ("header", "height", str(file.height), _varint_bytes(file.height)),
        ("header", "lambda", f"{file.quality:g} (code {file.quality_code})", 1),
        ("side information", "timestep", f"{file.timestep:g} (code {parameters.timestep_code})", 2),
        ("side information", "alpha", alphas, len(parameters.alpha_codes)),
        ("header", "stream length", str(len(file.stream)), _varint_bytes(len(file.stream))),
    ]


def _frame_bytes(file: FdcFile, chunk: Chunk, index: int) -> int:
    """Overhead of a chunk in bytes: tag, length and index."""
    if file.version == 1:
        return _varint_bytes(len(chunk.coded))
    own = _varint_bytes(index) if chunk.tag in REPEATABLE else 0
    return 4 + _varint_bytes(len(chunk.coded) + own) + own


def hyper_bits(file: FdcFile, model: ExactEntropyModel, tables: Tables) -> int:
    """Bits of the hyper-latents in the stream, found by decoding and re-encoding their symbols."""
    means, levels = (prior.flatten().cpu().numpy() for prior in model.prior(file.parameters.channel_codes))
    decoder = SymbolDecoder(tables, file.stream)
    encoder = SymbolEncoder(tables)
    for rows, columns in tiles(*file.latent_shape):
        _, height, width = model.hyper_shape(rows.stop - rows.start, columns.stop - columns.start)
        priors = (np.repeat(means, height * width), np.repeat(levels, height * width))
        encoder.write(decoder.read(*priors), *priors)
    return encoder.bits


def _varint_bytes(value: int) -> int:
    return max(1, -(-value.bit_length() // 7))
