"""The report has the promised fields, described, and nothing else gets in."""

import datetime

import pyarrow as pa
import pytest

from codec.containers.reasons import Reason
from tasks.archive import schema

PROMISED = """key, version, source_uri, source_sha256, source_bytes, source_format, width, height, status, codec,
    reason, error, duplicate_of, bytes, bpp, psnr_db, ms_ssim, lpips, lpips_net, dists, quality_lambda, timestep, steps,
    latent_bits, side_bits, run, shard, tar, offset, length, sha256, verified, encode_seconds, decode_seconds, device,
    bundle_id, created_at, content_sha256, media_type, carried, discarded_parts, coded_space, group,
    source_modified_at, film_offset, film_length, film_sha256, needs_attention,
    verified_by, lpips_vgg, not_measured"""

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
