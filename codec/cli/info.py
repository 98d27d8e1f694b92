"""fdc info: the fields of a file, and where its bits go."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codec.cli import files, loading, options
from codec.errors import BundleError

if TYPE_CHECKING:
    from codec.entropy.stream import Symbols


def info(
    source: Annotated[Path, typer.Argument(metavar="IN.fdc", help="A compressed picture (.fdc).")],
    symbols: Annotated[bool, typer.Option("--symbols", help="Decode the symbols and print their statistics.")] = False,
    bundle: options.BundleFolder = None,
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
    bits_of: dict[str, int] = {}
    for entry in entries:
        bits_of[entry.part] = bits_of.get(entry.part, 0) + entry.bits
    lines = [(entry.name, entry.bits, entry.value) for entry in entries]
    lines += [(part, bits, f"{bits / (8 * len(data)):.2%} of the file") for part, bits in bits_of.items()]
    total = sum(bits_of.values())
    area = file.width * file.height
    lines.append(("whole file", total, f"{len(data)} bytes, {total / area:.4f} bits per pixel"))
    first_sum = len(entries)
    last = len(lines) - 1
    for number, (name, bits, text) in enumerate(lines):
        if number in (first_sum, last):
            typer.echo()
        typer.echo(f"{name:<20} {bits:>9} bits  {text}")
    if missing and symbols:
        raise missing
    if missing:
        typer.echo(f"the stream is shown as one entry: {missing}", err=True)
    if entropy and symbols:
        from codec.entropy.stream import decompress

        codes = file.parameters.channel_codes
        with files.naming(source):
            decoded = decompress(*entropy, file.stream, file.latent_shape, codes, canonical=file.version > 1)
        _show_symbols(decoded)


def _show_symbols(symbols: "Symbols") -> None:
    """Prints what must agree between machines, and the distribution of each channel's symbols."""
    import hashlib

    import numpy as np

    typer.echo(
        f"\nsymbols: SHA-256 {hashlib.sha256(symbols.astype('<i4').tobytes()).hexdigest()} (int32, little-endian)"
    )
    for channel, values in enumerate(symbols):
        typer.echo(
            f"channel {channel}: {values.min()} to {values.max()}, mean {np.mean(values):.3f}, "
            f"{np.mean(values == 0):.1%} zeros, {len(np.unique(values))} values"
        )
