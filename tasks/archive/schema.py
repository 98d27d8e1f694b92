"""The one schema of the report: what a row says about a source, used by the writer, the readers and the tests.

It grows only by nullable fields at the end. Descriptions and units are in the metadata of each field.
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
    "unchanged": "touched, but with the content of an earlier version, whose bytes it points at",
    "failed": "not kept, for the reason given; taken again by the next run",
    "forgotten": "was kept; its bytes were erased for good, and the key is never taken again",
}
CODECS: Mapping[str, str] = {
    "fdc": "this package's lossy format",
    "jxl": "lossless JPEG XL",
    "original": "the source's own bytes",
}
FAILURES: Mapping[str, str] = {
    "source_changed": "changed between listing and reading",
    "source_missing": "gone between listing and reading",
    "source_unreadable": "there, but it could not be read: denied, damaged, no file, or in a class to be restored from",
    "unreadable_folder": "a place that could not be looked into; what is below it is neither gone nor new in this run",
    "strict_metadata": "not compressed, and kept whole it would have metadata that the settings exclude",
}
REASONS: Mapping[str, str] = {
    **{str(reason): f"fallback: {meaning}" for reason, meaning in MEANINGS.items()},
    **{reason: f"failed: {meaning}" for reason, meaning in FAILURES.items()},
}
"""One list for the whole package: of fallbacks codec.containers.reasons, and of sources that could not be read."""
TROUBLE = ("crashed", "killed", "timeout", "encoder")
"""Reasons that another machine, more memory or a later release may do away with: taken again on request."""
DAMAGED = "damaged"
UPLOADS: Mapping[str, str] = {
    "checksum": "the store checked the SHA-256 of the whole tar before it was committed",
    "composite": "the store checked the SHA-256 of each part of the tar's upload",
    "crc64nvme": "the store's CRC-64/NVME of the tar is that of its bytes",
    "read_back": "the whole tar was read again from the store and hashed",
}


def _field(name: str, kind: pa.DataType, description: str, unit: str = "", *, nullable: bool = True) -> pa.Field:
    metadata = {"description": description} | ({"unit": unit} if unit else {})
    return pa.field(name, kind, nullable, metadata)


def _choice(choices: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {meaning}" for name, meaning in choices.items())


_SECONDS = pa.float64()

SCHEMA = pa.schema(
    [
        _field("key", pa.string(), "path relative to the source, percent-escaped where it is no UTF-8", nullable=False),
        _field("version", pa.int32(), "1 for the first content of a key, one more for each other one", nullable=False),
        _field("source_uri", pa.string(), "where the source was read", nullable=False),
        _field("source_sha256", pa.string(), "hash of the source, null when it was not read whole"),
        _field("source_bytes", pa.int64(), "size of the source", "byte", nullable=False),
        _field("source_format", pa.string(), "container found in the source's bytes"),
        _field("width", pa.int32(), "width after orientation is applied", "pixel"),
        _field("height", pa.int32(), "height after orientation is applied", "pixel"),
        _field("status", pa.string(), _choice(STATUSES), nullable=False),
        _field("codec", pa.string(), _choice(CODECS)),
        _field("reason", pa.string(), _choice(REASONS)),
        _field("error", pa.string(), "one line on what failed"),
        _field("duplicate_of", pa.string(), "first key of the run whose source has the same bytes"),
        _field("bytes", pa.int64(), "size of the stored file", "byte"),
        _field("bpp", pa.float64(), "8 * bytes / (width * height)", "bit/pixel"),
        _field(
            "psnr_db", pa.float64(), "peak signal-to-noise ratio of the 8-bit reconstruction; null if infinite", "dB"
        ),
        _field("ms_ssim", pa.float64(), "multi-scale structural similarity, 0..1; null for 160 pixels and less"),
        _field("lpips", pa.float64(), "learned perceptual distance by lpips_net, 0 is equal"),
        _field("lpips_net", pa.string(), "network behind lpips: alex, in older rows also vgg"),
        _field("dists", pa.float64(), "deep image structure and texture distance, 0 is equal"),
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
        _field("sha256", pa.string(), "hash of those bytes"),
        _field("verified", pa.bool_(), "a second process decoded the same content; original: the source's bytes"),
        _field("encode_seconds", _SECONDS, "time to read the picture and encode it", "s"),
        _field(
            "decode_seconds",
            _SECONDS,
            "time to make the pixels for the metrics, from the file's header and the encoder's symbols, which the "
            "second process compares with the stream's; without it, of the whole decoding; null without metrics",
            "s",
        ),
        _field("device", pa.string(), "device that encoded it"),
        _field("bundle_id", pa.string(), "hash of the trained codec"),
        _field("created_at", pa.timestamp("us", "UTC"), "when the row was made", nullable=False),
        _field(
            "content_sha256",
            pa.string(),
            "hash of what the file decodes to: an fdc file's symbols as <i4, a jxl file's JPEG or pixels",
        ),
        _field("media_type", pa.string(), "media type of the source, by its bytes"),
        _field("carried", pa.list_(pa.string()), "tags of the metadata chunks that the .fdc file carries"),
        _field("discarded_parts", pa.list_(pa.string()), "parts of the source left out as the owner agreed"),
        _field("coded_space", pa.string(), "color space of the coded pixels"),
        _field(
            "group",
            pa.string(),
            "stem that sources of one shot share, or the content identifier of a live photo; null for one alone",
        ),
        _field(
            "source_modified_at",
            pa.int64(),
            "when the source was modified, since 1970; null where its store has no say",
            "ns",
        ),
        _field("film_offset", pa.int64(), "first byte in the tar of a motion photo's film", "byte"),
        _field("film_length", pa.int64(), "bytes of that film", "byte"),
        _field("film_sha256", pa.string(), "hash of those bytes, which are the source's own"),
        _field("needs_attention", pa.string(), "what an owner should look at, in one line; null where all is well"),
        _field("verified_by", pa.string(), _choice(UPLOADS)),
        _field("lpips_vgg", pa.float64(), "learned perceptual distance by VGG16, 0 is equal"),
        _field("not_measured", pa.string(), "each metric of an .fdc file that is null, and why; null without metrics"),
    ],
    metadata={"schema_version": str(SCHEMA_VERSION)},
)
MEASURED_ON_THE_WAY = ("encode_seconds", "decode_seconds", "device", "created_at")


class Row(TypedDict, total=False):
    """A row of the report as Python has it: the fields of SCHEMA, which says what they mean.

    A row that is being made has some of them; `table` makes the others null.
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


Value = TypeVar("Value")


def present(value: Value | None) -> Value:
    """A value that rows of its status have; raises ValueError where it is null."""
    if value is None:
        raise ValueError("a row lacks a value that rows of its status have")
    return value


def table(rows: Sequence[Row], metadata: Mapping[str, str]) -> pa.Table:
    """Rows as a table of the one schema, missing fields null; `metadata` is added to the schema's.

    Raises pyarrow.ArrowInvalid for a value of the wrong type and ValueError for a name outside the schema.
    """
    unknown = {name for row in rows for name in row} - set(SCHEMA.names)
    if unknown:
        raise ValueError(f"the report has no field {', '.join(sorted(unknown))}")
    schema = SCHEMA.with_metadata(
        {**SCHEMA.metadata, **{key.encode(): value.encode() for key, value in metadata.items()}}
    )
    return pa.Table.from_pylist(list(rows), schema)
