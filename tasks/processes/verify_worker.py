"""The separately started process that decodes every stream again before it is committed.

`python -m tasks.processes.verify_worker BUNDLE` is given the bytes of each .fdc file and the bundle's path, and nothing
else. It answers with the SHA-256 of the symbols it decodes and with the fingerprint of all that the pixels are made
from, size, grey, alpha and timestep codes included; both must be those of what was encoded. Of a lossless JPEG XL file
it answers with the hash of the JPEG or the pixels that come back.
"""

import argparse
from typing import Any

from codec import lossless
from tasks.processes.child import Frame, Handler, serve
from tasks.processes.codec_process import digest, greeting, load, parser


def _prepare(arguments: argparse.Namespace) -> tuple[dict[str, Any], Handler]:
    decoder = load(arguments)

    def handle(header: dict[str, Any], data: bytes) -> Frame:
        try:
            if lossless.is_jpeg_xl(data):
                return {"content": lossless.content_hash(lossless.restore(data))}, b""
            content = decoder.content(data)
            return {"content": digest(content.symbols), "fingerprint": content.fingerprint()}, b""
        except Exception as error:  # whatever goes wrong here, the stream is not fit to be kept
            return {"error": str(error)}, b""

    return greeting(decoder, arguments), handle


def main() -> None:
    """Serve the parent until it goes away."""
    arguments = parser(__doc__).parse_args()
    serve(lambda: _prepare(arguments))


if __name__ == "__main__":
    main()
