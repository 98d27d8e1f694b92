"""What an archive keeps so that its files stay readable without anything else, everything listed by hash.

escrow/<bundle id>/        the bundle
escrow/backbones/<hash>/   the backbone in diffusers layout where the bundle does not embed it, with its license
escrow/software/<id>/      this package as a wheel, the versions it ran with, both formats, licenses, how to restore

Each holds a SHA256SUMS, written last, that `sha256sum --check` reads; a bundle's lists its backbone's files too.
"""

import functools
import hashlib
import importlib.metadata
import platform
import posixpath
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from codec.errors import ArchiveError, SettingsError
from tasks.archive import layout, wheel
from tasks.processes.child import Child, ChildDied
from tasks.processes.codec_process import Models, worker
from tasks.processes.requests import SaveBackbone
from tasks.storage import local
from tasks.storage.store import StorageError, Store, sha256_of

SAVE_SECONDS = 3600.0
RESTORE = """# How to restore this archive

Everything that decoding its pictures needs is in `escrow`, beside Python {python} and the packages of constraints.txt:

    sha256sum --check SHA256SUMS
    python -m venv venv
    venv/bin/pip install --constraint constraints.txt {wheel}
    venv/bin/python -c 'from tasks.restore.restore import restore; print(restore("ARCHIVE", "FOLDER"))'

Should those packages be gone, FORMAT.md describes every byte of an .fdc file and archive-format.md every object here.
The tars are plain tars, the .jxl files in them standard JPEG XL, and the rows that say which file is which picture are
Parquet.
"""


OWN_HASH = "# the lines above have the SHA-256 "
"""Begins the last line of a SHA256SUMS, which `sha256sum --check` skips: a damaged list must not blame a file."""
WEIGHTS = (".safetensors", ".json")
"""Extensions of what the hash of a backbone stands for; its other files are texts."""


def keep(archive: Store, models: Models) -> dict[str, Any]:
    """Put bundle, backbone and software into the archive unless it has them; returns what the bundle's codec says.

    Raises BundleError, BackboneError for models that do not load, SettingsError for a backbone without a license text.
    """
    with worker(models) as child, tempfile.TemporaryDirectory() as scratch:
        software = _software()  # while the models are loaded
        about = child.greeting()
        folder = layout.escrow(about["bundle_id"])
        if not archive.exists(f"{folder}/{layout.SUMS}"):
            contents: dict[str, bytes | Path] = dict(_local(Path(about["bundle_path"])))
            if about["backbone"] is not None:
                _save_backbone(child, models.backbone, scratch)
                location = posixpath.relpath(layout.backbone(about["backbone"]), folder)
                contents |= {f"{location}/{name}": path for name, path in _local(Path(scratch))}
            _publish(archive, folder, contents)
    _publish(archive, layout.software(hashlib.sha256(software[layout.SUMS]).hexdigest()), software)
    return about


@contextmanager
def bundle(archive: Store, bundle_id: str, *, with_backbone: bool = True) -> Iterator[str]:
    """The local path of the archive's own copy of a bundle, its backbone where loading finds it.

    A remote copy is fetched and checked; `with_backbone` spares a backbone that is found elsewhere. Raises ArchiveError
    where the archive has no copy, or a damaged one.
    """
    folder = layout.escrow(bundle_id)
    if not archive.exists(f"{folder}/{layout.SUMS}"):
        raise ArchiveError(f"{archive.uri(folder)}: the archive holds no copy of this bundle")
    if archive.folder is not None:
        yield str(archive.folder / folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        for name, expected in sums(archive, folder).items():
            if with_backbone or not name.startswith(f"{layout.BACKBONES}/"):
                path = Path(temporary) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                if archive.fetch(name, path) != expected:
                    raise ArchiveError(f"{archive.uri(name)}: damaged; restore it from a mirror")
        yield str(Path(temporary) / folder)


def faults(archive: Store) -> Iterator[str]:
    """One line for each file of the escrow that is missing or not what its SHA256SUMS says."""
    for item in archive.list(layout.ESCROW):
        folder, _, name = item.name.rpartition("/")
        if name == layout.SUMS:
            for path, expected in sums(archive, folder).items():
                if not archive.exists(path):
                    yield f"{archive.uri(path)}: missing; restore it from a mirror"
                elif archive.sha256(path) != expected:
                    yield f"{archive.uri(path)}: damaged; restore it from a mirror"


def _save_backbone(child: Child, source: str, folder: str) -> None:
    try:
        answer, _ = child.ask(SaveBackbone(source, folder), seconds=SAVE_SECONDS)
    except ChildDied as death:
        raise ArchiveError(f"the backbone cannot be put into the archive: {death}") from death
    if "fallback" in answer:
        raise SettingsError(answer["error"])


def _local(folder: Path) -> Iterator[tuple[str, Path]]:
    return ((name, folder / name) for name, _ in sorted(local.walk(folder)))


def _publish(archive: Store, folder: str, contents: Mapping[str, bytes | Path]) -> None:
    """Files by name relative to the folder, then their list; a file that is there already stays as it is.

    A backbone that several bundles share may come with other texts each time: those are named by their content too.
    Raises StorageError for weights that stand there otherwise.
    """
    if archive.exists(f"{folder}/{layout.SUMS}"):
        return
    stand: dict[str, bytes | Path] = {}
    for name, content in contents.items():
        if name != layout.SUMS:
            if not archive.publish(posixpath.normpath(f"{folder}/{name}"), content):
                stem, extension = posixpath.splitext(name)
                if extension in WEIGHTS or not archive.publish(
                    posixpath.normpath(f"{folder}/{(name := f'{stem}-{sha256_of(content)[:8]}{extension}')}"), content
                ):
                    location = archive.uri(posixpath.normpath(f"{folder}/{name}"))
                    raise StorageError(f"{location}: what is stored here is not what was written; audit the archive")
            stand[name] = content
    archive.publish(f"{folder}/{layout.SUMS}", _sums_of(stand))


def _sums_of(contents: Mapping[str, bytes | Path]) -> bytes:
    listed = {name: content for name, content in contents.items() if name != layout.SUMS}
    lines = "".join(f"{sha256_of(content)}  {name}\n" for name, content in sorted(listed.items()))
    return f"{lines}{OWN_HASH}{sha256_of(lines.encode())}\n".encode()


def is_whole(listed: bytes) -> bool:
    """Whether a SHA256SUMS is one, and has the hash that it says itself; those of format 1 say none."""
    lines, mark, own = listed.decode(errors="replace").partition(OWN_HASH)
    well_formed = all(re.fullmatch(r"[0-9a-f]{64}  .+", line) for line in lines.splitlines())
    return well_formed and bool(lines) and (not mark or own == f"{sha256_of(lines.encode())}\n")


def sums(archive: Store, folder: str) -> dict[str, str]:
    """SHA-256 by name, relative to the archive; raises ArchiveError for a list that is none or leads elsewhere."""
    data = archive.read(f"{folder}/{layout.SUMS}")
    lines = data.decode(errors="replace").partition(OWN_HASH)[0].splitlines()
    listed = {posixpath.normpath(f"{folder}/{line[66:]}"): line[:64] for line in lines}
    if not is_whole(data) or not all(name.startswith(f"{layout.ESCROW}/") for name in listed):
        raise ArchiveError(f"{archive.uri(f'{folder}/{layout.SUMS}')}: damaged; restore it from a mirror")
    return listed


@functools.cache
def _software() -> dict[str, bytes]:
    name, content = wheel.build()
    versions: dict[str, str] = {}
    for metadata in (found.metadata for found in importlib.metadata.distributions()):  # read once for name and version
        versions.setdefault(metadata["Name"], metadata["Version"].partition("+")[0])
    versions.pop(wheel.DISTRIBUTION, None)
    software = {
        name: content,
        "constraints.txt": "".join(f"{package}=={version}\n" for package, version in sorted(versions.items())).encode(),
        "LICENSE": (wheel.installed().read_text("licenses/LICENSE") or "").encode(),
        "RESTORE.md": RESTORE.format(wheel=name, python=platform.python_version()).encode(),
    }
    for text in ("FORMAT.md", "LICENSES.md"):
        software[text] = (wheel.folder("codec") / text).read_bytes()
    software["archive-format.md"] = (wheel.folder("tasks") / "archive" / "archive-format.md").read_bytes()
    return software | {layout.SUMS: _sums_of(software)}
