"""fdc decode: a file back to a picture."""

from pathlib import Path
from typing import Annotated

import typer

from codec.cli import files, loading, options


def decode(
    source: Annotated[Path, typer.Argument(metavar="IN.fdc", help="A compressed picture (.fdc).")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT.png", help="The PNG file to write.")],
    bundle: options.BundleFolder = None,
    backbone: options.BackbonePlace = None,
    device: options.Device = "cpu",
    force: options.Force = False,
) -> None:
    """Decode a file to PNG, with its transparency and metadata.

    Finds the bundle by the id in the file, in the package or under --bundle.
    """
    if output.suffix.lower() != ".png":
        raise typer.BadParameter(f"{output} must end in .png, the only supported output format")
    files.check_output(output, force)
    data, file = files.parsed(source)
    from codec.containers.writing import encode_png

    with files.naming(source):
        codec = loading.codec(bundle, backbone, device, file)
        picture = codec.decode_picture(data)
    with files.written(output) as temporary:
        temporary.write_bytes(encode_png(picture))
    width, height = file.upright_size
    typer.echo(f"{output}: {width} x {height}")
