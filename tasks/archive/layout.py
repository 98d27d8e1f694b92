"""Names of all objects: picture keys, tar members, and every path in an archive or a training dataset."""

import datetime

ARCHIVE = "archive.json"
RUNS = "runs"
TABLES = "tables"
LOG = "log"
AUDITS = "audits"
PLACES = "places"
CLAIM = f"{PLACES}/claim"
"""The token of the latest writer, for stores without exclusive creation."""
REPORTS = "reports"
QUALITY_REPORT = f"{REPORTS}/quality-report.html"
"""Pages made from the report of an archive, replaced each time."""


def run(number: int) -> str:
    """The folder of a run, numbered from 1."""
    return f"{RUNS}/{number:06d}"


def run_of(name: str) -> int:
    """The run whose folder contains a name."""
    return int(name.split("/")[1])


def listing(number: int, sha256: str) -> str:
    """The frozen list of sources of a run, named by its content hash."""
    return f"{run(number)}/listing-{sha256}.parquet"


def is_listing(name: str) -> bool:
    """Whether a name is that of a listing."""
    return name.rpartition("/")[2].startswith("listing-")


def manifest(number: int, sha256: str) -> str:
    """The manifest of a run, named by its content hash; the record that names it opens the run."""
    return f"{run(number)}/manifest-{sha256[:16]}.json"


def manifest_of_format_1(number: int) -> str:
    """The manifest of a run of format 1; its creation opened the run."""
    return f"{run(number)}/manifest.json"


def shards(number: int) -> str:
    """The folder of a run's tars."""
    return f"{run(number)}/shards"


def tar(number: int, shard: int, sha256: str) -> str:
    """A tar of a run, named by its shard and its content hash."""
    return f"{shards(number)}/{shard:06d}-{sha256[:16]}.tar"


def rewritten_tar(number: int, shard: int, sha256: str, record: int) -> str:
    """A tar rewritten by an erasure, named by its content hash and the record that began the erasure.

    Without the record number, it could get the name of a killed runner's tar, which an audit may be about to remove.
    """
    return f"{shards(number)}/{shard:06d}-{sha256[:16]}-{record}.tar"


def shard_of(name: str) -> int:
    """The shard of a tar or a part, also of a rewritten one."""
    file_name = name.rpartition("/")[2]
    return int(file_name.removeprefix("part-")[:6])


def hash_of(tar: str) -> str:
    """The first digits of the content hash, from the name of a tar, also of a rewritten one."""
    file_name = tar.rpartition("/")[2]
    return file_name.removesuffix(".tar").split("-")[1]


def parts(number: int) -> str:
    """The folder of a run's report parts."""
    return f"{run(number)}/report"


def part(number: int, shard: int) -> str:
    """The report rows of a shard; the presence of this file commits the shard."""
    return f"{parts(number)}/part-{shard:06d}.parquet"


def rewritten_part(number: int, shard: int, sha256: str) -> str:
    """The report rows of a shard after an erasure, named by its content hash."""
    return f"{parts(number)}/part-{shard:06d}-{sha256[:16]}.parquet"


def seal(number: int) -> str:
    """The seal of a run: the file whose presence completes the run and ends its commits."""
    return f"{run(number)}/complete.json"


def rewritten_seal(number: int, sha256: str) -> str:
    """The seal of a run after an erasure, named by its content hash."""
    return f"{run(number)}/complete-{sha256[:16]}.json"


RECORDS_PER_FOLDER = 1000
"""The number of names that one request lists."""


def records(folder: int) -> str:
    """A folder of the log."""
    return f"{LOG}/{folder:06d}"


def record(number: int) -> str:
    """A record of the log, numbered from 1."""
    # In folders, so that the last record is found by two listings of one request each, however long the log is.
    return f"{records(number // RECORDS_PER_FOLDER)}/{number:09d}.json"


ESCROW = "escrow"
BACKBONES = f"{ESCROW}/backbones"
SUMS = "SHA256SUMS"
DECODER_PAGE = "decoder.html"


def escrow(bundle_id: str) -> str:
    """The escrow folder of a bundle."""
    return f"{ESCROW}/{bundle_id}"


def backbone(content_hash: str) -> str:
    """The escrow folder of a backbone that bundles do not embed."""
    return f"{BACKBONES}/{content_hash}"


SOFTWARE = f"{ESCROW}/software"


def software(sha256: str) -> str:
    """The escrow folder of a version of this package, named by the hash of its SHA256SUMS."""
    return f"{SOFTWARE}/{sha256[:16]}"


def table(number: int, index: int, sha256: str) -> str:
    """A table file, named by its record, its index in key order and its hash."""
    return f"{TABLES}/{number:09d}/rows-{index:06d}-{sha256[:16]}.parquet"


# With microseconds: two audits must not get one name.
_AUDIT = f"{AUDITS}/%Y%m%dT%H%M%S%fZ.parquet"


def audit(time: datetime.datetime) -> str:
    """The findings of an audit, named by its start time in UTC."""
    return time.strftime(_AUDIT)


def audit_time(name: str) -> datetime.datetime | None:
    """The start time in the name of an audit's findings; None for another object."""
    try:
        return datetime.datetime.strptime(name, _AUDIT).replace(tzinfo=datetime.UTC)
    except ValueError:
        return None


def store_record(sha256: str) -> str:
    """The probe result of a store that the archive was written to, named by the hash of its address."""
    return f"{PLACES}/{sha256[:16]}.json"


def dataset_tar(shard: int, sha256: str) -> str:
    """A tar of a training dataset, named by its number and its content hash."""
    return f"shards/{shard:06d}-{sha256[:16]}.tar"


DATASET_PLAN = "plan.json"
DATASET_MANIFEST = "manifest.parquet"
