"""The child process in which the pictures of a shard are read, encoded and measured, or streams are decoded.

`python -m tasks.processes.encode_worker BUNDLE --device cpu --metrics alex`: models are loaded once, then requests are
answered.
"""

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codec import lossless
from codec.errors import BackboneError, FdcError, ImageError, ImageLimitError, QualityError
from codec.images import Picture, encode_png, read_image
from codec.quantization.rate_control import Floor, measure
from tasks.processes.child import Frame, Handler, serve
from tasks.processes.codec_process import Coder, digest, greeting, load, parser

TimedPixels = tuple[NDArray[np.uint8], float]


class _Worker:
    """Answers `encode`, `keep`, `decode` and `backbone` requests with the models it holds."""

    def __init__(self, codec: Coder, metrics: Any) -> None:
        self.codec = codec
        self.metrics = metrics

    def handle(self, header: dict[str, Any], payload: bytes) -> Frame:
        try:
            match header["do"]:
                case "encode":
                    return self.encode(header, payload)
                case "keep":
                    return self.keep(payload)
                case "backbone":
                    return self.backbone(header)
                case _:
                    return self.decode(payload)
        except ImageError as error:
            return {"failed": "content", "error": _line(error)}, b""
        except Exception as error:  # one picture's failure, whatever it is, is one row
            return {"failed": "encoder", "error": _line(error)}, b""

    def encode(self, header: dict[str, Any], source: bytes) -> Frame:
        """Read and encode one source; `fallback` in the answer says why it is better kept without loss."""
        started = time.perf_counter()
        try:
            picture = read_image(source)
        except ImageLimitError as error:
            return {"fallback": "unsupported", "error": _line(error)}, b""
        answer: dict[str, Any] = {
            "source_format": picture.source_format,
            "width": picture.width,
            "height": picture.height,
        }
        if picture.reduced is not None:
            return answer | {"fallback": picture.reduced}, b""
        try:
            encoded, decoded = self.encoded(header, picture)
        except ImageError as error:  # the picture was read whole; it is the format that cannot hold it
            return answer | {"fallback": "unsupported", "error": _line(error)}, b""
        except QualityError as error:
            return answer | {"fallback": "below_quality", "error": _line(error)}, b""
        answer["encode_seconds"] = time.perf_counter() - started
        if len(encoded.data) >= len(source):
            return answer | {"fallback": "would_grow"}, b""
        answer |= {
            "content": digest(encoded.symbols),
            "quality_lambda": float(encoded.quality),
            "timestep": float(encoded.timestep),
            "steps": int(encoded.steps),
            "latent_bits": int(encoded.latent_bits),
            "side_bits": int(encoded.side_bits),
        }
        return answer | self.measure(picture, encoded.data, decoded), encoded.data

    def encoded(self, header: dict[str, Any], picture: Picture) -> tuple[Any, TimedPixels | None]:
        """The file as asked for, or the smallest above the floor where that is below it; decoded where it had to be.

        Raises ImageError, and QualityError where no file is above the floor.
        """
        keep_exif = header["keep_exif"]
        if header["target_bpp"] is not None:
            encoded = self.codec.encode_to_bpp(picture, header["target_bpp"], keep_exif=keep_exif)
        else:
            encoded = self.codec.encode(picture, quality=header["quality"], keep_exif=keep_exif)
        bounds = {name: header[name] for name in ("min_psnr_db", "max_lpips")}
        if not any(bounds.values()):
            return encoded, None
        floor = Floor(**bounds)
        decoded = self.timed_decode(encoded.data)
        if measure(floor, picture.pixels, decoded[0]).meets(floor):
            return encoded, decoded
        return self.codec.encode_to_quality(picture, **bounds, above=encoded.quality, keep_exif=keep_exif), None

    def measure(self, picture: Picture, data: bytes, decoded: TimedPixels | None) -> dict[str, Any]:
        """The metrics of the decoded stream; a metric that is undefined is left out and `error` says why."""
        if self.metrics is None:
            return {}
        pixels, seconds = decoded or self.timed_decode(data)
        quality = self.metrics.measure(picture.pixels, pixels)
        fields = ("psnr_db", "ms_ssim", "lpips", "lpips_net", "dists")
        measured = {field: getattr(quality, field) for field in fields} | {"decode_seconds": seconds}
        if quality.reasons:
            measured["error"] = "; ".join(f"{field}: {reason}" for field, reason in sorted(quality.reasons.items()))
        return measured

    def keep(self, source: bytes) -> Frame:
        """The source as lossless JPEG XL, with the hash of what comes back; nothing where its own bytes are better."""
        kept = lossless.transcode(source)
        if kept is None or len(kept) >= len(source):
            return {}, b""
        return {"content": lossless.content_hash(source)}, kept

    def backbone(self, header: dict[str, Any]) -> Frame:
        """Save the bundle's backbone to a folder, with the texts that state the licence of its weights."""
        from codec.diffusion import weights  # loads torch, which is for the codec to do

        source, folder = header["source"] or self.codec.bundle.backbone_place(), Path(header["folder"])
        licences = weights.licences(source)
        if not licences:
            raise BackboneError(
                f"{source}: no licence beside the weights; an archive keeps the backbone together with its licence, so "
                "put the text there as LICENSE"
            )
        self.codec.backbone.save(folder)
        for text in licences:
            shutil.copyfile(text, folder / text.name)
        return {}, b""

    def timed_decode(self, data: bytes) -> TimedPixels:
        """The colours of an .fdc file and the seconds that decoding took."""
        started = time.perf_counter()
        return self.codec.decode(data), time.perf_counter() - started

    def decode(self, data: bytes) -> Frame:
        """Decode an .fdc file to a PNG with its transparency and metadata, or a JPEG XL file to what it was made of."""
        if lossless.is_jpeg_xl(data):
            file = lossless.restore(data)
            picture = read_image(file)
            return {"width": picture.width, "height": picture.height}, file
        picture = self.codec.decode_picture(data)
        return {"width": picture.width, "height": picture.height}, encode_png(picture)


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, FdcError) else f"{type(error).__name__}: {text}"


def _prepare(arguments: argparse.Namespace) -> tuple[dict[str, Any], Handler]:
    codec = load(arguments)
    metrics = None
    if arguments.metrics != "none":
        from codec.metrics.quality import Metrics  # its networks take seconds to load

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
