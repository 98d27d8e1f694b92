"""GIF: each block is named."""

from PIL import Image

from codec.containers.inspect import inspect
from codec.containers.judgement import judge
from codec.containers.reasons import Reason
from codec.format.tags import MetadataBlock
from tests.conftest import synthetic
from tests.support.containers import gif_extension, photo
from tests.support.image_files import stored

TABLE = 13 + 3 * 256


def reason(data: bytes) -> Reason | None:
    structure = inspect(data)
    assert sum(part.length for part in structure.parts) == len(data)
    return judge(structure).reason


def with_extension(label: int, content: bytes) -> bytes:
    data = photo("GIF")
    return data[:TABLE] + gif_extension(label, content) + data[TABLE:]


def test_comments_and_unknown_extensions_come_back() -> None:
    assert judge(inspect(photo("GIF"))).blocks == ()
    long = bytes(range(256)) * 2
    assert judge(inspect(with_extension(0xFE, long))).blocks == (MetadataBlock("coMm", long),)
    raw = gif_extension(0xFF, b"ICCRGBG1012" + long)
    assert judge(inspect(with_extension(0xFF, b"ICCRGBG1012" + long))).blocks == (
        MetadataBlock("unKn", b"GIF FF\0" + raw[2:]),
    )
    assert reason(with_extension(0x01, bytes(20))) is Reason.METADATA


def test_an_xmp_packet_comes_back_to_the_byte() -> None:
    packet = b"<x:xmpmeta>" + b"text, " * 100 + b"</x:xmpmeta>"
    magic = bytes([1, *range(255, -1, -1), 0])
    data = photo("GIF")
    extension = b"\x21\xff\x0bXMP DataXMP" + packet + magic
    verdict = judge(inspect(data[:TABLE] + extension + data[TABLE:]))
    assert (verdict.reason, verdict.blocks) == (None, (MetadataBlock("xmPp", packet),))


def test_animations_trailers_and_cut_files_are_kept() -> None:
    frames = [Image.fromarray(synthetic(16, 16) // step) for step in (1, 2)]
    assert reason(stored(frames[0], "GIF", save_all=True, append_images=frames[1:])) is Reason.FRAMES
    assert reason(photo("GIF") + b"behind") is Reason.TRAILING_DATA
    assert reason(photo("GIF")[:-1]) is Reason.DAMAGED
    assert reason(photo("GIF")[:-50]) is Reason.DAMAGED
