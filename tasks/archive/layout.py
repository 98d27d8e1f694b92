"""The one place that names files: keys of pictures, members of tars, and every path inside an archive or a dataset."""

ARCHIVE = "archive.json"
RUNS = "runs"
TABLES = "tables"
LOG = "log"
AUDITS = "audits"
PLACES = "places"
CLAIM = f"{PLACES}/claim"
"""The token of the writer that began last, in a store that cannot keep two writers apart."""
REPORTS = "reports"
QUALITY_REPORT = f"{REPORTS}/quality-report.html"
"""Pages about an archive, made of its report and replaced each time."""


def run(number: int) -> str:
    """The folder of a run, numbered from 1."""
    return f"{RUNS}/{number:06d}"


def run_of(name: str) -> int:
    """The run whose folder a name lies in."""
    return int(name.split("/")[1])


def listing(number: int, sha256: str) -> str:
    """The frozen list of sources of a run, named by its content hash."""
    return f"{run(number)}/listing-{sha256}.parquet"


def is_listing(name: str) -> bool:
    """Whether this names the listing of a run."""
    return name.rpartition("/")[2].startswith("listing-")


def manifest(number: int, sha256: str) -> str:
    """The plan of a run, named by its content hash; the record that names it opens the run."""
    return f"{run(number)}/manifest-{sha256[:16]}.json"


def manifest_of_format_1(number: int) -> str:
    """The plan of a run of format 1; its creation opened the run."""
    return f"{run(number)}/manifest.json"


def shards(number: int) -> str:
    """The folder of a run's tars."""
    return f"{run(number)}/shards"


def tar(number: int, shard: int, sha256: str) -> str:
    """A tar of a run, named by its shard and its content hash."""
    return f"{shards(number)}/{shard:06d}-{sha256[:16]}.tar"


def rewritten_tar(number: int, shard: int, sha256: str, record: int) -> str:
    """What an erasure left of a tar, named by its content hash and the record that began the erasure.

    Without the record it could be named as a tar that a killed runner left, which an audit may be about to remove.
    """
    return f"{shards(number)}/{shard:06d}-{sha256[:16]}-{record}.tar"


def shard_of(name: str) -> int:
    """The shard that a tar, or a part, belongs to."""
    return int(name.rpartition("/")[2].removeprefix("part-")[:6])


def hash_of(tar: str) -> str:
    """The head of the content hash in the name of a tar."""
    return tar.rpartition("/")[2].removesuffix(".tar").split("-")[1]


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
    """The file whose presence says that a run is complete and gets no more shards."""
    return f"{run(number)}/complete.json"


def rewritten_seal(number: int, sha256: str) -> str:
    """The seal of a run after an erasure, named by its content hash."""
    return f"{run(number)}/complete-{sha256[:16]}.json"


RECORDS_PER_FOLDER = 1000
"""As many as one request lists."""


def records(folder: int) -> str:
    """A folder of the log."""
    return f"{LOG}/{folder:06d}"


def record(number: int) -> str:
    """A record of the log, numbered from 1: it states what holds after it."""
    return f"{records(number // RECORDS_PER_FOLDER)}/{number:09d}.json"


ESCROW = "escrow"
BACKBONES = f"{ESCROW}/backbones"
SUMS = "SHA256SUMS"


def escrow(bundle_id: str) -> str:
    """The folder that keeps a copy of the bundle a decoder needs."""
    return f"{ESCROW}/{bundle_id}"


def backbone(content_hash: str) -> str:
    """The folder that keeps a backbone which bundles do not embed."""
    return f"{BACKBONES}/{content_hash}"


SOFTWARE = f"{ESCROW}/software"


def software(sha256: str) -> str:
    """The folder that keeps a version of this package, named by the hash of its list of hashes."""
    return f"{SOFTWARE}/{sha256[:16]}"


def table(number: int, index: int, sha256: str) -> str:
    """A file of a table, named by the record that it was made for, its place in the order of keys and its hash."""
    return f"{TABLES}/{number:09d}/rows-{index:06d}-{sha256[:16]}.parquet"


def audit(stamp: str) -> str:
    """The findings of an audit that began at this time."""
    return f"{AUDITS}/{stamp}.parquet"


def store_record(sha256: str) -> str:
    """What was found about the store in a place where the archive was written, named by the place's hash."""
    return f"{PLACES}/{sha256[:16]}.json"


def dataset_tar(shard: int, sha256: str) -> str:
    """A tar of a training dataset, named by its number and its content hash."""
    return f"shards/{shard:06d}-{sha256[:16]}.tar"


DATASET_PLAN = "plan.json"
DATASET_MANIFEST = "manifest.parquet"
