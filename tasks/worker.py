"""The child process in which the pictures of a shard are read, encoded and measured, or streams are decoded.

`python -m tasks.worker BUNDLE --device cpu --metrics alex`: models are loaded once, then requests are answered.
"""

import argparse
import time
from typing import Any

from codec.errors import FdcError, ImageError
from codec.images import Picture, encode_png, read_image
from tasks.channel import Frame, Handler, serve
from tasks.models import Coder, digest, greeting, load, parser


class _Worker:
    """Answers `encode` and `decode` requests with the models it holds."""

    def __init__(self, codec: Coder, metrics: Any) -> None:
        self.codec = codec
        self.metrics = metrics

    def handle(self, header: dict[str, Any], payload: bytes) -> Frame:
        try:
            return self.encode(header, payload) if header["do"] == "encode" else self.decode(payload)
        except ImageError as error:
            return {"failed": "content", "error": _line(error)}, b""
        except Exception as error:  # one picture's failure, whatever it is, is one row
            return {"failed": "encoder", "error": _line(error)}, b""

    def encode(self, header: dict[str, Any], source: bytes) -> Frame:
        """Read and encode one source; `fallback` in the answer says why the source's own bytes are the better copy."""
        started = time.perf_counter()
        picture = read_image(source)
        answer: dict[str, Any] = {
            "source_format": picture.source_format,
            "width": picture.width,
            "height": picture.height,
        }
        try:
            if header["target_bpp"] is not None:
                encoded = self.codec.encode_to_bpp(picture, header["target_bpp"])
            else:
                encoded = self.codec.encode(picture, quality=header["quality"])
        except ImageError:  # the picture was read whole; it is the format that cannot hold it
            return answer | {"fallback": "unsupported"}, b""
        answer["encode_seconds"] = time.perf_counter() - started
        if len(encoded.data) >= len(source):
            return answer | {"fallback": "would_grow"}, b""
        answer |= {
            "symbols": digest(encoded.symbols),
            "quality_lambda": float(encoded.quality),
            "timestep": float(encoded.timestep),
            "steps": int(encoded.steps),
            "latent_bits": int(encoded.latent_bits),
            "side_bits": int(encoded.side_bits),
        }
        return answer | self.measure(picture, encoded.data), encoded.data

    def measure(self, picture: Picture, data: bytes) -> dict[str, Any]:
        """The metrics of the decoded stream; a metric that is undefined is left out and `error` says why."""
        if self.metrics is None:
            return {}
        started = time.perf_counter()
        decoded = self.codec.decode(data)
        seconds = time.perf_counter() - started
        quality = self.metrics.measure(picture.pixels, decoded)
        fields = ("psnr_db", "ms_ssim", "lpips", "lpips_net", "dists")
        measured = {field: getattr(quality, field) for field in fields} | {"decode_seconds": seconds}
        if quality.reasons:
            measured["error"] = "; ".join(f"{field}: {reason}" for field, reason in sorted(quality.reasons.items()))
        return measured

    def decode(self, data: bytes) -> Frame:
        """Decode one file to a PNG with its transparency and metadata."""
        picture = self.codec.decode_picture(data)
        return {"width": picture.width, "height": picture.height}, encode_png(picture)


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, FdcError) else f"{type(error).__name__}: {text}"


def _prepare(arguments: argparse.Namespace) -> tuple[dict[str, Any], Handler]:
    codec = load(arguments)
    metrics = None
    if arguments.metrics != "none":
        from codec.metrics import Metrics  # its networks take seconds to load

        metrics = Metrics(lpips_net=arguments.metrics, device=arguments.device)
    return greeting(codec, arguments), _Worker(codec, metrics).handle


def main() -> None:
    """Serve the parent until it goes away."""
    options = parser(__doc__)
    options.add_argument("--metrics", default="none")
    arguments = options.parse_args()
    serve(lambda: _prepare(arguments))


if __name__ == "__main__":
    main()
