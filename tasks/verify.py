"""The separately started process that decodes every stream again before it is committed.

`python -m tasks.verify BUNDLE` is given the bytes of each .fdc file and the bundle's path, and nothing else; it answers
with the SHA-256 of the symbols it decodes, which must be the hash of those that were encoded.
"""

import argparse
from dataclasses import replace
from typing import Any, Self

from tasks.channel import Child, ChildDied, Frame, Handler, serve
from tasks.worker import Models, digest, load, parser


class Verifier:
    """The process, from its parent's side; a context manager."""

    def __init__(self, models: Models) -> None:
        self._child = Child("tasks.verify", replace(models, device="cpu").arguments(), models.threads)

    def __enter__(self) -> Self:
        self._child.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._child.__exit__()

    def decodes(self, data: bytes, symbols: str, *, seconds: float) -> bool:
        """Whether the file decodes, in time and without ending the process, to the symbols of this hash."""
        try:
            answer, _ = self._child.ask({}, data, seconds=seconds)
        except ChildDied:
            return False
        return answer.get("symbols") == symbols


def _prepare(arguments: argparse.Namespace) -> tuple[dict[str, Any], Handler]:
    decoder = load(arguments)

    def handle(header: dict[str, Any], data: bytes) -> Frame:
        try:
            return {"symbols": digest(decoder.symbols(data))}, b""
        except Exception as error:  # whatever goes wrong here, the stream is not fit to be kept
            return {"error": str(error)}, b""

    return {"bundle_id": decoder.bundle.id}, handle


def main() -> None:
    """Serve the parent until it goes away."""
    arguments = parser(__doc__).parse_args()
    serve(lambda: _prepare(arguments))


if __name__ == "__main__":
    main()
