"""Pillow, and what is built on it, opens and saves .fdc files as its own formats."""

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
from IPython.core.formatters import DisplayFormatter
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

import codec.pillow
from codec import Codec, Picture
from codec.bundle import Bundle
from codec.containers import writing
from codec.format import chunks, tags
from codec.format.bitstream import pack, parse
from codec.format.chunks import Chunk
from codec.format.tags import MetadataBlock
from tests.conftest import synthetic
from tests.golden.make import GOLDEN

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PACKET = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'


@pytest.fixture(scope="module")
def tiny(bundle: Bundle) -> Codec:
    return Codec.load(bundle)


@pytest.fixture(autouse=True)
def known_bundle(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec.pillow, "BUNDLES", [bundle.path])


@pytest.fixture
def file(tmp_path: Path, tiny: Codec) -> Path:
    """A compressed picture of 90 x 70 with EXIF, XMP, a comment and a resolution of 100 dots per centimeter."""
    exif = Image.Exif()
    exif[0x010F] = "maker"
    blocks = (
        MetadataBlock(tags.EXIF, exif.tobytes().removeprefix(b"Exif\0\0")),
        MetadataBlock(tags.XMP, PACKET),
        MetadataBlock(tags.COMMENT, b"a comment"),
        MetadataBlock(tags.RESOLUTION, b"\2" + b"".join(n.to_bytes(4, "little") for n in (100, 1, 50, 1))),
    )
    (tmp_path / "in.fdc").write_bytes(tiny.encode(Picture(synthetic(70, 90), blocks=blocks)).data)
    return tmp_path / "in.fdc"


def saved(image: Image.Image, bundle: Bundle, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "FDC", bundle=bundle.path, **options)
    return stream.getvalue()


def test_size_mode_and_info_need_no_torch() -> None:
    program = (
        "import sys, codec.pillow; from PIL import Image; image = Image.open(sys.argv[1]); "
        "assert (image.size, image.mode, image.format) == ((40, 56), 'LA', 'FDC'), (image.size, image.mode); "
        "assert image.info['exif'] and image.info['fdc']['version'] == 2 and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, str(GOLDEN / "version2" / "every-chunk.fdc")], check=True)


def test_every_golden_file_opens_with_the_mode_and_size_of_what_is_decoded(tiny: Codec) -> None:
    for path in [*GOLDEN.glob("*.fdc"), *GOLDEN.glob("version2/*.fdc")]:
        file = parse(path.read_bytes())
        stored = np.zeros((file.height, file.width, 3), np.uint8)
        picture = chunks.to_picture(
            file.chunks, stored, gray=file.gray, orientation=file.orientation, version=file.version
        )
        decoded, icc = writing.to_pillow(writing.upright(picture))
        with Image.open(path) as image:
            assert (image.size, image.mode) == (decoded.size, decoded.mode), path.name
            assert image.info.get("icc_profile") == icc, path.name


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "RGBA"])
def test_loading_gives_the_pixels_of_the_library_upright(mode: str, orientation: int, tiny: Codec) -> None:
    pixels = synthetic(40, 56)
    if mode in ("L", "LA"):
        pixels = np.repeat(pixels[..., :1], 3, 2)
    alpha = synthetic(40, 56)[..., 1] if "A" in mode else None
    source = Picture(pixels, gray=mode in ("L", "LA"), alpha=alpha, orientation=orientation)
    data = tiny.encode(source).data
    image = Image.open(io.BytesIO(data))
    assert image.mode == mode and image.size == ((56, 40) if orientation == 1 else (40, 56))
    expected = Image.open(io.BytesIO(writing.write(tiny.decode_picture(data))))
    assert np.array_equal(np.asarray(image), np.asarray(expected))
    assert ImageOps.exif_transpose(image).size == image.size


def test_metadata_has_the_names_of_pillows_own_formats(file: Path) -> None:
    with Image.open(file) as image:
        assert image.getexif()[0x010F] == "maker"
        assert image.info["xmp"] == PACKET and image.info["comment"] == b"a comment"
        assert image.info["dpi"] == pytest.approx((254.0, 127.0))
        assert image.info["fdc"]["bits_per_pixel"] == pytest.approx(8 * file.stat().st_size / 6300)
        assert Image.MIME["FDC"] == image.get_format_mimetype() == "image/vnd.fdcodec"


def test_saving_writes_what_the_library_writes(tiny: Codec, bundle: Bundle) -> None:
    image = Image.fromarray(synthetic(70, 90))
    picture = Picture(synthetic(70, 90))
    assert saved(image, bundle) == tiny.encode(picture).data
    assert saved(image, bundle, quality=3) == tiny.encode(picture, quality=3).data
    assert saved(image, bundle, target_bpp=0.8) == tiny.encode_to_bpp(picture, 0.8).data
    assert saved(image, bundle, min_psnr_db=15) == tiny.encode_to_quality(picture, min_psnr_db=15).data
    assert saved(image, bundle, quality=64, effort=1) == tiny.encode(picture, quality=64, effort=1).data


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "YCbCr"])
def test_every_mode_of_eight_bits_is_saved(mode: str, bundle: Bundle) -> None:
    alpha = Image.fromarray(synthetic(40, 56)[..., 1])
    image = Image.fromarray(synthetic(40, 56)).convert(mode.removesuffix("A") if mode != "PA" else "RGB")
    if "A" in mode:
        image.putalpha(alpha)
    opened = Image.open(io.BytesIO(saved(image, bundle)))
    assert opened.mode == ("L" if mode[0] in "1L" else "RGB") + ("A" if "A" in mode else "")
    if "A" in mode:
        assert np.array_equal(np.asarray(opened.getchannel("A")), np.asarray(alpha))


def test_metadata_given_to_save_comes_back(bundle: Bundle) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "maker"
    image = Image.fromarray(synthetic(40, 56))
    data = saved(image, bundle, exif=exif, xmp=PACKET, dpi=(300, 150), comment="hello", icc_profile=SRGB)
    image = Image.open(io.BytesIO(data))
    assert image.size == (40, 56)  # upright, as the orientation says
    assert image.getexif()[0x010F] == "maker" and image.getexif()[0x0112] == 1
    assert image.info["xmp"] == PACKET and image.info["dpi"] == (300, 150) and image.info["comment"] == b"hello"
    assert "icc_profile" not in image.info  # sRGB needs none


def with_preview(data: bytes, preview: bytes) -> bytes:
    file = parse(data)
    chunk = Chunk(tags.PREVIEW, chunks.compressed(preview), preview)
    return pack(replace(file, chunks=(*file.chunks, chunk)))


def test_a_thumbnail_comes_from_the_preview_without_the_networks(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (45, 35), "red").save(stream, "WEBP", lossless=True)
    (tmp_path / "a.fdc").write_bytes(with_preview(file.read_bytes(), stream.getvalue()))
    (tmp_path / "damaged.fdc").write_bytes(with_preview(file.read_bytes(), stream.getvalue()[:30]))
    with Image.open(tmp_path / "damaged.fdc") as damaged:
        assert damaged.draft(None, (20, 20)) is None
    with Image.open(tmp_path / "a.fdc") as image:
        assert image.draft(None, (60, 60)) is None  # the preview is smaller
    monkeypatch.setattr(codec.pillow, "_codec_of", lambda _: pytest.fail("the networks were loaded"))
    with Image.open(tmp_path / "a.fdc") as image:
        image.thumbnail((20, 20))
        assert image.size == (20, 16) and image.getpixel((10, 10)) == (255, 0, 0)


@pytest.mark.parametrize("cut", [20, 200, -3])
def test_a_truncated_file_is_an_oserror(cut: int, file: Path) -> None:
    with pytest.raises(OSError, match="damaged or truncated") as caught:
        Image.open(io.BytesIO(file.read_bytes()[:cut]))
    assert not isinstance(caught.value, UnidentifiedImageError)


def test_other_files_are_left_to_other_formats(file: Path) -> None:
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(b"\x8fFDC\n" + file.read_bytes()[5:]))
    stream = io.BytesIO()
    Image.new("L", (3, 3)).save(stream, "PNG")
    assert Image.open(stream).format == "PNG"


def test_a_missing_bundle_is_an_oserror_of_loading(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec.pillow, "BUNDLES", [])
    with Image.open(file) as image, pytest.raises(OSError, match="no bundle with id"):
        image.load()


def test_pillows_limit_on_pixels_holds(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(file)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6000)
    with pytest.warns(Image.DecompressionBombWarning), Image.open(file) as image:
        assert image.size == (90, 70)


@pytest.mark.parametrize(
    ("mode", "options", "error", "message"),
    [
        ("CMYK", {}, OSError, "cannot write mode CMYK as FDC"),
        ("I;16", {}, OSError, "cannot write mode I;16 as FDC"),
        ("RGB", {"quality": -1}, ValueError, "quality must be a positive number"),
        ("RGB", {"quality": "high"}, ValueError, "quality must be a positive number"),
        ("RGB", {"quality": 8, "target_bpp": 1}, ValueError, "choose one of"),
        ("RGB", {"effort": 7}, ValueError, "effort"),
        ("RGB", {"dpi": (10**12, 1)}, ValueError, "resolution"),
        ("RGB", {"min_psnr_db": 90}, OSError, "no file of this picture reaches"),
        ("RGB", {"bundle": "absent"}, OSError, "is not a bundle"),
    ],
)
def test_what_cannot_be_saved_is_said_and_leaves_no_file(
    mode: str, options: dict[str, object], error: type[Exception], message: str, bundle: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        Image.new(mode, (20, 10)).save(tmp_path / "out.fdc", **{"bundle": bundle.path, **options})
    assert list(tmp_path.iterdir()) == []


def test_imageio_reads_and_writes(file: Path, bundle: Bundle, tmp_path: Path) -> None:
    with Image.open(file) as image:
        expected = np.asarray(image)
    assert np.array_equal(imageio.imread(file), expected)
    assert imageio.improps(file).shape == (70, 90, 3)
    imageio.imwrite(tmp_path / "out.fdc", synthetic(70, 90), bundle=bundle.path, quality=2)
    assert imageio.immeta(tmp_path / "out.fdc")["fdc"]["quality"] == 2


def test_torchvision_reads_a_folder_in_worker_processes(file: Path, tmp_path: Path) -> None:
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms.functional import pil_to_tensor

    from codec.support import torchvision_shim  # noqa: F401

    (tmp_path / "photos" / "a").mkdir(parents=True)
    for name in ("1.fdc", "2.fdc"):
        (tmp_path / "photos" / "a" / name).write_bytes(file.read_bytes())
    data = ImageFolder(tmp_path / "photos", transform=pil_to_tensor, is_valid_file=lambda name: name.endswith(".fdc"))
    batch, labels = next(iter(DataLoader(data, batch_size=2, num_workers=1)))
    assert labels.tolist() == [0, 0]
    with Image.open(file) as image:
        expected = np.asarray(image)
    assert all(np.array_equal(own.permute(1, 2, 0).numpy(), expected) for own in batch)


def test_a_notebook_loads_the_extension_and_displays_a_picture(file: Path) -> None:
    shell = InteractiveShell.instance()
    try:
        assert shell.extension_manager.load_extension("codec.pillow") in (None, "already loaded")
        with Image.open(file) as image:
            formats, _ = DisplayFormatter(parent=shell).format(image)
            expected = np.asarray(image)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(formats["image/png"]))), expected)
    finally:
        InteractiveShell.clear_instance()


def test_gradio_takes_an_upload_and_shows_a_picture(file: Path, tmp_path: Path) -> None:
    # Gradio 6 needs Pillow 12, so it is in no extra: this runs where somebody has installed both.
    gradio = pytest.importorskip("gradio")
    from gradio.data_classes import ImageData

    component = gradio.Image(type="numpy", format="png")
    component.GRADIO_CACHE = str(tmp_path)
    with Image.open(file) as image:
        expected = np.asarray(image)
        shown = component.postprocess(image)
    assert np.array_equal(component.preprocess(ImageData(path=str(file))), expected)
    with Image.open(shown.path) as png:
        assert np.array_equal(np.asarray(png), expected)


def test_the_calls_of_gradio_and_of_web_frameworks_work(file: Path, bundle: Bundle) -> None:
    with Image.open(file) as image:
        upload = ImageOps.exif_transpose(image).convert("RGB")  # as gradio.image_utils.preprocess_image does
        stream = io.BytesIO()
        image.save(stream, "WEBP", lossless=True)  # as gradio.image_utils.save_image does
        assert np.array_equal(np.asarray(Image.open(stream)), np.asarray(upload))
    assert saved(upload.resize((45, 35)), bundle)[:4] == b"\x8fFDC"
