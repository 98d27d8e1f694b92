"""python -m flows.gateway ARCHIVE: serves the pictures of an archive over HTTP, read-only, until Ctrl-C."""

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from codec.errors import SettingsError
from codec.support import processors
from flows import one_line
from tasks.archive.opening import existing
from tasks.gateway import connections, guard
from tasks.gateway.cache import DiskCache
from tasks.gateway.pictures import DecodingLimits
from tasks.gateway.server import Gateway, application
from tasks.gateway.tokens import VARIABLE, Gate, read_token
from tasks.processes.codec_process import Models

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def serve(
    archive: Annotated[str, typer.Argument(help="Folder or URL of the archive. Credentials to read suffice.")],
    host: Annotated[str, typer.Option(help="0.0.0.0 to allow access from other machines.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: a free one.", min=0, max=65535)] = 8420,
    token: Annotated[str, typer.Option(help=f"File with the token that requests need; else {VARIABLE}.")] = "",
    cache: Annotated[Path | None, typer.Option(help="Folder of the cache. [default: a temporary one]")] = None,
    cache_bytes: Annotated[int, typer.Option(help="Most bytes of the cache.", min=0)] = 2 * 10**9,
    workers: Annotated[int, typer.Option(help="Decoding processes; 0: one a processor, at most 4.", min=0)] = 0,
    max_pixels: Annotated[int, typer.Option(help="Most pixels of a picture that is decoded.", min=1)] = 50_000_000,
    longest_wait: Annotated[float, typer.Option(help="Estimated seconds that work may wait.", min=0)] = 30.0,
    concurrency: Annotated[int, typer.Option(help="Most requests at a time.", min=1)] = 64,
    state_age: Annotated[float, typer.Option(help="Seconds between looks at the archive's state.", min=0)] = 1.0,
    metadata: Annotated[bool, typer.Option(help="Share stored files with their metadata.")] = False,
    backbone: Annotated[str, typer.Option(help="Folder or URL of a backbone that bundles do not embed.")] = "",
    device: str = "cpu",
) -> None:
    """Serve pictures as /KEY.png, .jpg, .webp or .avif with ?width=, files as /KEY.fdc, and a listing at /."""
    gate = Gate(read_token(token))
    hosts = guard.LOOPBACK if gate.is_open and host in guard.LOOPBACK | {"::1"} else frozenset()
    if gate.is_open and not hosts:
        typer.echo("warning: whoever reaches this address sees all pictures; give a --token", err=True)
    store = existing(archive)
    limits = DecodingLimits(workers or min(4, processors.available()), max_pixels, longest_wait)
    models = Models("", device, backbone, memory=16 * 10**9)
    with ExitStack() as stack:
        folder = cache or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fdc-gateway-")))
        kept = DiskCache(folder, cache_bytes)
        try:
            listening = stack.enter_context(connections.bound(host, port))
        except OSError as error:
            raise SettingsError(f"cannot listen on {host}, port {port}: {error.strerror}") from None
        gateway = Gateway(store, models, kept, limits, metadata=metadata, state_age=state_age)
        stack.callback(gateway.close)
        name = f"[{host}]" if ":" in host else host
        typer.echo(f"http://{name}:{listening.getsockname()[1]}/")
        served = application(gateway, gate, hosts=hosts, concurrency=concurrency)
        connections.server(served).run(sockets=[listening])


def main() -> None:
    """Runs the command."""
    one_line.run(app)


if __name__ == "__main__":
    main()
