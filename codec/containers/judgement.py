"""Decides whether an .fdc file may replace a source: only if every byte of the source is accounted for."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from codec.containers import exif
from codec.containers.reasons import Reason
from codec.containers.structure import Part, Role, Structure
from codec.format.tags import AUXILIARY, MetadataBlock

DISCARDS = {
    "preview": Role.PREVIEW,
    "gain-map": Role.AUXILIARY,
    "motion": Role.MOTION,
    "trailer": Role.TRAILER,
    "content-credentials": Role.CREDENTIALS,
}
"""Parts that an owner may agree to leave out, by the names of `--discard`."""
DISCARD_OF_ROLE = {role: name for name, role in DISCARDS.items()}
OF_ROLE = {
    Role.FRAMES: Reason.FRAMES,
    Role.MOTION: Reason.TRAILING_DATA,
    Role.TRAILER: Reason.TRAILING_DATA,
    Role.CREDENTIALS: Reason.SIGNED,
    Role.PREVIEW: Reason.FRAMES,
    Role.UNACCOUNTED: Reason.METADATA,
}
FIRST = (
    Reason.NOT_AN_IMAGE, Reason.RAW, Reason.DAMAGED, Reason.UNSUPPORTED, Reason.DEPTH, Reason.COLORS, Reason.SIGNED,
    Reason.FRAMES, Reason.GAIN_MAP, Reason.TRAILING_DATA, Reason.IRREGULAR, Reason.METADATA,
)  # fmt: skip
"""Precedence of reasons when there are several."""
LOCATIONS = re.compile(rb"(?i)gps|<[a-z]+:(city|country|state|location|sublocation)|LocationCreated|LocationShown")
MOST_BLOCKS = 250
"""Limit of an .fdc file: number of blocks."""
LARGEST_BLOCK = 1 << 24
"""Limit of an .fdc file: bytes of one block."""
ALL_BLOCKS = 1 << 26
"""Limit of an .fdc file: bytes of all blocks."""
SEARCHED = ("xmPp", "xeXt", "ipTc", "psIr", "teXt", "unKn", AUXILIARY)
"""Blocks that are searched for LOCATIONS as bytes."""
MetadataPolicy = Literal["all", "no-location", "none"]
POLICIES: tuple[str, ...] = get_args(MetadataPolicy)


@dataclass(frozen=True)
class Policy:
    """Which metadata is carried. `discard` holds keys of DISCARDS."""

    metadata: MetadataPolicy = "all"
    discard: frozenset[str] = frozenset({"preview"})
    film_beside: bool = False
    """Whether a motion photo's video is stored beside the .fdc file."""


@dataclass(frozen=True)
class Verdict:
    """The decision on a source. `reason` is None if it may be compressed."""

    reason: Reason | None
    detail: str
    carried: tuple[str, ...]
    """Tags of the blocks that the file carries, each once."""
    discarded: tuple[str, ...]
    """Names of the parts that the owner agreed to leave out, and of metadata that the policy removes."""
    blocks: tuple[MetadataBlock, ...]
    film: tuple[int, int] | None = None
    """Offset and length of the source's bytes to be stored beside the .fdc file: a video, and the records that its
    camera put around it."""


def judge(structure: Structure, policy: Policy = Policy()) -> Verdict:  # frozen
    """Judges a structure: kept whole for its gravest reason, or compressed with its blocks."""
    # Of several explanations for one reason the first is shown: reversed, so that it is the last to be set.
    reasons = {Reason(reason): why for reason, why in reversed(structure.keep)}
    if structure.damage:
        reasons[Reason.DAMAGED] = structure.damage[0]
    if structure.irregular:
        reasons.setdefault(Reason.IRREGULAR, structure.irregular[0])
    film = None
    if policy.film_beside and "motion" not in policy.discard:
        film = _film(structure.parts)
    left_out = set()
    for part in structure.parts:
        if film and film[0] <= part.offset < film[0] + film[1]:
            continue  # stored beside the .fdc file, so nothing is lost
        name = DISCARD_OF_ROLE.get(part.role)
        if name in policy.discard and name is not None:
            left_out.add(name)
        elif part.role in OF_ROLE:
            reasons.setdefault(OF_ROLE[part.role], f"{part.name}, {part.length} bytes at byte {part.offset}")
    blocks = structure.blocks
    if "gain-map" in left_out:
        # Without the gain maps, the list that locates them would point to nothing.
        blocks = tuple(block for block in blocks if block.tag != AUXILIARY and not lists_pictures(block))
    blocks, removed = _allowed(blocks, policy.metadata)
    too_much = _too_much(blocks)
    if too_much:
        reasons.setdefault(Reason.METADATA, too_much)
    for reason in FIRST:
        if reason in reasons:
            return Verdict(reason, reasons[reason], (), (), ())
    carried = tuple(sorted({block.tag for block in blocks}))
    discarded = tuple(sorted(left_out | removed))
    return Verdict(None, "", carried, discarded, blocks, film)


def _film(parts: tuple[Part, ...]) -> tuple[int, int] | None:
    """The file's only video with the trailing bytes that touch it, such as Samsung's records; None if there is none."""
    films = [number for number, part in enumerate(parts) if part.role is Role.MOTION]
    if len(films) != 1:
        return None
    first = films[0]
    while parts[first - 1].role is Role.TRAILER:  # ends at the signature at the latest
        first -= 1
    last = films[0]
    while last + 1 < len(parts) and parts[last + 1].role is Role.TRAILER:
        last += 1
    start = parts[first].offset
    return start, parts[last].offset + parts[last].length - start


def _too_much(blocks: tuple[MetadataBlock, ...]) -> str:
    """What exceeds the limits of an .fdc file; empty if nothing does."""
    sizes = [len(block.content) for block in blocks]
    total = sum(sizes)
    if len(sizes) > MOST_BLOCKS or max(sizes, default=0) > LARGEST_BLOCK or total > ALL_BLOCKS:
        return f"{total} bytes of metadata in {len(sizes)} blocks, more than an .fdc file holds"
    return ""


def _compressed_text(block: MetadataBlock) -> bool:
    """Whether a block is a compressed PNG text."""
    if block.tag != "teXt":
        return False
    if block.content.startswith(b"zTXt"):
        return True
    _, _, after_keyword = block.content.partition(b"\0")
    return block.content.startswith(b"iTXt") and after_keyword[:1] == b"\x01"


def lists_pictures(block: MetadataBlock) -> bool:
    """Whether a block is the list of further pictures that follow a JPEG."""
    return block.tag == "unKn" and block.content.startswith(b"JPEG APP2\0MPF\0")


def _allowed(blocks: tuple[MetadataBlock, ...], policy: MetadataPolicy) -> tuple[tuple[MetadataBlock, ...], set[str]]:
    """The blocks that the policy keeps, and the names of what it removes."""
    if policy == "all":
        return blocks, set()
    if policy == "none":
        pictures = tuple(block for block in blocks if block.tag == AUXILIARY)
        if len(pictures) == len(blocks):
            return pictures, set()
        return pictures, {"metadata"}
    return _without_location(blocks)


def _without_location(blocks: tuple[MetadataBlock, ...]) -> tuple[tuple[MetadataBlock, ...], set[str]]:
    """The blocks without places, and the names of what is removed: in doubt a whole block."""
    allowed: list[MetadataBlock] = []
    removed: set[str] = set()
    for block in blocks:
        if block.tag == "exIf":
            content = exif.without_location(block.content)
            if content is None:
                removed.add("exif")
                continue
            if content != block.content:
                removed.add("location")
            allowed.append(MetadataBlock(block.tag, content))
        elif block.tag in SEARCHED and LOCATIONS.search(block.content):
            removed.add("location")
        elif block.tag in ("ipTc", "psIr", "unKn") or _compressed_text(block):
            removed.add("metadata")  # the search does not see into binary fields and compressed text
        else:
            allowed.append(block)
    return tuple(allowed), removed
