"""The child process in which the pictures of a shard are read, encoded and measured, or streams are decoded.

`python -m tasks.processes.encode_worker BUNDLE --device cpu --metrics psnr lpips`: models are loaded once, then
requests are answered.
"""

import argparse
import shutil
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from codec import lossless
from codec.color import spaces
from codec.containers import live_photo
from codec.containers.judgement import MetadataPolicy, Policy
from codec.containers.reading import SourceImage, read_source
from codec.containers.writing import left_behind, parse_kind, upright, write
from codec.errors import BackboneError
from codec.images import Picture, read_image
from codec.metrics.names import FIELDS, NONE, UNSAMPLED
from codec.quantization.rate_control import QualityConstraint, measure
from tasks.processes.answers import answered, attempted
from tasks.processes.child import Frame, Handler, serve
from tasks.processes.codec_process import Coder, digest, greeting, load, parser
from tasks.processes.encode_batches import encode_many
from tasks.processes.requests import Decode, Encode, EncodeMany, Judge, Request, SaveBackbone, Transcode, read

TimedPixels = tuple[NDArray[np.uint8], float]


ANSWERED: tuple[type[Request], ...] = (Encode, EncodeMany, Judge, Transcode, Decode, SaveBackbone)


class Worker:
    """Answers the requests of ANSWERED with the models it holds."""

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
            case _:
                raise AssertionError(f"{request.do} is in ANSWERED, but nothing answers it")

    def encode(self, request: Encode, source: bytes) -> Frame:
        """Read and encode one source; `fallback` in the answer says why it is better kept whole."""
        started = time.perf_counter()
        found, about = self.read(request, source)
        if found.picture is None:
            return about, b""
        picture = found.picture
        decoded: TimedPixels | None = None

        def encoded() -> Any:
            nonlocal decoded
            made, decoded = self.encoded(request, picture)
            return made

        made, why = attempted(encoded)
        if made is None:
            return about | why, b""
        about["encode_seconds"] = time.perf_counter() - started
        answer, data = self.answer_on(found, len(source), about, made)
        if data:
            answer |= self.measure(request, picture, made, decoded)
        return answer, data

    def read(self, request: Encode, source: bytes) -> tuple[SourceImage, dict[str, Any]]:
        """A source and what a row says of it; `fallback` in that says why it has no picture to be encoded."""
        found = read_source(source, _policy(request))
        about = _about(found) | {"identifier": live_photo.identifier(source, found.structure)}
        if found.picture is None:
            about |= {"fallback": str(found.verdict.reason), "error": found.verdict.detail}
        return found, about

    def answer_on(self, found: SourceImage, size: int, about: dict[str, Any], encoded: Any) -> Frame:
        """The answer on a source of so many bytes and its file, which is left out where it is no smaller."""
        film = found.verdict.film
        if len(encoded.data) + (film[1] if film else 0) >= size:
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
        }
        return answer, encoded.data

    def judge(self, request: Judge, source: bytes) -> Frame:
        """What would become of a source, by its structure and its decoded pixels, without encoding it."""
        found = read_source(source, _policy(request))
        verdict = found.verdict
        about = _about(found) | {
            "carried": list(verdict.carried),
            "discarded_parts": list(verdict.discarded),
            "film": verdict.film,
        }
        return about | {"reason": None if verdict.reason is None else str(verdict.reason)}, b""

    def encoded(self, request: Encode, picture: Picture) -> tuple[Any, TimedPixels | None]:
        """The file as asked for, or the smallest that meets the constraint; its pixels where made already.

        Raises ImageError, and QualityError where no file meets the constraint.
        """
        if request.target_bpp is not None:
            encoded = self.codec.encode_to_bpp(picture, request.target_bpp)
        else:
            encoded = self.codec.encode(picture, quality=request.quality_lambda)
        if request.min_psnr_db is None and request.max_lpips is None:
            return encoded, None
        constraint = QualityConstraint(request.min_psnr_db, request.max_lpips)
        decoded = self.decoded(request, encoded)
        if measure(constraint, picture.pixels, decoded[0]).meets(constraint):
            return encoded, decoded
        return self.codec.encode_to_quality(
            picture, min_psnr_db=constraint.min_psnr_db, max_lpips=constraint.max_lpips, above=encoded.quality
        ), None

    def decoded(self, request: Encode, encoded: Any) -> TimedPixels:
        """The colors that the file decodes to, and the seconds that took.

        Where another process decodes the stream and compares all that the pixels are made from, the encoder's symbols
        stand for it; else nobody has looked at the stream yet, and it is decoded here.
        """
        started = time.perf_counter()
        if request.verify:
            pixels = self.codec.reconstruct(encoded.data, encoded.symbols)
        else:
            pixels = self.codec.decode(encoded.data)
        return pixels, time.perf_counter() - started

    def measure(self, request: Encode, picture: Picture, encoded: Any, decoded: TimedPixels | None) -> dict[str, Any]:
        """The metrics that are asked for; `not_measured` says why others are left out.

        They are computed on sRGB or Display P3 values; other spaces are converted to sRGB for them.
        """
        if not request.metrics or self.metrics is None:
            return {}
        pixels, seconds = decoded or self.decoded(request, encoded)
        unsampled = [name for name in self.metrics.names if name not in request.metrics]
        shown = (_shown(picture, values) for values in (picture.pixels, pixels))
        quality = self.metrics.measure(*shown, leave_out=unsampled)
        reasons = {**quality.reasons} | {FIELDS[name]: UNSAMPLED for name in unsampled}
        return {
            **{field: getattr(quality, field) for field in FIELDS.values()},
            "lpips_net": None if quality.lpips is None else "alex",
            "not_measured": "; ".join(f"{field}: {why}" for field, why in sorted(reasons.items())) or None,
            "decode_seconds": seconds,
        }

    def transcode(self, source: bytes) -> Frame:
        """The source as lossless JPEG XL, with the hash of what comes back; nothing where its own bytes are better."""
        answer_on = lossless.transcode(source)
        if answer_on is None or len(answer_on) >= len(source):
            return {}, b""
        return {"content": lossless.content_hash(source)}, answer_on

    def save_backbone(self, request: SaveBackbone) -> Frame:
        """Save the bundle's backbone to a folder, with the texts that state the license of its weights."""
        from codec.diffusion import weights  # loads torch, which is for the codec to do

        source, folder = request.source or self.codec.bundle.backbone_location(), Path(request.folder)
        licenses = weights.licenses(source)
        if not licenses:
            raise BackboneError(
                f"{source}: no license beside the weights; an archive keeps the backbone together with its license, so "
                "put the text there as LICENSE"
            )
        self.codec.backbone.save(folder)
        for text in licenses:
            shutil.copyfile(text, folder / text.name)
        return {}, b""

    def decode(self, request: Decode, data: bytes) -> Frame:
        """An .fdc file as a picture of the kind asked for, or a JPEG XL file as what it was made of."""
        if lossless.is_jpeg_xl(data):
            file = lossless.restore(data)
            if request.kind is None:
                picture = read_image(file)
                return {"width": picture.width, "height": picture.height}, file
            found = read_source(file).picture or read_image(file)
        else:
            found = self.codec.decode_picture(data)
        kind, quality = parse_kind(request.kind or "png")
        shown = upright(found)
        about = {"width": shown.width, "height": shown.height, "left_behind": left_behind(shown, kind)}
        return about, write(shown, kind, quality)


def _policy(request: Encode | Judge) -> Policy:
    """What the archive's owner wants. A film keeps all its metadata, so it stands beside the picture where all may."""
    return Policy(
        cast(MetadataPolicy, request.metadata), frozenset(request.discard), film_beside=request.metadata == "all"
    )


def _about(found: SourceImage) -> dict[str, Any]:
    """What a row says of every source that is a picture."""
    about: dict[str, Any] = {"width": None, "height": None}
    if found.structure is not None:
        about |= {"source_format": found.structure.container, "media_type": found.structure.media_type}
    if found.size is not None:
        about |= {"width": found.size[0], "height": found.size[1]}
    return about


def _shown(picture: Picture, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pixels in sRGB or Display P3."""
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
    """Serve the parent until it goes away."""
    options = parser(__doc__)
    options.add_argument("--metrics", nargs="+", default=[NONE])
    arguments = options.parse_args()
    serve(lambda: _prepare(arguments))


if __name__ == "__main__":
    main()
