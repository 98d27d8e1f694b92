"""The codec: encodes pictures to .fdc files and decodes them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec import batches
from codec.bundle import Bundle
from codec.bundle_id import DEFAULT_BUNDLE
from codec.diffusion.backbone import Backbone
from codec.diffusion.denoiser import denoise
from codec.entropy.distribution import RateConstants
from codec.entropy.dither import dither
from codec.entropy.entroformer import CHANNELS, Entroformer
from codec.entropy.integer import ExactEntropyModel
from codec.entropy.rate import hyper_latent
from codec.entropy.stream import CodedStream, Symbols, compress, decompress, tiles
from codec.entropy.tables import Tables
from codec.errors import BitstreamError, BundleError, ImageError, SettingsError
from codec.format.bitstream import DEFAULT_MAX_PIXELS, MAX_PIXELS, MAX_SIDE, FdcFile, pack, parse
from codec.format.chunks import Chunk, of_picture, to_picture
from codec.format.content import Content
from codec.images import Picture, to_pixels
from codec.quantization import quantizer
from codec.quantization.efforts import EFFORTS, check_effort
from codec.quantization.estimator import ParameterEstimator
from codec.quantization.parameter_choice import ParameterChoice, Predicted, Tabulated
from codec.quantization.parameters import QuantizationParameters, quality_of_code
from codec.quantization.rate_control import (
    QualityConstraint,
    coarsest_reaching,
    largest_within,
    measure,
    refined_reaching,
    refined_within,
)
from codec.quantization.refinement import refined

DEFAULT_QUALITY = 8.0
"""Default lambda."""


@dataclass(frozen=True)
class Encoded:
    """A finished file and the encoder's statistics."""

    data: bytes
    content: Content
    """The symbols as the encoder wrote them, not decoded from the file."""
    quality: float
    timestep: float
    steps: int
    latent_bits: int
    side_bits: int
    """Bits of the hyper-latent."""

    @property
    def symbols(self) -> Symbols:
        """(4, ceil(H/8), ceil(W/8)) int32."""
        return self.content.symbols


class Codec:
    """A loaded bundle. Encoding and decoding are deterministic in picture, settings, bundle and machine."""

    def __init__(
        self,
        bundle: Bundle,
        backbone: Backbone,
        entropy: ExactEntropyModel,
        tables: Tables,
        encoder: Entroformer,
        estimator: ParameterEstimator | None,
    ) -> None:
        self.bundle = bundle
        self.backbone = backbone
        self.entropy = entropy
        self.tables = tables
        self.encoder = encoder
        self.estimator = estimator
        self.constants = RateConstants.computed()

    @classmethod
    def load(
        cls,
        bundle: str | Path | Bundle | None = None,
        *,
        device: str = "cpu",
        backbone: str | Path | None = None,
        remember: bool = False,
    ) -> "Codec":
        """Loads a bundle's folder, or the embedded default. `backbone` locates a backbone that is not embedded.

        Runs the entropy model's self-test. With `remember`, meant for processes that handle one picture, a test passed
        on this machine within the last day suffices. Raises BundleError, BackboneError.
        """
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle or DEFAULT_BUNDLE)
        entropy, tables = opened.load_entropy(device, remember=remember)
        encoder, estimator = opened.load_encoder(device)
        return cls(opened, opened.load_backbone(backbone, device), entropy, tables, encoder, estimator)

    @cached_property
    def float_entropy(self) -> Entroformer:
        """The whole entropy model in float, frozen: what refinement differentiates."""
        model = self.bundle.trainable_entropy().requires_grad_(False).eval()
        return model.to(self.backbone.device)

    @cached_property
    def choice(self) -> ParameterChoice:
        """How files get their bin widths and timestep. Raises BundleError where that needs an estimator of the present
        form and the bundle has none: it decodes, but does not encode."""
        config = self.bundle.config
        if config.parameters != "learned":
            dithered = self.entropy.settings.dither
            return Tabulated(self.backbone, config.parameters, config.alpha_at_one, config.alpha_offsets, dithered)
        if self.estimator is None:
            raise BundleError(
                f"the bundle {self.bundle.path} predicts bin widths but has no estimator that this release computes: "
                "it decodes, but to encode train its adapter stage anew"
            )
        return Predicted(self.backbone, self.estimator)

    @torch.no_grad()
    def encode(self, picture: Picture, *, quality: float = DEFAULT_QUALITY, effort: int = 0) -> Encoded:
        """Encodes at lambda = quality > 0; larger means more bits and less distortion.

        `effort` 1 and 2 refine the latent by gradient (codec.quantization.refinement): fewer bytes at equal quality,
        for about 15 and 150 times the time.

        Codes the stored colors, also of transparent pixels. Alpha plane, color profile, orientation and metadata blocks
        are kept without loss. Raises ImageError if the picture exceeds the format's limits, SettingsError for an
        invalid quality.
        """
        code = _quality_code(quality)
        check_effort(effort)
        y = self._latent(picture)
        parameters = self._parameters(y, quality_of_code(code))
        return self._finish(picture, of_picture(picture), y, code, parameters, effort)

    def encode_all(self, pictures: Sequence[Picture], *, quality: float = DEFAULT_QUALITY) -> list[Encoded]:
        """Encodes pictures of one size in one batch; see encode_many."""
        return list(self.encode_many(dict(enumerate(pictures)), len(pictures), quality=quality).values())

    def encode_many(
        self, pictures: Mapping[int, Picture], count: int, *, quality: float = DEFAULT_QUALITY
    ) -> dict[int, Encoded]:
        """Encodes pictures of one size, by slot in a batch of `count`; empty slots are gray.

        A latent's last bits depend on the batch's shape and the slot, so a file may differ slightly from encode's. It
        does not depend on the other slots. Raises ValueError for pictures of several sizes or invalid slots; otherwise
        as encode does.
        """
        return self.begin_many(pictures, count, quality=quality)()

    def begin_many(
        self, pictures: Mapping[int, Picture], count: int, *, quality: float = DEFAULT_QUALITY
    ) -> Callable[[], dict[int, Encoded]]:
        """Runs the networks of encode_many and returns a function that runs the range coders and gives its result."""
        code = _quality_code(quality)
        for picture in pictures.values():
            _check_size(picture)
        return batches.encode(self, pictures, count, code)

    @torch.no_grad()
    def encode_to_bpp(self, picture: Picture, bits_per_pixel: float, *, effort: int = 0) -> Encoded:
        """Encodes to the largest file of at most `bits_per_pixel` (8 * file bytes / pixels), within 3 % or 64 bytes.

        If the picture cannot reach the rate, returns its nearest file. With `effort` the file of that search is
        refined, and at most two more near it. Raises as encode does.
        """
        if not 0 < bits_per_pixel < float("inf"):
            raise SettingsError(f"a target of {bits_per_pixel} bits per pixel is impossible; give a positive number")
        check_effort(effort)
        chunks = of_picture(picture)
        y = self._latent(picture)
        size = bits_per_pixel * picture.width * picture.height / 8
        code, plain = largest_within(lambda code: self._at_alpha(picture, chunks, y, code), size)
        if not effort:
            return plain
        return refined_within(lambda code: self._at_alpha(picture, chunks, y, code, effort), size, code, plain)

    @torch.no_grad()
    def encode_to_quality(
        self,
        picture: Picture,
        *,
        min_psnr_db: float | None = None,
        max_lpips: float | None = None,
        above: float = 0,
        effort: int = 0,
    ) -> Encoded:
        """Encodes to the smallest file with at least this PSNR and at most this LPIPS (AlexNet).

        `above` is a lambda known to miss the constraint; the search starts beyond it. Measures the pixels decoded on
        this machine. With `effort` the file of that search is refined, and one more near it. Raises QualityError with
        the best reachable quality if no file meets the constraint, SettingsError for an invalid one; otherwise as
        encode does.
        """
        constraint = QualityConstraint(min_psnr_db, max_lpips)
        check_effort(effort)
        chunks = of_picture(picture)
        y = self._latent(picture)
        missed = self.choice.alpha_code(y, above) if above else -1
        code = coarsest_reaching(constraint, picture.pixels, lambda code: self._preview(picture, y, code), missed)
        plain = self._at_alpha(picture, chunks, y, code)
        if not effort:
            return plain

        def meets(made: Encoded) -> bool:
            pixels = self.reconstruct(made.data, made.symbols)
            return measure(constraint, picture.pixels, pixels).meets(constraint)

        return refined_reaching(lambda code: self._at_alpha(picture, chunks, y, code, effort), meets, code, plain)

    def decode(self, data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> NDArray[np.uint8]:
        """Decodes the stored colors (H, W, 3) of a file, without applying the orientation.

        Raises BitstreamError, also if the file declares more than max_pixels.
        """
        return self._pixels(*self._symbols(data, max_pixels))

    def decode_picture(self, data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Picture:
        """Decodes a whole file: colors as in `decode`, alpha plane, profile, orientation, metadata."""
        file, symbols = self._symbols(data, max_pixels)
        pixels = self._pixels(file, symbols)
        return to_picture(file.chunks, pixels, gray=file.gray, orientation=file.orientation, version=file.version)

    def decode_all(self, files: Sequence[bytes], *, max_pixels: int = DEFAULT_MAX_PIXELS) -> list[NDArray[np.uint8]]:
        """Decodes files to within rounding of `decode`, in batches of one size and number of steps.

        Raises as decode does; all of the files are in memory at once.
        """
        return batches.decode(self, [self._parsed(data, max_pixels) for data in files])

    def symbols(self, data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Symbols:
        """Decodes the symbols (4, h, w) int32 of a file, exactly on every machine, without VAE and U-Net.

        Time and memory are bounded by the pixels that the file declares, and so by max_pixels (FORMAT.md, section 4).
        """
        return self._symbols(data, max_pixels)[1]

    @torch.no_grad()
    def latent(self, data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Tensor:
        """Decodes the dequantized latent of a file, (4, ceil(H/8), ceil(W/8)) float32, before U-Net and decoder.

        Its channels have mean 0 and variance 1 over photos. Raises as decode does.
        """
        file, symbols = self._symbols(data, max_pixels)
        k = torch.from_numpy(symbols)[None].to(self.backbone.device, torch.float32)
        latent: Tensor = quantizer.dequantize(k, file.parameters.alpha.to(k.device), self.dither(k))[0]
        return latent

    def content(self, data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Content:
        """Decodes everything that determines a file's pixels: its symbols and header fields."""
        file, symbols = self._symbols(data, max_pixels)
        return _content(symbols, file.width, file.height, file.gray, file.parameters)

    def contents(
        self, files: Sequence[bytes], *, max_pixels: int = DEFAULT_MAX_PIXELS
    ) -> list[Content | BitstreamError]:
        """content of each file, or its error. Files of one size are decoded together, with the same symbols."""
        whole: dict[int, FdcFile] = {}
        found: dict[int, Content | BitstreamError] = {}
        for position, data in enumerate(files):
            try:
                whole[position] = self._parsed(data, max_pixels)
            except BitstreamError as error:
                found[position] = error
        decoded = batches.symbols_of(self, list(whole.values()))
        for (position, file), own in zip(whole.items(), decoded, strict=True):
            if isinstance(own, BitstreamError):
                found[position] = own
            else:
                found[position] = _content(own, file.width, file.height, file.gray, file.parameters)
        return [found[position] for position in range(len(files))]

    def reconstruct(self, data: bytes, symbols: Symbols, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> NDArray[np.uint8]:
        """Decodes a file with known symbols: parses the header but not the stream.

        Raises BitstreamError, also if the symbols do not fit the file's size.
        """
        return self._pixels(self._that_fits(data, symbols, max_pixels), symbols)

    def reconstruct_many(
        self, files: Mapping[int, tuple[bytes, Symbols]], count: int, *, max_pixels: int = DEFAULT_MAX_PIXELS
    ) -> dict[int, NDArray[np.uint8]]:
        """Reconstructs files of one size with their symbols, by slot in a batch of `count`.

        A slot's result does not depend on other slots. Raises ValueError for files of several sizes; otherwise as
        reconstruct does.
        """
        parsed = {}
        known = {}
        for position, (data, symbols) in files.items():
            parsed[position] = self._that_fits(data, symbols, max_pixels)
            known[position] = symbols
        return batches.reconstruct(self, parsed, known, count)

    def dither(self, latent: Tensor) -> Tensor:
        """The dither offsets of latents (B, 4, h, w), in bins; zeros if the bundle has no dither."""
        return dither(latent, self.entropy.settings.dither)

    @torch.no_grad()
    def _pixels(self, file: FdcFile, symbols: Symbols) -> NDArray[np.uint8]:
        k = torch.from_numpy(symbols)[None].to(self.backbone.device, torch.float32)
        pixels: NDArray[np.uint8] = self._restore(k, [file.parameters], (file.height, file.width), file.gray)[0]
        return pixels

    def _that_fits(self, data: bytes, symbols: Symbols, max_pixels: int) -> FdcFile:
        """Parses a file and checks that the symbols fit its size."""
        file = self._parsed(data, max_pixels)
        if symbols.shape != (CHANNELS, *file.latent_shape):
            raise BitstreamError(f"{file.width} x {file.height} pixels do not have symbols of shape {symbols.shape}")
        return file

    def _parsed(self, data: bytes, max_pixels: int) -> FdcFile:
        file = parse(data, max_pixels=max_pixels)
        if not self.bundle.id.startswith(file.bundle_id):
            raise BitstreamError(f"the file was written with bundle {file.bundle_id}, not {self.bundle.id[:16]}")
        return file

    def _symbols(self, data: bytes, max_pixels: int) -> tuple[FdcFile, Symbols]:
        file = self._parsed(data, max_pixels)
        codes = file.parameters.channel_codes
        canonical = file.version > 1  # streams of version 1 may have an extra word
        symbols = decompress(self.entropy, self.tables, file.stream, file.latent_shape, codes, canonical=canonical)
        return file, symbols

    def _restore(
        self, k: Tensor, parameters: Sequence[QuantizationParameters], size: tuple[int, int], gray: bool
    ) -> NDArray[np.uint8]:
        """Symbols (B, 4, h, w) float32, all or none with a timestep -> pixels (B, H, W, 3)."""
        alpha = torch.cat([own.alpha for own in parameters]).to(k.device)
        y_hat = quantizer.dequantize(k, alpha, self.dither(k))
        if parameters[0].timestep_code:
            t = torch.tensor([own.timestep for own in parameters], dtype=torch.float32, device=k.device)
            y_hat = denoise(self.backbone, y_hat, t, self.bundle.config.steps)
        # band by band into 8 bits: a large picture in float32 would need a gigabyte per 85 megapixels
        pixels = np.empty((len(k), *size, 3), np.uint8)
        row = 0
        for band in self.backbone.decode_bands(y_hat, size):
            height = band.shape[-2]
            for position, picture in enumerate(band):
                finished = to_pixels(picture)
                if gray:
                    finished = np.round(finished.mean(2, keepdims=True)).astype(np.uint8)
                pixels[position, row : row + height] = finished
            row += height
        return pixels

    def _latent(self, picture: Picture) -> Tensor:
        _check_size(picture)
        return self.backbone.encode_pixels(picture.pixels)

    def _parameters(self, y: Tensor, quality: float) -> QuantizationParameters:
        return self.choice.parameters(y, self.choice.alpha_code(y, quality))

    def _at_alpha(
        self, picture: Picture, chunks: tuple[Chunk, ...], y: Tensor, alpha_code: int, effort: int = 0
    ) -> Encoded:
        quality_code = quantizer.code_of_quality(self.choice.quality(y, alpha_code))
        return self._finish(picture, chunks, y, quality_code, self.choice.parameters(y, alpha_code), effort)

    def _preview(self, picture: Picture, y: Tensor, alpha_code: int) -> NDArray[np.uint8]:
        """The reconstruction of the file at this alpha code, without writing it."""
        parameters = self.choice.parameters(y, alpha_code)
        k = quantizer.quantize(y, parameters.alpha.to(y.device), self.dither(y))
        pixels: NDArray[np.uint8] = self._restore(k, [parameters], (picture.height, picture.width), picture.gray)[0]
        return pixels

    def _finish(
        self,
        picture: Picture,
        chunks: tuple[Chunk, ...],
        y: Tensor,
        quality_code: int,
        parameters: QuantizationParameters,
        effort: int,
    ) -> Encoded:
        if effort:  # the parameters stay those of the latent as the encoder network gave it
            quality = quality_of_code(quality_code)
            y = refined(self, picture, y, parameters, quality, EFFORTS[effort])
        # alpha is applied once: the hyper-encoder must see the values that are rounded, to the last bit
        scaled = parameters.alpha.to(y.device) * y
        whole = quantizer.quantize(scaled, torch.ones(1, device=y.device), self.dither(y))
        symbols = whole[0].cpu().numpy().astype(np.int32)
        codes = parameters.channel_codes
        hyper = []
        for rows, columns in tiles(*symbols.shape[1:]):
            z = hyper_latent(self.encoder, scaled[..., rows, columns], codes.to(y.device), self.constants)[0]
            hyper.append(z.round().cpu().numpy().astype(np.int32))
        coded = compress(self.entropy, self.tables, symbols, hyper, codes)
        return self._packed(picture, chunks, quality_code, parameters, symbols, coded)

    def _packed(
        self,
        picture: Picture,
        chunks: tuple[Chunk, ...],
        quality_code: int,
        parameters: QuantizationParameters,
        symbols: Symbols,
        coded: CodedStream,
    ) -> Encoded:
        file = FdcFile(
            width=picture.width,
            height=picture.height,
            gray=picture.gray,
            bundle_id=self.bundle.id[:16],
            quality_code=quality_code,
            parameters=parameters,
            stream=coded.data,
            chunks=chunks,
            orientation=picture.orientation,
        )
        steps = self.bundle.config.steps if parameters.timestep_code else 0
        return Encoded(
            data=pack(file),
            content=_content(symbols, picture.width, picture.height, picture.gray, parameters),
            quality=file.quality,
            timestep=parameters.timestep,
            steps=steps,
            latent_bits=coded.latent_bits,
            side_bits=coded.hyper_bits,
        )


def _content(symbols: Symbols, width: int, height: int, gray: bool, parameters: QuantizationParameters) -> Content:
    return Content(symbols, width, height, gray, parameters.timestep_code, parameters.alpha_codes)


def _quality_code(quality: float) -> int:
    if not 0 < quality < float("inf"):
        raise SettingsError(f"quality must be a positive number, not {quality}")
    return quantizer.code_of_quality(quality)


def _check_size(picture: Picture) -> None:
    width = picture.width
    height = picture.height
    if not (width and height):
        raise ImageError(f"an image of {width} x {height} has no pixels")
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise ImageError(
            f"{width} x {height} pixels exceed the format's limits ({MAX_SIDE} a side, {MAX_PIXELS} in all)"
        )
