"""Recovery drill: restores pictures from a mirror with the mirror's own software only.

The mirror's index is not read. The drill finds tars by listing, files by the headers in the tars, and bundles by trying
each. The results are compared with the rows of the archive itself.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from codec.errors import ArchiveError
from tasks.archive import escrow, layout, report
from tasks.archive.opening import existing
from tasks.archive.schema import Row, present
from tasks.processes.child import GIVEN
from tasks.progress import SILENT, Progress
from tasks.storage.store import Store, sha256_of

SECONDS = 3600.0
"""How long the mirror's software may take."""
TAR = re.compile(rf"{layout.RUNS}/\d+/shards/\d+-[0-9a-f]+\.tar")
DECODE = """
import hashlib, json, pathlib, sys
import numpy as np
import codec
from codec import Codec, FdcError
home, *bundles = map(pathlib.Path, sys.argv[1:])
found = {"codec": codec.__file__, "files": {}, "errors": {}}
left = sorted(home.glob("*.fdc"))
for bundle in bundles:
    if not left:
        break
    try:
        decoder = Codec.load(str(bundle))
    except FdcError as error:
        found["errors"] = {path.name: str(error) for path in left}
        continue
    for path in list(left):
        try:
            symbols = np.ascontiguousarray(decoder.symbols(path.read_bytes()), "<i4")
            height, width = decoder.decode(path.read_bytes()).shape[:2]
        except FdcError as error:
            found["errors"][path.name] = str(error)
            continue
        content = hashlib.sha256(symbols.tobytes()).hexdigest()
        found["files"][path.name] = {"content": content, "width": width, "height": height}
        left.remove(path)
print(json.dumps(found))
"""
"""Script that the mirror's software runs. It uses only the stable public names of codec."""


@dataclass(frozen=True)
class Drilled:
    """The wheel used, the number of restored pictures, and the failures with key, reason, error and tar."""

    software: str
    pictures: int
    problems: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class _File:
    tar: str
    member: str
    offset: int
    path: Path


def drill(archive: str, mirror: str, *, pictures: int = 20, seed: str = "", progress: Progress = SILENT) -> Drilled:
    """Restores some pictures of a mirror, selected by `seed`, and compares them with the archive's rows.

    Stored bytes must match the hash in their row; .fdc files must decode to its symbols and size. Raises ArchiveError
    if there is no archive, or if the mirror has no tars or damaged software.
    """
    own = existing(archive)
    copy = Store(mirror)
    progress.begin(pictures)
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        (home / "files").mkdir()
        files = _chosen(copy, pictures, seed, home / "files")
        wheel = _software(copy, home)
        decoded: dict[str, Any] = {"files": {}, "errors": {}}
        if any((home / "files").glob("*.fdc")):
            decoded = _decoded(copy, home)
        # only now: nothing above may depend on the archive that the mirror replaces
        rows = _rows(own, files)
        problems = []
        for file in files:
            row = rows.get((file.tar, file.offset))
            wrong = _wrong(file, row, decoded)
            if wrong is not None:
                reason, error = wrong
                key = row["key"] if row else file.member
                problems.append({"key": key, "reason": reason, "error": error, "tar": copy.uri(file.tar)})
            progress.advance(1)
    return Drilled(wheel, len(files), problems)


def _order(seed: str, name: str) -> bytes:
    return hashlib.sha256(f"{seed}/{name}".encode()).digest()


def _chosen(mirror: Store, count: int, seed: str, folder: Path) -> list[_File]:
    """Copies files into a folder: equally many from each of the tars that sort first by seeded hash."""
    tars = [item.name for item in mirror.list(layout.RUNS) if TAR.fullmatch(item.name)]
    tars = sorted(tars, key=lambda name: _order(seed, name))[:count]
    if not tars:
        raise ArchiveError(f"{mirror}: holds no tars; a mirror is a plain copy of the archive")
    each = -(-count // len(tars))  # rounded up; the surplus is cut at the end
    files: list[_File] = []
    for tar in tars:
        with mirror.open(tar) as stream, tarfile.open(fileobj=stream, mode="r:") as opened:
            members = [member for member in opened.getmembers() if member.isfile()]
            members.sort(key=lambda member: _order(seed, f"{tar}/{member.name}"))
            for member in members[:each]:
                # numbered, since names inside different tars may be equal
                path = folder / f"{len(files):06d}{Path(member.name).suffix}"
                content = opened.extractfile(member)
                assert content is not None
                path.write_bytes(content.read())
                files.append(_File(tar, member.name, member.offset_data, path))
    return files[:count]


def _software(mirror: Store, home: Path) -> str:
    """Unpacks the newest wheel of the mirror's escrow after checking all files next to it; returns its name."""
    wheels = {}  # the folder of each
    for item in list(mirror.list(layout.SOFTWARE)):
        if not item.name.endswith(layout.SUMS):
            continue
        folder = item.name.rpartition("/")[0]
        for listed in escrow.sums(mirror, folder):
            if listed.endswith(".whl"):
                wheels[listed] = folder
    if not wheels:
        raise ArchiveError(f"{mirror}: has no software to restore with; copy escrow/software from the archive")

    def version(name: str) -> tuple[list[int], str]:
        # numbers compare as numbers, so that 0.10 is newer than 0.9
        numbers = re.findall(r"\d+", Path(name).name)
        return [int(number) for number in numbers], name

    newest = max(wheels, key=version)
    _copy(mirror, wheels[newest], home)
    with zipfile.ZipFile(home / newest) as wheel:
        wheel.extractall(home / "software")
    return newest


def _copy(mirror: Store, folder: str, home: Path) -> None:
    """Copies and checks the files that a SHA256SUMS names."""
    for name, expected in escrow.sums(mirror, folder).items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if mirror.fetch(name, path) != expected:
            raise ArchiveError(f"{mirror.uri(name)}: damaged; copy it from the archive")


def _decoded(mirror: Store, home: Path) -> dict[str, Any]:
    """Decodes the .fdc files with the mirror's software; returns its results."""
    bundles = []
    for name in sorted(mirror.children(layout.ESCROW)):
        folder = f"{layout.ESCROW}/{name}"
        if re.fullmatch(r"[0-9a-f]{64}", name) and mirror.exists(f"{folder}/{layout.SUMS}"):
            _copy(mirror, folder, home)
            bundles.append(str(home / folder))
    environment = {name: value for name, value in os.environ.items() if GIVEN.fullmatch(name)}
    environment |= {"PYTHONPATH": str(home / "software"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", DECODE, str(home / "files"), *bundles]
    run = subprocess.run(
        command, cwd=home, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    if run.returncode:
        messages = run.stderr.strip().splitlines()
        last = messages[-1] if messages else "no message"  # a traceback ends with its error
        raise ArchiveError(f"{mirror}: its software ended with status {run.returncode}: {last}")
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    # a drill with the installed package would prove nothing about the mirror
    if not Path(found["codec"]).is_relative_to(home / "software"):
        raise ArchiveError(f"{mirror}: the files were decoded not by its software, but by {found['codec']}")
    return found


def _rows(archive: Store, files: list[_File]) -> dict[tuple[str, int], Row]:
    names = sorted({file.tar for file in files})
    tars = ", ".join(f"'{name}'" for name in names)  # they match TAR, so they contain no quotes
    sql = f"""
        SELECT key, tar, "offset", sha256, content_sha256, codec, width, height FROM rows
        WHERE tar IN ({tars}) AND status <> 'unchanged'
    """
    rows = {}
    for row in report.query(archive, sql):
        rows[row["tar"], row["offset"]] = cast(Row, row)
    return rows


def _wrong(file: _File, row: Row | None, decoded: dict[str, Any]) -> tuple[str, str] | None:
    """Returns reason and error of a file that does not match its row."""
    if row is None:
        return "foreign", f"no row of the archive names this file, at byte {file.offset}"
    if sha256_of(file.path) != row["sha256"]:
        return "damaged", f"its bytes do not match its row, at byte {file.offset}"
    if row["codec"] != "fdc":
        return None
    answer = decoded["files"].get(file.path.name)
    if answer is None:
        return "undecodable", decoded["errors"].get(file.path.name, "no bundle decodes it")
    # `decode` does not apply the orientation, and the row has the size of the upright picture
    decoded_sides = sorted((answer["width"], answer["height"]))
    expected_sides = sorted((present(row["width"]), present(row["height"])))
    if answer["content"] != row["content_sha256"] or decoded_sides != expected_sides:
        return "other_symbols", f"does not decode to the encoded content, at byte {file.offset}"
    return None
