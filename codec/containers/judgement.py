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
MOST_BLOCKS, LARGEST_BLOCK, ALL_BLOCKS = 250, 1 << 24, 1 << 26
"""Limits of an .fdc file: number of blocks, bytes of one block, bytes of all."""
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
    reasons = {Reason(reason): why for reason, why in reversed(structure.keep)}
    if structure.damage:
        reasons[Reason.DAMAGED] = structure.damage[0]
    if structure.irregular:
        reasons.setdefault(Reason.IRREGULAR, structure.irregular[0])
    left_out = set()
    film = _film(structure.parts) if policy.film_beside and "motion" not in policy.discard else None
    for part in structure.parts:
        if film and film[0] <= part.offset < film[0] + film[1]:
            continue
        discard = next((name for name, role in DISCARDS.items() if role is part.role), None)
        if discard in policy.discard and discard is not None:
            left_out.add(discard)
        elif part.role in OF_ROLE:
            reasons.setdefault(OF_ROLE[part.role], f"{part.name}, {part.length} bytes at byte {part.offset}")
    blocks = structure.blocks
    if "gain-map" in left_out:
        blocks = tuple(block for block in blocks if block.tag != AUXILIARY and not lists_pictures(block))
    blocks, removed, failure = _allowed(blocks, policy.metadata)
    if failure or (failure := _too_much(blocks)):
        reasons.setdefault(Reason.METADATA, failure)
    reason = next((reason for reason in FIRST if reason in reasons), None)
    carried = tuple(sorted({block.tag for block in blocks}))
    discarded = tuple(sorted(left_out | removed))
    if reason is not None:
        return Verdict(reason, reasons[reason], (), (), ())
    return Verdict(None, "", carried, discarded, blocks, film)


def _film(parts: tuple[Part, ...]) -> tuple[int, int] | None:
    """The file's only video with the trailing bytes that touch it, such as Samsung's records; None if there is none."""
    films = [number for number, part in enumerate(parts) if part.role is Role.MOTION]
    if len(films) != 1:
        return None
    first = last = films[0]
    while parts[first - 1].role is Role.TRAILER:
        first -= 1
    while last + 1 < len(parts) and parts[last + 1].role is Role.TRAILER:
        last += 1
    return parts[first].offset, parts[last].offset + parts[last].length - parts[first].offset


def _too_much(blocks: tuple[MetadataBlock, ...]) -> str:
    sizes = [len(block.content) for block in blocks]
    if len(sizes) > MOST_BLOCKS or max(sizes, default=0) > LARGEST_BLOCK or sum(sizes) > ALL_BLOCKS:
        return f"{sum(sizes)} bytes of metadata in {len(sizes)} blocks, more than an .fdc file holds"
    return ""


def _compressed_text(block: MetadataBlock) -> bool:
    """Whether a block is a compressed PNG text."""
    if block.tag != "teXt":
        return False
    _, _, rest = block.content.partition(b"\0")
    return block.content.startswith(b"zTXt") or (block.content.startswith(b"iTXt") and rest[:1] == b"\x01")


def lists_pictures(block: MetadataBlock) -> bool:
    """Whether a block is the list of further pictures that follow a JPEG."""
    return block.tag == "unKn" and block.content.startswith(b"JPEG APP2\0MPF\0")


def _allowed(
    blocks: tuple[MetadataBlock, ...], policy: MetadataPolicy
) -> tuple[tuple[MetadataBlock, ...], set[str], str]:
    """The blocks that the policy keeps, the names of what it removes, and why it cannot be applied, if so."""
    if policy == "all":
        return blocks, set(), ""
    if policy == "none":
        own = tuple(block for block in blocks if block.tag in (AUXILIARY,))
        return own, {"metadata"} if len(own) < len(blocks) else set(), ""
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
        elif block.tag in ("xmPp", "xeXt", "ipTc", "psIr", "teXt", "unKn", AUXILIARY) and LOCATIONS.search(
            block.content
        ):
            removed.add("location")
        elif block.tag in ("ipTc", "psIr", "unKn") or _compressed_text(block):
            removed.add("metadata")  # these are not searched for locations
        else:
            allowed.append(block)
    return tuple(allowed), removed, ""
