"""The child process that reads, encodes and measures the pictures of a shard, or decodes streams.

`python -m tasks.processes.encode_worker BUNDLE --device cpu --metrics psnr lpips` loads the models once, then answers
requests.
"""

import argparse
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from codec import lossless, preview
from codec.color import spaces
from codec.containers import live_photo
from codec.containers.judgement import MetadataPolicy, Policy
from codec.containers.reading import SourceImage, read_source
from codec.containers.writing import left_behind, parse_kind, upright, write
from codec.errors import BackboneError
from codec.images import Picture, read_image
from codec.metrics.names import FIELDS, NONE, UNSAMPLED
from codec.quantization.rate_control import QualityConstraint, measure
from tasks.processes import showing
from tasks.processes.answers import answered, attempted
from tasks.processes.child import Frame, Handler, serve
from tasks.processes.codec_process import Coder, digest, greeting, load, parser
from tasks.processes.encode_batches import encode_many
from tasks.processes.requests import Decode, Encode, EncodeMany, Judge, Request, SaveBackbone, Show, Transcode, read

TimedPixels = tuple[NDArray[np.uint8], float]
"""Decoded pixels (height, width, 3), and the seconds that decoding took."""
ANSWERED: tuple[type[Request], ...] = (Encode, EncodeMany, Judge, Transcode, Decode, Show, SaveBackbone)


class Worker:
    """Answers the requests of ANSWERED with the loaded models."""

    def __init__(self, codec: Coder, metrics: Any) -> None:
        self.codec = codec
        self.metrics = metrics

    def handle(self, header: dict[str, Any], payload: bytes) -> Frame:
        request = read(header, *ANSWERED)
        if isinstance(request, EncodeMany):
            return encode_many(self, request, payload)
        return answered(lambda: self._done(request, payload))

    def _done(self, request: Request, payload: bytes) -> Frame:
        match request:
            case Encode():
                return self.encode(request, payload)
            case Judge():
                return self.judge(request, payload)
            case Transcode():
                return self.transcode(payload)
            case SaveBackbone():
                return self.save_backbone(request)
            case Decode():
                return self.decode(request, payload)
            case Show():
                return showing.show(request, payload, self.codec.decode_picture)
            case _:
                raise AssertionError(f"{request.do} is in ANSWERED, but nothing answers it")

    def encode(self, request: Encode, source: bytes) -> Frame:
        """Reads and encodes one source; `fallback` in the answer states why it should be kept whole."""
        started = time.perf_counter()
        found, about = self.read(request, source)
        if found.picture is None:
            return about, b""
        picture = found.picture
        result, why = attempted(lambda: self.encoded(request, picture))
        if result is None:
            return about | why, b""
        made, decoded = result
        about["encode_seconds"] = time.perf_counter() - started
        answer, data = self.answer_on(found, len(source), about, made)
        if data:
            answer |= self.measure(request, picture, made, decoded)
        return answer, data

    def read(self, request: Encode, source: bytes) -> tuple[SourceImage, dict[str, Any]]:
        """Reads a source, adds its preview and fills its row; `fallback` states why there is no picture to encode."""
        found = read_source(source, _policy(request))
        about = _about(found) | {"identifier": live_photo.identifier(source, found.structure)}
        if found.picture is None:
            about |= {"fallback": str(found.verdict.reason), "error": found.verdict.detail}
            return found, about
        shown = preview.with_preview(found.picture, request.preview, request.target_bpp)
        return replace(found, picture=shown), about

    def answer_on(self, found: SourceImage, size: int, about: dict[str, Any], encoded: Any) -> Frame:
        """Returns the answer for a source of `size` bytes and its file, which is omitted unless it is smaller."""
        film = found.verdict.film
        data = encoded.data
        preview_bytes = preview.cost(found.picture) if found.picture else 0
        # a preview must not be why a picture is kept whole
        if preview_bytes and len(data) - preview_bytes < size <= len(data):
            data = preview.without_preview(data)
            preview_bytes = 0
        stored = len(data)
        if film:  # offset and length of the video that a motion photo contains; it is stored unchanged
            _, film_length = film
            stored += film_length
        if stored >= size:
            return about | {"fallback": "would_grow"}, b""
        answer = about | {
            "film": film,
            "carried": list(found.verdict.carried),
            "discarded_parts": list(found.verdict.discarded),
            "coded_space": found.coded_space,
            "content": digest(encoded.symbols),
            "fingerprint": encoded.content.fingerprint(),
            "quality_lambda": float(encoded.quality),
            "timestep": float(encoded.timestep),
            "steps": int(encoded.steps),
            "latent_bits": int(encoded.latent_bits),
            "side_bits": int(encoded.side_bits),
            "preview_bytes": preview_bytes,
        }
        return answer, data

    def judge(self, request: Judge, source: bytes) -> Frame:
        """Predicts the result for a source from its structure and its decoded pixels, without encoding it."""
        found = read_source(source, _policy(request))
        verdict = found.verdict
        reason = None if verdict.reason is None else str(verdict.reason)
        about = _about(found) | {
            "carried": list(verdict.carried),
            "discarded_parts": list(verdict.discarded),
            "film": verdict.film,
            "reason": reason,
        }
        return about, b""

    def encoded(self, request: Encode, picture: Picture) -> tuple[Any, TimedPixels | None]:
        """Encodes the file as requested, or the smallest one that meets the constraint; returns its pixels if decoded.

        Raises ImageError, and QualityError if no file meets the constraint.
        """
        if request.target_bpp is not None:
            encoded = self.codec.encode_to_bpp(picture, request.target_bpp, effort=request.effort)
        else:
            encoded = self.codec.encode(picture, quality=request.quality_lambda, effort=request.effort)
        if request.min_psnr_db is None and request.max_lpips is None:
            return encoded, None
        constraint = QualityConstraint(request.min_psnr_db, request.max_lpips)
        decoded = self.decoded(request, encoded)
        if measure(constraint, picture.pixels, decoded[0]).meets(constraint):
            return encoded, decoded
        better = self.codec.encode_to_quality(
            picture,
            min_psnr_db=constraint.min_psnr_db,
            max_lpips=constraint.max_lpips,
            above=0 if request.effort else encoded.quality,  # the unrefined file at that lambda may meet it
            effort=request.effort,
        )
        return better, None

    def decoded(self, request: Encode, encoded: Any) -> TimedPixels:
        """Decodes the file; returns its colors and the time in seconds.

        If another process decodes the stream and compares everything that determines the pixels, the encoder's symbols
        are used instead. Otherwise this is the first decoding of the stream.
        """
        started = time.perf_counter()
        if request.verify:
            pixels = self.codec.reconstruct(encoded.data, encoded.symbols)
        else:
            pixels = self.codec.decode(encoded.data)
        return pixels, time.perf_counter() - started

    def measure(self, request: Encode, picture: Picture, encoded: Any, decoded: TimedPixels | None) -> dict[str, Any]:
        """Computes the requested metrics; `not_measured` states why others are missing.

        They are computed on sRGB or Display P3 values; other color spaces are converted to sRGB.
        """
        if not request.metrics or self.metrics is None:
            return {}
        pixels, seconds = decoded or self.decoded(request, encoded)
        unsampled = [name for name in self.metrics.names if name not in request.metrics]
        quality = self.metrics.measure(_shown(picture, picture.pixels), _shown(picture, pixels), leave_out=unsampled)
        reasons = dict(quality.reasons)
        for name in unsampled:
            reasons[FIELDS[name]] = UNSAMPLED
        not_measured = [f"{field}: {why}" for field, why in sorted(reasons.items())]
        answer = {field: getattr(quality, field) for field in FIELDS.values()}
        answer["lpips_net"] = None if quality.lpips is None else "alex"
        answer["not_measured"] = "; ".join(not_measured) or None
        answer["decode_seconds"] = seconds
        return answer

    def transcode(self, source: bytes) -> Frame:
        """Encodes the source as lossless JPEG XL, with the hash of its decoding; nothing if that is not smaller."""
        answer_on = lossless.transcode(source)
        if answer_on is None or len(answer_on) >= len(source):
            return {}, b""
        return {"content": lossless.content_hash(source)}, answer_on

    def save_backbone(self, request: SaveBackbone) -> Frame:
        """Saves the bundle's backbone to a folder, with the license texts of its weights."""
        from codec.diffusion import weights  # imports torch, which the codec must do first

        source = request.source or self.codec.bundle.backbone_location()
        folder = Path(request.folder)
        licenses = weights.licenses(source)
        if not licenses:
            raise BackboneError(
                f"{source}: no license next to the weights; an archive keeps the backbone with its license, so put the "
                "text there as LICENSE"
            )
        self.codec.backbone.save(folder)
        for text in licenses:
            shutil.copyfile(text, folder / text.name)
        return {}, b""

    def decode(self, request: Decode, data: bytes) -> Frame:
        """Decodes an .fdc file to the requested kind of picture, or a JPEG XL file to its source."""
        if lossless.is_jpeg_xl(data):
            file = lossless.restore(data)
            if request.kind is None:  # the source itself, byte for byte
                picture = read_image(file)
                return {"width": picture.width, "height": picture.height}, file
            # a source that the structural reader keeps whole may still be shown
            found = read_source(file).picture or read_image(file)
        else:
            found = self.codec.decode_picture(data)
        kind, quality = parse_kind(request.kind or "png")
        shown = upright(found)
        about = {"width": shown.width, "height": shown.height, "left_behind": left_behind(shown, kind)}
        return about, write(shown, kind, quality)


def _policy(request: Encode | Judge) -> Policy:
    """The owner's policy. A video keeps all its metadata, so it is stored separately only if metadata is `all`."""
    return Policy(
        cast(MetadataPolicy, request.metadata), frozenset(request.discard), film_beside=request.metadata == "all"
    )


def _about(found: SourceImage) -> dict[str, Any]:
    """Row fields of every source that is a picture."""
    about: dict[str, Any] = {"width": None, "height": None}
    if found.structure is not None:
        about |= {"source_format": found.structure.container, "media_type": found.structure.media_type}
    if found.size is not None:
        about |= {"width": found.size[0], "height": found.size[1]}
    return about


def _shown(picture: Picture, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns pixels in sRGB or Display P3."""
    if picture.icc is None:
        return pixels
    image = Image.fromarray(pixels)
    if spaces.of_profile(picture.icc, image).name in (spaces.SRGB, spaces.DISPLAY_P3, "unusable profile"):
        return pixels
    return np.asarray(spaces.to_srgb(image, picture.icc))


def _prepare(arguments: argparse.Namespace) -> tuple[dict[str, Any], Handler]:
    codec = load(arguments)
    metrics = None
    if arguments.metrics != [NONE]:
        from codec.metrics.quality import Metrics  # its networks take seconds to load

        metrics = Metrics(*arguments.metrics, device=arguments.device)
    return greeting(codec, arguments), Worker(codec, metrics).handle


def main() -> None:
    """Serves the parent process until it ends."""
    options = parser(__doc__)
    options.add_argument("--metrics", nargs="+", default=[NONE])
    arguments = options.parse_args()
    serve(lambda: _prepare(arguments))


if __name__ == "__main__":
    main()
