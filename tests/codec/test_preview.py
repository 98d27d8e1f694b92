"""A file's preview: small, as displayed, without metadata, read without torch, and never in the way of the picture."""

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import codec.pillow  # registers the format
from codec import Codec, Picture, encode_png, preview
from codec.bundle import Bundle
from codec.cli import app
from codec.errors import BitstreamError, SettingsError
from codec.format.bitstream import pack, parse
from codec.format.chunks import Chunk, compressed, of_picture
from codec.format.preview import LARGEST
from codec.format.tags import EXIF, PREVIEW, MetadataBlock
from codec.preview import read_preview, with_preview, without_preview
from tests.codec.format.test_chunks import file_with
from tests.conftest import synthetic
from tests.support.image_files import DISPLAY_P3, profile

WIDE = Picture(synthetic(400, 800), blocks=(MetadataBlock(EXIF, b"II*\0planted secret"),))
NOISE = np.random.default_rng(1).integers(0, 256, (640, 960, 3), np.uint8)


def shown(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def block(picture: Picture) -> bytes | None:
    found = [block.content for block in picture.blocks if block.tag == PREVIEW]
    assert len(found) < 2
    return found[0] if found else None


@pytest.fixture(scope="module")
def codec(bundle: Bundle) -> Codec:
    return Codec.load(bundle)


def test_a_file_has_no_preview_unless_asked_and_one_of_the_size_asked(codec: Codec) -> None:
    plain = codec.encode(WIDE).data
    assert read_preview(plain) is None
    previewed = codec.encode(with_preview(WIDE, 200))
    found = read_preview(previewed.data)
    assert found is not None and (found.width, found.height) == (200, 100) == shown(found.data).size
    assert without_preview(previewed.data) == plain, "a preview changes nothing else"
    assert len(previewed.data) - len(plain) == preview.cost(with_preview(WIDE, 200)) > len(found.data)
    assert previewed.data == codec.encode(with_preview(WIDE, 200)).data


def test_a_preview_has_at_most_6000_bytes_and_a_64th_of_a_bit_per_pixel() -> None:
    for pixels in (NOISE, NOISE[:400, :500], NOISE[:300, :300]):
        content = block(with_preview(Picture(pixels)))
        assert content is None or len(content) <= min(LARGEST, pixels.shape[0] * pixels.shape[1] / 512)
    assert block(with_preview(Picture(synthetic(640, 960)))) is not None
    smaller = block(with_preview(Picture(NOISE[:400, :500])))
    assert smaller is not None and max(shown(smaller).size) < 256, "before it is too bad, it becomes smaller"
    assert block(with_preview(Picture(NOISE[:300, :300]), bits_per_pixel=0.01)) is None


def test_a_preview_takes_at_most_a_quarter_of_a_target_rate(codec: Codec) -> None:
    picture = Picture(synthetic(400, 600))
    small = block(with_preview(picture, bits_per_pixel=0.05))
    large = block(with_preview(picture))
    assert large is not None and (small is None or len(small) <= 0.25 * 0.05 * 400 * 600 / 8 < len(large))


def test_a_picture_no_larger_than_its_preview_has_none() -> None:
    assert block(with_preview(Picture(synthetic(256, 200)))) is None
    assert block(with_preview(WIDE, 0)) is None
    for side in (8, 1000, -1):
        with pytest.raises(SettingsError, match="preview must be 0, or 16 to 512 pixels"):
            with_preview(WIDE, side)


def test_a_preview_carries_no_metadata_and_is_never_copied_from_another_picture() -> None:
    content = block(with_preview(replace(WIDE, blocks=(*WIDE.blocks, MetadataBlock(PREVIEW, b"stale")))))
    assert content is not None and b"secret" not in content and b"stale" not in content
    assert not {"exif", "icc_profile", "xmp"} & shown(content).info.keys()


def test_a_preview_is_as_displayed_upright_over_white_in_srgb() -> None:
    pixels = np.zeros((300, 600, 3), np.uint8)
    pixels[:150] = (200, 40, 40)
    content = block(with_preview(Picture(pixels, orientation=6), 256))  # shown, the top row is the right column
    assert content is not None
    upright = np.asarray(shown(content)).astype(int)
    assert upright.shape == (256, 128, 3) and upright[128, 100, 0] > 150 > 60 > upright[128, 20, 0]
    clear = block(with_preview(Picture(pixels, alpha=np.zeros((300, 600), np.uint8))))
    assert clear is not None and np.asarray(shown(clear)).min() > 250
    wide_gamut = block(with_preview(Picture(pixels, icc=profile(2.2, DISPLAY_P3))))
    assert wide_gamut is not None and np.asarray(shown(wide_gamut))[32, 128, 0] > 205, "P3's red is beyond that of sRGB"


def test_a_decoded_picture_has_no_preview(codec: Codec) -> None:
    decoded = codec.decode_picture(codec.encode(with_preview(WIDE)).data)
    assert decoded.blocks == WIDE.blocks
    assert b"WEBPVP8" not in encode_png(decoded)


def test_a_preview_is_read_without_torch(codec: Codec, tmp_path: Path) -> None:
    path = tmp_path / "a.fdc"
    path.write_bytes(codec.encode(with_preview(WIDE)).data)
    program = (
        "import sys; from codec import read_preview; from pathlib import Path\n"
        "found = read_preview(Path(sys.argv[1]).read_bytes())\n"
        "sys.exit('torch' in sys.modules or (found.width, found.height) != (256, 128))"
    )
    assert subprocess.run([sys.executable, "-c", program, str(path)], check=False).returncode == 0


def test_content_of_another_form_is_no_preview() -> None:
    good = block(with_preview(WIDE))
    assert good is not None
    huge = good[:26] + (0x3FFF).to_bytes(2, "little") + good[28:]
    lossless = io.BytesIO()
    Image.fromarray(WIDE.pixels).save(lossless, "WEBP", lossless=True)
    for content in (b"words", huge, lossless.getvalue(), good + bytes(LARGEST)):
        assert read_preview(packed(content)) is None
    assert read_preview(packed(good)) is not None


def packed(content: bytes) -> bytes:
    return pack(file_with((Chunk(PREVIEW, compressed(content), content),)))


def test_a_damaged_file_has_no_preview(codec: Codec) -> None:
    data = bytearray(codec.encode(with_preview(WIDE)).data)
    data[-100] ^= 1
    with pytest.raises(BitstreamError, match="checksum"):
        read_preview(bytes(data))


def test_the_chunk_of_a_preview_may_be_skipped_and_must_not_be_copied() -> None:
    assert PREVIEW[0].islower() and PREVIEW[3].isupper()
    [chunk] = [chunk for chunk in of_picture(with_preview(WIDE)) if chunk.tag == PREVIEW]
    assert parse(packed(chunk.content)).chunks == (chunk,)


def test_the_command_adds_a_preview_if_asked(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode_png(WIDE))
    for name, options in (("plain", []), ("previewed", ["--preview", "100"])):
        output = str(tmp_path / f"{name}.fdc")
        arguments = ["encode", str(tmp_path / "a.png"), "-o", output, "--bundle", str(bundle.path), *options]
        assert CliRunner().invoke(app, arguments).exit_code == 0
    assert read_preview((tmp_path / "plain.fdc").read_bytes()) is None
    found = read_preview((tmp_path / "previewed.fdc").read_bytes())
    assert found is not None and (found.width, found.height) == (100, 50)


def test_pillow_shows_the_preview_of_a_turned_picture_upright(codec: Codec) -> None:
    turned = with_preview(replace(WIDE, orientation=6))
    with Image.open(io.BytesIO(codec.encode(turned).data)) as image:
        assert image.size == (400, 800)
        image.draft(None, (100, 200))
        assert image.size == (128, 256) == (np.asarray(image).shape[1], np.asarray(image).shape[0])
