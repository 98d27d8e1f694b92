"""The one place that names files: keys of pictures, members of tars, and every path inside an archive or a dataset."""

ARCHIVE = "archive.json"
RUNS = "runs"
TABLES = "tables"
AUDITS = "audits"
PLACES = "places"
CLAIM = f"{PLACES}/claim"
"""The token of the writer that began last, in a store that cannot keep two writers apart."""
FORGET = "forget"
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


def manifest(number: int) -> str:
    """The plan of a run; its creation opens the run."""
    return f"{run(number)}/manifest.json"


def shards(number: int) -> str:
    """The folder of a run's tars."""
    return f"{run(number)}/shards"


def tar(number: int, shard: int, sha256: str) -> str:
    """A tar of a run, named by its shard and its content hash."""
    return f"{shards(number)}/{shard:06d}-{sha256[:16]}.tar"


def parts(number: int) -> str:
    """The folder of a run's report parts."""
    return f"{run(number)}/report"


def part(number: int, shard: int) -> str:
    """The report rows of a shard; the presence of this file commits the shard."""
    return f"{parts(number)}/part-{shard:06d}.parquet"


def seal(number: int) -> str:
    """The file whose presence says that a run is complete and never changes again."""
    return f"{run(number)}/complete.json"


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


CURRENT = "tables/CURRENT.json"
"""Says which generation of the compacted report holds now."""


def generation(number: int) -> str:
    """The folder of one compaction of the report of all sealed runs, numbered from 1."""
    return f"tables/{number:06d}"


def claim(number: int) -> str:
    """The file that the compaction which owns a generation creates first."""
    return f"{generation(number)}/claim.json"


def table(number: int, index: int, sha256: str) -> str:
    """A file of a compacted report, named by its place in the order of keys and its content hash."""
    return f"{generation(number)}/rows-{index:06d}-{sha256[:16]}.parquet"


def audit(stamp: str) -> str:
    """The findings of an audit that began at this time."""
    return f"{AUDITS}/{stamp}.parquet"


def place(sha256: str) -> str:
    """What was found about the store in a place where the archive was written, named by the place's hash."""
    return f"{PLACES}/{sha256[:16]}.json"


def forgetting(number: int) -> str:
    """The keys that are to be forgotten together, numbered from 1."""
    return f"{FORGET}/{number:06d}.json"


def forget_plan(number: int) -> str:
    """What is to be rewritten to forget them."""
    return f"{FORGET}/{number:06d}-plan.json"


def forgotten(number: int) -> str:
    """The file whose presence says that this plan is carried out."""
    return f"{FORGET}/{number:06d}-done.json"


def dataset_tar(shard: int, sha256: str) -> str:
    """A tar of a training dataset, named by its number and its content hash."""
    return f"shards/{shard:06d}-{sha256[:16]}.tar"


DATASET_PLAN = "plan.json"
DATASET_MANIFEST = "manifest.parquet"
