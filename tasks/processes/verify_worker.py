"""The separate process that decodes every stream again before it is committed.

`python -m tasks.processes.verify_worker BUNDLE` receives only the bundle's path and the bytes of each .fdc file. It
answers with the SHA-256 of the decoded symbols and the fingerprint of everything that determines the pixels, including
size, gray, alpha and timestep codes; both must equal the encoder's. For a lossless JPEG XL file it answers with the
hash of the restored JPEG or pixels.
"""

import argparse
from typing import Any

from codec import lossless
from codec.errors import BitstreamError
from codec.format.content import Content
from tasks.processes.child import Frame, Handler, serve
from tasks.processes.codec_process import Coder, digest, greeting, load, parser
from tasks.processes.requests import Verify, VerifyMany, read


class _Verifier:
    """Answers with the content hash of one file, or of each of several concatenated files."""

    def __init__(self, decoder: Coder) -> None:
        self._decoder = decoder

    def handle(self, header: dict[str, Any], payload: bytes) -> Frame:
        request = read(header, Verify, VerifyMany)
        if not isinstance(request, VerifyMany):
            return self._answer(payload), b""
        files = []
        start = 0
        for length in request.lengths:
            files.append(payload[start : start + length])
            start += length
        try:
            answers = self._answer_together(files)
        except Exception:  # caused by any of the files: each is decoded alone next
            answers = [self._answer(data) for data in files]
        return {"answers": answers}, b""

    def _answer_together(self, files: list[bytes]) -> list[dict[str, Any]]:
        """Answers for each file in order; the .fdc files are decoded in one call, which is faster."""
        streams = [data for data in files if not lossless.is_jpeg_xl(data)]
        contents = iter(self._decoder.contents(streams))
        answers = []
        for data in files:
            if lossless.is_jpeg_xl(data):
                answers.append(self._answer(data))
            else:
                answers.append(_of_content(next(contents)))
        return answers

    def _answer(self, data: bytes) -> dict[str, Any]:
        try:
            if lossless.is_jpeg_xl(data):
                return {"content": lossless.content_hash(lossless.restore(data))}
            return _of_content(self._decoder.content(data))
        except Exception as error:  # whatever fails here, the stream must not be kept
            return {"error": str(error)}


def _of_content(content: Content | BitstreamError) -> dict[str, Any]:
    if isinstance(content, BitstreamError):
        return {"error": str(content)}
    return {"content": digest(content.symbols), "fingerprint": content.fingerprint()}


def _prepare(arguments: argparse.Namespace) -> tuple[dict[str, Any], Handler]:
    decoder = load(arguments)
    return greeting(decoder, arguments), _Verifier(decoder).handle


def main() -> None:
    """Serves the parent process until it ends."""
    arguments = parser(__doc__).parse_args()
    serve(lambda: _prepare(arguments))


if __name__ == "__main__":
    main()
