"""fdc export-onnx: the networks of a bundle's embedded backbone as ONNX files."""

from pathlib import Path
from typing import Annotated

import typer

from codec.cli import files, options
from codec.support.terminal import say


def export_onnx(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder to write the two files to.")],
    bundle: Annotated[
        str | None, typer.Argument(metavar="BUNDLE", help="Folder of a trained codec. [default: the embedded one]")
    ] = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Write the U-Net and the VAE decoder of an embedded backbone as ONNX, and check them against PyTorch."""
    from codec.browser.checking import checked_networks
    from codec.browser.networks import DECODER, UNET
    from codec.bundle import Bundle
    from codec.bundle_id import DEFAULT_BUNDLE
    from codec.errors import SettingsError

    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"cannot make the folder {output}: {error.strerror}") from None
    paths = [output / UNET, output / DECODER]
    for path in paths:
        files.check_output(path, overwrite)
    networks = checked_networks(Bundle.open(bundle or DEFAULT_BUNDLE))
    for path, data, difference in zip(
        paths,
        (networks.unet, networks.decoder),
        (networks.unet_difference, networks.decoder_difference),
        strict=True,
    ):
        files.publish(data, path, overwrite=overwrite)
        say(f"{path}: {len(data)} bytes, largest difference from PyTorch {difference:.2g}")
