"""fdc info: the fields of a file, and where its bits go."""

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from codec.cli import files, loading, options
from codec.errors import BundleError
from codec.support.terminal import say

if TYPE_CHECKING:
    from codec.entropy.stream import Symbols
    from codec.format.bitstream import FdcFile
    from codec.format.breakdown import BreakdownEntry


def info(
    source: Annotated[str, typer.Argument(metavar="IN.fdc", help="A compressed picture; - for standard input.")],
    symbols: Annotated[bool, typer.Option("--symbols", help="Decode the symbols and print their statistics.")] = False,
    bundle: options.BundleFolder = None,
    as_json: options.AsJson = False,
) -> None:
    """Show every field of a file and its bit breakdown."""
    data, file = files.parsed(source)
    from codec.format.breakdown import bit_breakdown

    # without its bundle a file still has a header and chunks to show
    entropy = None
    missing = None
    try:
        entropy = loading.entropy(bundle, file)
    except BundleError as error:
        missing = error
    with files.naming(source):
        entries = bit_breakdown(file, entropy)
    if not as_json:
        _show(entries, file, len(data))
    if missing and symbols:
        raise missing
    if missing:
        typer.echo(f"the stream is shown as one entry: {missing}", err=True)
    decoded = None
    if entropy and symbols:
        from codec.entropy.stream import decompress

        codes = file.parameters.channel_codes
        with files.naming(source):
            decoded = decompress(*entropy, file.stream, file.latent_shape, codes, canonical=file.version > 1)
    if as_json:
        typer.echo(json.dumps(_document(source, entries, file, len(data), decoded), indent=1))
    elif decoded is not None:
        _show_symbols(decoded)


def _parts(entries: "Sequence[BreakdownEntry]") -> dict[str, int]:
    """The bits of each part of a file."""
    bits: dict[str, int] = {}
    for entry in entries:
        bits[entry.part] = bits.get(entry.part, 0) + entry.bits
    return bits


def _show(entries: "Sequence[BreakdownEntry]", file: "FdcFile", size: int) -> None:
    bits_of = _parts(entries)
    lines = [(entry.name, entry.bits, entry.value) for entry in entries]
    lines += [(part, bits, f"{bits / (8 * size):.2%} of the file") for part, bits in bits_of.items()]
    total = sum(bits_of.values())
    area = file.width * file.height
    lines.append(("whole file", total, f"{size} bytes, {total / area:.4f} bits per pixel"))
    first_sum = len(entries)
    last = len(lines) - 1
    for number, (name, bits, text) in enumerate(lines):
        if number in (first_sum, last):
            typer.echo()
        say(f"{name:<20} {bits:>9} bits  {text}")


def _document(
    source: str, entries: "Sequence[BreakdownEntry]", file: "FdcFile", size: int, symbols: "Symbols | None"
) -> dict[str, Any]:
    width, height = file.upright_size
    document = {
        "source": source,
        "version": file.version,
        "bundle_id": file.bundle_id,
        "width": width,
        "height": height,
        "gray": file.gray,
        "orientation": file.orientation,
        "quality": file.quality,
        "timestep": file.timestep,
        "bytes": size,
        "bits_per_pixel": 8 * size / (width * height),
        "chunks": [chunk.tag for chunk in file.chunks],
        "entries": [{"name": entry.name, "bits": entry.bits, "value": entry.value} for entry in entries],
        "parts": _parts(entries),
    }
    if symbols is not None:
        document["symbols_sha256"] = _digest(symbols)
    return document


def _digest(symbols: "Symbols") -> str:
    """What must agree between machines: SHA-256 of the symbols as little-endian int32."""
    return hashlib.sha256(symbols.astype("<i4").tobytes()).hexdigest()


def _show_symbols(symbols: "Symbols") -> None:
    """Prints the symbols' hash, and the distribution of each channel's symbols."""
    import numpy as np

    typer.echo(f"\nsymbols: SHA-256 {_digest(symbols)} (int32, little-endian)")
    for channel, values in enumerate(symbols):
        typer.echo(
            f"channel {channel}: {values.min()} to {values.max()}, mean {np.mean(values):.3f}, "
            f"{np.mean(values == 0):.1%} zeros, {len(np.unique(values))} values"
        )
