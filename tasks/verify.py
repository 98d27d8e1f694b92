"""The separately started process that decodes every stream again before it is committed.

`python -m tasks.verify BUNDLE` is given the bytes of each .fdc file and the bundle's path, and nothing else; it answers
with the SHA-256 of the symbols it decodes, which must be the hash of those that were encoded.
"""

import argparse
from typing import Any

from tasks.channel import Child, ChildDied, Frame, Handler, serve
from tasks.worker import CODEC, digest, load


class Verifier:
    """The process, from its parent's side; a context manager."""

    def __init__(self, bundle: str, *, threads: int, codec: str = CODEC) -> None:
        self._child = Child("tasks.verify", [bundle, "--codec", codec], threads)

    def __enter__(self) -> "Verifier":
        return self

    def __exit__(self, *_: object) -> None:
        self._child.close()

    def decodes(self, data: bytes, symbols: str, *, seconds: float) -> bool:
        """Whether the file decodes, in time and without ending the process, to the symbols of this hash."""
        try:
            answer, _ = self._child.ask({}, data, seconds=seconds)
        except ChildDied:
            return False
        return answer.get("symbols") == symbols


def _prepare(bundle: str, codec: str) -> tuple[dict[str, Any], Handler]:
    decoder = load(codec, bundle, "cpu")

    def handle(header: dict[str, Any], data: bytes) -> Frame:
        try:
            return {"symbols": digest(decoder.symbols(data))}, b""
        except Exception as error:  # whatever goes wrong here, the stream is not fit to be kept
            return {"error": str(error)}, b""

    return {"bundle_id": decoder.bundle.id}, handle


def main() -> None:
    """Serve the parent until it goes away."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--codec", default=CODEC)
    arguments = parser.parse_args()
    serve(lambda: _prepare(arguments.bundle, arguments.codec))


if __name__ == "__main__":
    main()
