"""python -m tests.benchmarks.large_sources [--local-gib 9] [--s3-bytes 1200000000] [-o RESULT.md]: files above 1 GB.

A sparse local file beyond 8 GiB, where a tar needs PAX headers, and one in a bucket of a real S3 server process go
through compression into an archive, an audit and a restore, with a picture beside each. Prints sizes, seconds, the most
memory that this process came to hold, and whether every byte came back; ends with status 1 where one did not.
"""

import argparse
import hashlib
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import fsspec

from tasks.maintenance.audit import audit
from tasks.processes.codec_process import Models
from tasks.restore.restore import restore
from tasks.storage.store import Store
from tests.support import archive_builder
from tests.support.archive_builder import pack, png, rows
from tests.support.fake_codec import FAKE
from tests.support.fake_s3 import in_environment

PIECE = 1 << 24
MARK = b"not zero"


def sparse(path: Path, size: int) -> None:
    """A file of zeros with a mark at its start, middle and end."""
    with path.open("wb") as file:
        file.truncate(size)  # which takes no space on a file system with holes
        for place in (0, size // 2, size - len(MARK)):
            file.seek(place)
            file.write(MARK)


def digest(store: Store, name: str) -> str:
    found = hashlib.sha256()
    with store.open(name) as file:
        while piece := file.read(PIECE):
            found.update(piece)
    return found.hexdigest()


def round_trip(source: str, archive: str, target: str, bundle: Path, name: str) -> dict[str, float | int | bool]:
    """Compress, audit and restore; what that took."""
    models = Models(str(bundle), threads=1, codec=FAKE)
    began = time.perf_counter()
    pack(source, archive, bundle)
    compressed = time.perf_counter()
    problems = audit(archive, models=models).problems
    audited = time.perf_counter()
    errors = restore(archive, target, models=models).errors
    restored = time.perf_counter()
    [row] = [row for row in rows(archive) if row["key"] == name]
    same = digest(Store(source), name) == digest(Store(target), name) == row["source_sha256"]
    return {
        "bytes": row["length"],
        "offset": row["offset"],
        "compress s": round(compressed - began, 1),
        "audit s": round(audited - compressed, 1),
        "restore s": round(restored - audited, 1),
        "peak memory MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000,
        "whole": same and not problems and not errors and row["reason"] == "too_large",
    }


def local(size: int, home: Path) -> dict[str, float | int | bool]:
    """A sparse file of a folder."""
    (home / "s").mkdir()
    (home / "s" / "a.png").write_bytes(png(1))
    sparse(home / "s" / "film.mov", size)
    bundle = archive_builder.bundle(home / "bundle")
    return round_trip(str(home / "s"), str(home / "a"), str(home / "out"), bundle, "film.mov")


def remote(size: int, home: Path) -> dict[str, float | int | bool]:
    """A file in a bucket, into an archive in that bucket."""
    sparse(home / "film.mov", size)
    bundle = archive_builder.bundle(home / "bundle")
    with in_environment():
        files = fsspec.filesystem("s3", skip_instance_cache=True)
        files.mkdir("large")
        files.put_file(str(home / "film.mov"), "large/s/film.mov")
        files.pipe_file("large/s/a.png", png(1))
        return round_trip("s3://large/s", "s3://large/a", str(home / "out"), bundle, "film.mov")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--local-gib", type=float, default=9)
    parser.add_argument("--s3-bytes", type=int, default=1_200_000_000)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    found = {}
    for where, size, run in (
        ("local", int(arguments.local_gib * 2**30), local),
        ("S3", arguments.s3_bytes, remote),
    ):
        with tempfile.TemporaryDirectory() as home:
            found[where] = run(size, Path(home))
    names = list(next(iter(found.values())))
    lines = ["# Sources above 1 GB", "", "`python -m tests.benchmarks.large_sources`", ""]
    lines += [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {where} | {' | '.join(str(row[name]) for name in names)} |" for where, row in found.items()]
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if arguments.output:
        arguments.output.write_text(text)
    sys.exit(0 if all(row["whole"] for row in found.values()) else 1)


if __name__ == "__main__":
    main()
