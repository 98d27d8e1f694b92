"""python -m tests.benchmarks.stores [SERVER...] [--many N] [-o RESULT.md]: archives on real S3 servers of other makers.

Of moto, rclone, s3rver and ceph those run that are installed (`rclone serve s3`, npm's s3rver, Debian's ceph-mon,
ceph-mgr, ceph-osd and radosgw). On each: what it honors, then creation, a second night, restore, audit, compact and
forget, from a bucket into that bucket, with difficult keys, more keys than a page of a listing (but s3rver), and a
file above 100 MB. A server that does not keep two writers apart must be refused first, and then serves a single writer.
Prints a table; ends with status 1 if something was not as it should be.
"""

import argparse
import hashlib
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import fsspec
from s3fs import S3FileSystem

from codec.errors import ArchiveError, FdcError
from tasks.archive import report
from tasks.archive.opening import writable
from tasks.maintenance import compaction, forget
from tasks.maintenance.audit import audit
from tasks.processes.codec_process import Models
from tasks.restore.restore import restore
from tasks.storage import probe
from tasks.storage.keys import key_of, name_of
from tasks.storage.probe import NotExclusiveError
from tasks.storage.store import Store
from tests.support import archive_builder, s3_servers
from tests.support.archive_builder import pack, png, rows
from tests.support.fake_codec import FAKE

LARGE = 101 << 20
MANY = 1_010
FEWER = {"s3rver": 100}
"""Servers that hold fewer objects: s3rver answers HTTP 500 to the second page of a listing."""
DIFFICULT = (
    "a b+c.png",
    "100%.png",
    "percent%2Fescaped.png",
    "#hash?query=1&more=2.png",
    "quote'\".png",
    "(1) [2] {3}.png",
    "ümlaut/日本 🙂.png",
    "e\u0301 or é.png",
    "semi;colon:comma,=.png",
    "~tilde!$*@.png",
    "x.png/in.png",
    "back\\slash.png",
    "deep/" * 30 + "end.png",
    "UPPER.PNG",
    "upper.png",
    ".hidden",
    "no extension",
    " leading and trailing ",
    "back\\slash.png",
)


class Trial:
    """One server with a bucket, and what was found on it by name of the step."""

    def __init__(self, home: Path, many: int) -> None:
        self.found: dict[str, str] = {}
        self.wrong = False
        self._many = many
        self._bundle = archive_builder.bundle(home / "bundle")
        self._models = Models(str(self._bundle), threads=1, codec=FAKE)
        self._photos = Store("s3://tried/photos")
        self._archive = "s3://tried/archive"
        self._kept: dict[str, bytes] = {}

    def step(self, name: str, action: Callable[[], str]) -> None:
        """Note what an action says, or the error that ends it."""
        began = time.perf_counter()
        try:
            said = action()
        except (FdcError, AssertionError, LookupError, OSError) as error:
            self.wrong = True
            # In one cell of a Markdown table.
            said = f"FAILED: {type(error).__name__} {error}".replace("|", "/").replace("\n", " ")
        # Steps of an archive are timed; those named after a header only ask what the server honors.
        if name.islower():
            said = f"{said}, {time.perf_counter() - began:.0f} s"
        self.found[name] = said
        print(f"{name}: {self.found[name]}", file=sys.stderr, flush=True)

    def whole(self) -> None:
        """All steps."""
        fsspec.filesystem("s3").mkdir("tried")
        self.step("If-None-Match on PUT", partial(self.honors, in_parts=False))
        self.step("on CompleteMultipartUpload", partial(self.honors, in_parts=True))
        self.step("source", self.upload)
        for name in ("creation", "second night", "restore", "audit", "compact", "forget"):
            self.step(name, getattr(self, name.replace(" ", "_")))

    def honors(self, *, in_parts: bool) -> str:
        # Several times, since two writers may miss each other by luck.
        for _ in range(5):
            if not probe.one_wins(Store("s3://tried/probed"), in_parts):
                return "not honored"
        return "honored"

    def upload(self) -> str:
        """Sources under all keys that the server itself takes; what it does not take is named."""
        refused = []
        for number, name in enumerate(DIFFICULT):
            content = png(number)
            try:
                self._photos.replace(name, content)
                assert self._photos.read(name) == content
                assert name in {item.name for item in self._photos.list()}
                self._kept[name] = content
            except (FdcError, AssertionError):
                self._photos.remove(name)
                refused.append(name if len(name) < 40 else f"{name[:20]}...")
        for number in range(self._many):
            self._kept[f"many/{number:04d}.txt"] = b"%d" % number
            self._photos.replace(f"many/{number:04d}.txt", b"%d" % number)
        self._kept["film.mov"] = hashlib.sha256(b"film").digest() * (LARGE // 32)
        self._photos.replace("film.mov", self._kept["film.mov"])
        listed = {item.name for item in self._photos.list()}
        assert listed == self._kept.keys(), f"{len(listed)} of {len(self._kept)} listed"
        lost = f"; not taken or not listed: {', '.join(map(repr, refused))}" if refused else ""
        return f"{len(listed)} objects{lost}"

    def creation(self) -> str:
        settings = archive_builder.SMALL
        settings = type(settings)(**{**vars(settings), "max_images_per_shard": 2000})
        said = "exclusive"
        try:
            done = pack(self._photos.url, self._archive, self._bundle, settings)
        except NotExclusiveError as refused:
            assert "If-None-Match" in str(refused)
            said = "refused, then single writer"
            done = pack(self._photos.url, self._archive, self._bundle, settings, single_writer=True)
        answers = (self.found["If-None-Match on PUT"], self.found["on CompleteMultipartUpload"])
        exclusive = answers == ("honored", "honored")
        assert (said == "exclusive") == exclusive, f"{said}, though it should not"
        assert done.totals["images"] == len(self._kept), f"{done.totals}, of {len(self._kept)}"
        assert not done.totals["failed"], f"{done.totals['failed']} failed"
        verified = sorted({str(row["verified_by"]) for row in rows(self._archive)})
        return f"{said}; tar verified by {', '.join(verified)}"

    def second_night(self) -> str:
        self._kept["new.png"] = png(500)
        self._kept["UPPER.PNG"] = png(501)  # which is there with another content
        for name in ("new.png", "UPPER.PNG"):
            self._photos.replace(name, self._kept[name])
        done = pack(self._photos.url, self._archive, self._bundle)
        assert (done.runs, done.totals["images"]) == ([2], 2), done
        assert pack(self._photos.url, self._archive, self._bundle).runs == []
        return "2 new"

    def restore(self) -> str:
        done = restore(self._archive, "s3://tried/out", models=self._models)
        assert not done.errors, done.errors[0]
        stored = {row["key"]: row["source_sha256"] for row in rows(self._archive)}
        assert {name_of(key) for key in stored} == set(self._kept)
        for name, content in self._kept.items():
            assert stored[key_of(name)] == hashlib.sha256(content).hexdigest(), name
        assert Store("s3://tried/out").read("film.mov") == self._kept["film.mov"]
        assert done.images == len(self._kept), f"{done.images} of {len(self._kept)}"
        return f"{done.images} pictures"

    def audit(self) -> str:
        found = audit(self._archive, models=self._models)
        assert not found.problems, found.problems[0]
        assert found.findings
        return f"{found.objects} objects"

    def compact(self) -> str:
        return f"{sum(table.rows for table in compaction.compact(writable(self._archive)).tables)} rows"

    def forget(self) -> str:
        key = report.query(Store(self._archive), "SELECT key FROM rows WHERE key = 'a b+c.png'")[0]
        assert forget.forget(writable(self._archive), [key["key"]], companions="leave") == 1
        try:
            restore(self._archive, "s3://tried/gone", [key["key"]], models=self._models)
            raise AssertionError("a forgotten picture came back")
        except ArchiveError:
            found = audit(self._archive, models=self._models)
        assert not found.problems, found.problems[0]
        return "gone, audit clean"


def tried(name: str, many: int) -> Trial:
    """What was found on a server."""
    _, serve, _ = s3_servers.installed()[name]
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        (home / "server").mkdir()
        with serve(home / "server") as address:
            os.environ |= {"AWS_ENDPOINT_URL": address, **s3_servers.credentials(name)}
            S3FileSystem.clear_instance_cache()
            trial = Trial(home, many)
            trial.whole()
    return trial


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("servers", nargs="*", metavar="SERVER")
    parser.add_argument("--many", type=int, default=MANY, help="small objects in the source")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    logging.getLogger("tasks").setLevel(logging.ERROR)
    installed = s3_servers.installed()
    found: dict[str, dict[str, str]] = {}
    wrong = False
    for name in arguments.servers or installed:
        if name not in installed:
            print(f"{name}: not installed, left out", file=sys.stderr)
            continue
        print(f"{name}:", file=sys.stderr)
        trial = tried(name, min(arguments.many, FEWER.get(name, arguments.many)))
        wrong |= trial.wrong
        found[installed[name][2]()] = trial.found
    steps = list(next(iter(found.values()), ()))
    lines = ["# Archives on S3 servers", "", "`python -m tests.benchmarks.stores`", ""]
    lines += [f"| | {' | '.join(found)} |", "|---" * (len(found) + 1) + "|"]
    lines += [f"| {step} | {' | '.join(results[step] for results in found.values())} |" for step in steps]
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if arguments.output:
        arguments.output.write_text(text)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
