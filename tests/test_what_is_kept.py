"""The table in infra/docs/archives.md of what becomes of each part of a source is what the code does.

`python -m tests.test_what_is_kept` prints the table anew.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from codec.containers.inspect import inspect
from codec.containers.judgement import DISCARDS, Policy, judge
from codec.errors import NotAnImageError
from tests.codec.containers.test_pictures_once_lost import CASES
from tests.conftest import synthetic
from tests.support.containers import (
    exif,
    extended_webp,
    film,
    photo,
    png_with,
    segment,
    with_segments,
)  # fmt: skip
from tests.support.image_files import stored

PAGE = Path(__file__).parents[1] / "infra" / "docs" / "archives.md"
DEEP = np.full((40, 48), 30000, np.uint16)


def samples() -> Iterator[tuple[str, str, bytes]]:
    """Container, part, and a file that has it."""
    yield "any", "pixels of 8 bits, gray or RGB, transparency, a profile near sRGB's", photo("PNG")
    yield "JPEG", "EXIF with MakerNote, GPS and thumbnail", with_segments(segment(0xE1, b"Exif\0\0" + exif(6)))
    yield "JPEG", "XMP, IPTC and Photoshop resources, comments", CASES["03-xmp-iptc.jpg"][0]()
    yield "JPEG", "segments of unknown programs, up to 1 MiB", with_segments(segment(0xE7, b"who knows"))
    yield "JPEG", "gain map (Ultra HDR)", CASES["01-ultrahdr.jpg"][0]()
    yield "JPEG", "further pictures (MPO)", CASES["01-mpo-control.jpg"][0]()
    yield "JPEG", "video of a motion photo", CASES["02-motion-photo.MP.jpg"][0]()
    yield "JPEG", "bytes after the end", photo() + b"appended"
    yield "JPEG", "content credentials (C2PA)", with_segments(segment(0xEB, b"JP\0\1\0\0\0\1" + b"jumb" + b"c2pa" * 9))
    yield "JPEG", "CMYK", stored(imagecodecs_cmyk(), "JPEG")
    yield "JPEG", "half of its data lost, or zeroed", CASES["08-zero-tail.jpg"][0]()
    yield "PNG", "text, time, resolution, unknown ancillary chunks", png_with((b"tEXt", b"Title\0a"), (b"npTc", b"x"))
    yield "PNG, WebP, AVIF", "animation", CASES["anim3.webp"][0]()
    yield "PNG, TIFF, PPM", "samples of 16 bits", stored(DEEP, "PNG")
    yield "WebP", "EXIF, XMP, profile", extended_webp((b"XMP ", b"<x/>"), flags=0x04)
    yield "TIFF", "texts, date, EXIF, GPS, XMP, IPTC, resolution", CASES["10-scan.tif"][0]()
    yield "TIFF", "MakerNote, georeference, layers, private tags", CASES["16-geotiff.tif"][0]()
    yield "TIFF", "pages, channels without a meaning as color", CASES["contig-rgb-nir-4band.tif"][0]()
    yield "HEIC, AVIF", "8 bits, EXIF, XMP, Display P3", CASES["05-avif-cicp-12-13-6.avif"][0]()
    yield "HEIC, AVIF", "10 bits, HDR", CASES["17-10bit.avif"][0]()
    yield "HEIC, AVIF", "clean aperture", CASES["19-clap.avif"][0]()
    yield "JPEG XL", "8 bits in sRGB; a transcoded JPEG is that JPEG", CASES["12-photo.jxl"][0]()
    yield "JPEG 2000", "8 bits", CASES["12-photo.jp2"][0]()
    yield "DNG and other raw", "all of it", CASES["16-raw-like.dng"][0]()
    yield "ICO, PSD, EXR, HDR", "all of it", CASES["12.ico"][0]()
    yield "videos, sidecar files, texts", "all of it", film()


def imagecodecs_cmyk() -> object:
    from PIL import Image

    return Image.fromarray(synthetic(40, 48)).convert("CMYK")


def table() -> str:
    """The table in Markdown."""
    lines = ["| source | part | by default | with `--discard` |", "|---|---|---|---|"]
    for container, part, data in samples():
        try:
            structure = inspect(data)
        except NotAnImageError:
            lines.append(f"| {container} | {part} | kept whole: `not_an_image` | |")
            continue
        plain = judge(structure, Policy(discard=frozenset(), film_beside=True))
        outcome = f"kept whole: `{plain.reason}`"
        if plain.reason is None:
            outcome = f"carried: {', '.join(f'`{tag}`' for tag in plain.carried)}" if plain.carried else "compressed"
            outcome += "; the video beside it, to the byte" if plain.film else ""
        others = []
        for name in DISCARDS:
            verdict = judge(structure, Policy(discard=frozenset({name}), film_beside=True))
            if verdict.reason is None and name in verdict.discarded:
                others.append(f"`{name}`: left out")
        lines.append(f"| {container} | {part} | {outcome} | {', '.join(others)} |")
    return "\n".join(lines) + "\n"


def test_the_page_says_what_becomes_of_each_part() -> None:
    assert table() in PAGE.read_text(), "print the table anew: python -m tests.test_what_is_kept"


def test_what_no_file_holds_is_said_not_to_be_kept() -> None:
    assert "Extended attributes, access lists, resource forks, links and empty folders are not kept" in PAGE.read_text()


if __name__ == "__main__":
    print(table(), end="")
