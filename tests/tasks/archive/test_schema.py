"""The report has the promised fields, described, and nothing else gets in."""

import datetime
from typing import Optional, get_type_hints

import pyarrow as pa
import pytest

from codec.containers.reasons import Reason
from tasks.archive import schema
from tasks.archive.listing_schema import LISTING, Entry

PROMISED = """key, version, source_uri, source_sha256, source_bytes, source_format, width, height, status, codec,
    reason, error, duplicate_of, bytes, bpp, psnr_db, ms_ssim, lpips, lpips_net, dists, quality_lambda, timestep, steps,
    latent_bits, side_bits, run, shard, tar, offset, length, sha256, verified, encode_seconds, decode_seconds, device,
    bundle_id, created_at, content_sha256, media_type, carried, discarded_parts, coded_space, group,
    source_modified_at, film_offset, film_length, film_sha256, needs_attention,
    verified_by, lpips_vgg, not_measured, effort, preview_bytes"""

ROW = {
    "key": "a.jpg",
    "version": 1,
    "source_uri": "file:///a.jpg",
    "source_bytes": 3,
    "status": "failed",
    "run": 1,
    "shard": 0,
    "created_at": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
}


def test_the_fields_are_those_promised_in_their_order() -> None:
    assert [name.strip() for name in PROMISED.split(",")] == schema.SCHEMA.names


def python_types(columns: pa.Schema) -> dict[str, object]:
    """The type of each field's values, as pyarrow gives them to Python."""
    kinds: dict[pa.DataType, object] = {
        pa.string(): str,
        pa.int32(): int,
        pa.int64(): int,
        pa.float64(): float,
        pa.bool_(): bool,
        pa.timestamp("us", "UTC"): datetime.datetime,
        pa.list_(pa.string()): list[str],
    }
    return {
        field.name: Optional[kinds[field.type]] if field.nullable else kinds[field.type]  # type: ignore[valid-type]  # noqa: UP045
        for field in columns
    }


def test_the_rows_that_modules_pass_around_have_the_fields_and_types_of_the_schema() -> None:
    assert list(get_type_hints(schema.Row).items()) == list(python_types(schema.SCHEMA).items())


def test_the_entries_that_modules_pass_around_have_the_fields_and_types_of_a_listing() -> None:
    assert list(get_type_hints(Entry).items()) == list(python_types(LISTING).items())


def test_a_value_that_a_row_must_have_is_not_null() -> None:
    assert schema.present(0) == 0
    with pytest.raises(ValueError, match="has null"):
        schema.present(None)


def test_every_field_is_described_and_sizes_have_units() -> None:
    for field in schema.SCHEMA:
        assert field.metadata[b"description"]
        if field.name.endswith(("bytes", "bits", "seconds", "_db")):
            assert field.metadata[b"unit"] in {b"byte", b"bit", b"s", b"dB"}
    assert schema.SCHEMA.metadata[b"schema_version"] == b"2"


def test_a_row_with_a_field_of_its_own_is_refused() -> None:
    with pytest.raises(ValueError, match="no field mood"):
        schema.table([ROW | {"mood": "good"}], {})


def test_a_row_of_the_wrong_type_is_refused() -> None:
    with pytest.raises((pa.ArrowInvalid, pa.ArrowTypeError)):
        schema.table([ROW | {"width": "wide"}], {})


def test_missing_fields_are_null_and_metadata_is_kept() -> None:
    table = schema.table([ROW], {"tar": "x.tar"})
    assert table.schema.metadata == {b"schema_version": b"2", b"tar": b"x.tar"}
    assert table.column("psnr_db").to_pylist() == [None]


def test_reasons_say_which_status_they_explain() -> None:
    assert {meaning.split(":")[0] for meaning in schema.REASONS.values()} == {"failed", "fallback"}
    assert set(schema.TROUBLE) <= set(schema.REASONS)
    assert {reason for reason, meaning in schema.REASONS.items() if meaning.startswith("fallback")} == set(Reason)
