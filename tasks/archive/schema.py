"""The schema of the report, which has one row for each source. Writer, readers and tests share it.

New fields are nullable and are added at the end. The metadata of each field has its description and unit.
"""

import datetime
from collections.abc import Mapping, Sequence
from typing import TypedDict, TypeVar

import pyarrow as pa

from codec.containers.reasons import MEANINGS

SCHEMA_VERSION = 2

STATUSES: Mapping[str, str] = {
    "compressed": "kept as an .fdc file",
    "fallback": "kept whole, for the reason given",
    "unchanged": "content of an earlier version, whose stored file the row points to",
    "failed": "not kept, for the reason given; the next run tries again",
    "forgotten": "kept once, then erased permanently; the key is never archived again",
}
CODECS: Mapping[str, str] = {
    "fdc": "this package's lossy format",
    "jxl": "lossless JPEG XL",
    "original": "the source's own bytes",
}
FAILURES: Mapping[str, str] = {
    "source_changed": "changed between listing and reading",
    "source_missing": "deleted between listing and reading",
    "source_unreadable": "cannot be read: access denied, damaged, not a file, or in an archival storage class",
    "unreadable_folder": "a folder or prefix that cannot be listed; sources below it are neither gone nor new",
    "strict_metadata": "cannot be compressed, and kept whole it would retain metadata that the settings exclude",
}
REASONS: Mapping[str, str] = {
    **{str(reason): f"fallback: {meaning}" for reason, meaning in MEANINGS.items()},
    **{reason: f"failed: {meaning}" for reason, meaning in FAILURES.items()},
}
"""All reasons: those for fallbacks, from codec.containers.reasons, and those for sources that failed."""
TROUBLE = ("crashed", "killed", "timeout", "encoder")
"""Reasons that may not recur on another machine, with more memory or in a later release; retried on request."""
DAMAGED = "damaged"
UPLOADS: Mapping[str, str] = {
    "checksum": "the store checked the SHA-256 of the whole tar before it was committed",
    "composite": "the store checked the SHA-256 of each part of the tar's upload",
    "crc64nvme": "the CRC-64/NVME reported by the store matches the tar",
    "read_back": "the whole tar was read back from the store and hashed",
}


def _field(name: str, kind: pa.DataType, description: str, unit: str = "", *, nullable: bool = True) -> pa.Field:
    metadata = {"description": description}
    if unit:
        metadata["unit"] = unit
    return pa.field(name, kind, nullable, metadata)


def _choice(choices: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {meaning}" for name, meaning in choices.items())


_SECONDS = pa.float64()

SCHEMA = pa.schema(
    [
        _field(
            "key",
            pa.string(),
            "path relative to the source; bytes that are not UTF-8 are percent-encoded",
            nullable=False,
        ),
        _field(
            "version", pa.int32(), "1 for the first content of a key, increased with each new content", nullable=False
        ),
        _field("source_uri", pa.string(), "URI of the source", nullable=False),
        _field("source_sha256", pa.string(), "SHA-256 of the source; null if it was not read completely"),
        _field("source_bytes", pa.int64(), "size of the source", "byte", nullable=False),
        _field("source_format", pa.string(), "container format detected from the source's bytes"),
        _field("width", pa.int32(), "width after orientation is applied", "pixel"),
        _field("height", pa.int32(), "height after orientation is applied", "pixel"),
        _field("status", pa.string(), _choice(STATUSES), nullable=False),
        _field("codec", pa.string(), _choice(CODECS)),
        _field("reason", pa.string(), _choice(REASONS)),
        _field("error", pa.string(), "the error in one line"),
        _field("duplicate_of", pa.string(), "first key of the run with an equal source"),
        _field("bytes", pa.int64(), "size of the stored file", "byte"),
        _field("bpp", pa.float64(), "8 * bytes / (width * height)", "bit/pixel"),
        _field(
            "psnr_db", pa.float64(), "peak signal-to-noise ratio of the 8-bit reconstruction; null if infinite", "dB"
        ),
        _field(
            "ms_ssim", pa.float64(), "multi-scale structural similarity, 0..1; null for sides of 160 pixels or less"
        ),
        _field("lpips", pa.float64(), "learned perceptual distance with the network lpips_net; 0 means equal"),
        _field("lpips_net", pa.string(), "network of lpips: alex; in older rows also vgg"),
        _field("dists", pa.float64(), "deep image structure and texture distance; 0 means equal"),
        _field("quality_lambda", pa.float64(), "rate-distortion weight as coded in the file"),
        _field("timestep", pa.float64(), "diffusion timestep as coded in the file, 0 means none", "1 of 1000"),
        _field("steps", pa.int32(), "denoising steps of the decoder"),
        _field("latent_bits", pa.int64(), "entropy-coded latent", "bit"),
        _field("side_bits", pa.int64(), "entropy-coded hyper-latent", "bit"),
        _field("run", pa.int32(), "run that wrote the row", nullable=False),
        _field("shard", pa.int32(), "shard of that run", nullable=False),
        _field("tar", pa.string(), "tar that holds the file, relative to the archive"),
        _field("offset", pa.int64(), "first byte of the file in the tar", "byte"),
        _field("length", pa.int64(), "bytes of the file in the tar", "byte"),
        _field("sha256", pa.string(), "SHA-256 of those bytes"),
        _field(
            "verified",
            pa.bool_(),
            "a second process decoded the same content; original: the stored bytes equal the source",
        ),
        _field("encode_seconds", _SECONDS, "time to read the picture and encode it", "s"),
        _field(
            "decode_seconds",
            _SECONDS,
            "time to compute the pixels for the metrics from the file's header and the encoder's symbols, which the "
            "second process compares with the stream; without a second process, the whole decoding time; null "
            "without metrics",
            "s",
        ),
        _field("device", pa.string(), "device that encoded the picture"),
        _field("bundle_id", pa.string(), "bundle id: hash of the trained codec"),
        _field("created_at", pa.timestamp("us", "UTC"), "creation time of the row", nullable=False),
        _field(
            "content_sha256",
            pa.string(),
            "SHA-256 of the decoded content: the symbols of an fdc file as <i4, the JPEG or pixels of a jxl file",
        ),
        _field("media_type", pa.string(), "media type of the source, detected from its bytes"),
        _field("carried", pa.list_(pa.string()), "tags of the metadata chunks that the .fdc file carries"),
        _field("discarded_parts", pa.list_(pa.string()), "parts of the source left out with the owner's consent"),
        _field("coded_space", pa.string(), "color space of the coded pixels"),
        _field(
            "group",
            pa.string(),
            "stem shared by the sources of one shot, or content identifier of a live photo; null for a single source",
        ),
        _field(
            "source_modified_at",
            pa.int64(),
            "modification time of the source since 1970; null if its store does not report it",
            "ns",
        ),
        _field("film_offset", pa.int64(), "offset in the tar of a motion photo's video", "byte"),
        _field("film_length", pa.int64(), "length of that video", "byte"),
        _field("film_sha256", pa.string(), "SHA-256 of that video, whose bytes are unchanged"),
        _field("needs_attention", pa.string(), "a problem for the owner to review, in one line; null if none"),
        _field("verified_by", pa.string(), _choice(UPLOADS)),
        _field("lpips_vgg", pa.float64(), "learned perceptual distance with VGG16; 0 means equal"),
        _field(
            "not_measured",
            pa.string(),
            "the metrics of an .fdc file that are null, each with its reason; null without metrics",
        ),
        _field(
            "effort",
            pa.int32(),
            "effort of the encoder for an .fdc file; at 1 and 2 the file was optimized for LPIPS with AlexNet, at 2 "
            "also for DISTS, so its lpips and dists are too good beside those of others; null in older rows: effort 0",
        ),
        _field(
            "preview_bytes",
            pa.int64(),
            "bytes of the .fdc file that its preview takes, part of bytes and bpp; 0 if it has none; null in older "
            "rows, whose files have none",
            "byte",
        ),
    ],
    metadata={"schema_version": str(SCHEMA_VERSION)},
)
MEASURED_ON_THE_WAY = ("encode_seconds", "decode_seconds", "device", "created_at")
"""Fields that may differ between two runs over the same sources; all others are determined by sources and settings."""


class Row(TypedDict, total=False):
    """A row of the report in Python. SCHEMA describes its fields.

    An unfinished row has some of the fields; `table` sets the others to null.
    """

    key: str
    version: int
    source_uri: str
    source_sha256: str | None
    source_bytes: int
    source_format: str | None
    width: int | None
    height: int | None
    status: str
    codec: str | None
    reason: str | None
    error: str | None
    duplicate_of: str | None
    bytes: int | None
    bpp: float | None
    psnr_db: float | None
    ms_ssim: float | None
    lpips: float | None
    lpips_net: str | None
    dists: float | None
    quality_lambda: float | None
    timestep: float | None
    steps: int | None
    latent_bits: int | None
    side_bits: int | None
    run: int
    shard: int
    tar: str | None
    offset: int | None
    length: int | None
    sha256: str | None
    verified: bool | None
    encode_seconds: float | None
    decode_seconds: float | None
    device: str | None
    bundle_id: str | None
    created_at: datetime.datetime
    content_sha256: str | None
    media_type: str | None
    carried: list[str] | None
    discarded_parts: list[str] | None
    coded_space: str | None
    group: str | None
    source_modified_at: int | None
    film_offset: int | None
    film_length: int | None
    film_sha256: str | None
    needs_attention: str | None
    verified_by: str | None
    lpips_vgg: float | None
    not_measured: str | None
    effort: int | None
    preview_bytes: int | None


Value = TypeVar("Value")


def present(value: Value | None) -> Value:
    """Returns a value that rows of this status always have; raises ValueError if it is null."""
    if value is None:
        raise ValueError("a row has null where its status requires a value")
    return value


def table(rows: Sequence[Row], metadata: Mapping[str, str]) -> pa.Table:
    """Builds a table of the report schema, with null for missing fields; adds `metadata` to the schema's.

    Raises pyarrow.ArrowInvalid for a value of the wrong type and ValueError for a name outside the schema.
    """
    names: set[str] = set()
    for row in rows:
        names.update(row)
    unknown = names - set(SCHEMA.names)
    if unknown:  # pyarrow would drop such a value without a word
        raise ValueError(f"the report has no field {', '.join(sorted(unknown))}")
    added = {key.encode(): value.encode() for key, value in metadata.items()}
    schema = SCHEMA.with_metadata({**SCHEMA.metadata, **added})
    return pa.Table.from_pylist(list(rows), schema)
