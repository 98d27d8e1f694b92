"""fdc view: a file in the browser, decoded there."""

import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codec.cli import files, options
from codec.errors import ImageError
from codec.support.terminal import say

if TYPE_CHECKING:
    from codec.bundle import Bundle

SHOWN_BY_BROWSERS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "WEBP")


def view(
    source: Annotated[
        Path | None, typer.Argument(metavar="[FILE.fdc]", help="A compressed picture. [default: an empty page]")
    ] = None,
    original: Annotated[
        Path | None, typer.Argument(metavar="[ORIGINAL]", help="The picture it was made from, to show beside it.")
    ] = None,
    embed_decoder: Annotated[
        bool,
        typer.Option("--embed-decoder", help="Write one page that decodes without a server to --output instead."),
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="PAGE.html", help="The page of --embed-decoder.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on the loopback interface; 0: any free one.")] = 0,
    open_browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
    webgpu: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Compute on the GPU, by ONNX Runtime Web of npm's folder onnxruntime-web/dist."
        ),
    ] = None,
    bundle: options.BundleFolder = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Show a file in the browser, which decodes it; the page takes other files by drag and drop.

    Serves on the loopback interface until Ctrl-C. Nothing leaves this machine.
    """
    if embed_decoder != (output is not None):
        raise typer.BadParameter("--embed-decoder needs --output, and --output needs --embed-decoder")
    if original is not None and source is None:
        raise typer.BadParameter("an original is shown beside FILE.fdc; name that first")
    if output is not None:
        files.check_output(output, overwrite)
    opened, given = _given(source, original, bundle)
    names = [None if path is None else path.name for path in (source, original)]
    if output is not None:
        from codec.browser.embedding import embedded_page

        page = embedded_page(opened.path, opened.id, given, *names, webgpu=webgpu)
        files.publish(page, output, overwrite=overwrite)
        say(f"{output}: {len(page) / 1e6:.1f} MB, decodes files of bundle {opened.id[:16]} without a server")
        return
    from codec.browser.page import page_text

    shown = given | {"page.html": page_text(opened.id, *names, webgpu=webgpu is not None).encode()}
    _serve(shown, bundle, port, webgpu, open_browser=open_browser)


def _given(source: Path | None, original: Path | None, bundle: str | None) -> "tuple[Bundle, dict[str, bytes]]":
    """The bundle to decode with, and the files that the page shows, by name. Raises FdcError."""
    from codec.browser.networks import MiniNetworks
    from codec.browser.page import GIVEN, ORIGINAL
    from codec.bundle import Bundle, find_bundle
    from codec.bundle_id import DEFAULT_BUNDLE

    given: dict[str, bytes] = {}
    if source is None:
        opened = Bundle.open(bundle or DEFAULT_BUNDLE)
    else:
        data, file = files.parsed(source)
        with files.naming(source):
            opened = find_bundle(file.bundle_id, [bundle] if bundle else [])
        given[GIVEN] = data
    MiniNetworks.of(opened.path)
    if original is not None:
        given[ORIGINAL] = _showable(original)
    return opened, given


def _showable(path: Path) -> bytes:
    """A picture in a format that browsers show, its own where it is one. Raises ImageError."""
    import io

    from PIL import Image, UnidentifiedImageError

    from codec.containers.judgement import Policy
    from codec.containers.reading import read_leniently
    from codec.containers.writing import encode_png

    data = files.content(path, ImageError)
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.format in SHOWN_BY_BROWSERS:
                return data
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
        pass  # the reader below says what is wrong with it
    try:
        return encode_png(read_leniently(data, Policy())[0])
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from None


def _serve(shown: dict[str, bytes], bundle: str | None, port: int, webgpu: Path | None, *, open_browser: bool) -> None:
    from codec.browser.server import PageServer
    from codec.errors import SettingsError

    try:
        server = PageServer(shown, (bundle,) if bundle else (), port, webgpu)
    except OSError as error:
        raise SettingsError(f"cannot serve on port {port}: {error.strerror}; choose another --port") from None
    with server:
        typer.echo(f"{server.address} shows the page until Ctrl-C")
        if open_browser:
            webbrowser.open(server.address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            typer.echo()
