"""The escrow: everything needed to read the archive's files without other sources, each file listed with its hash.

escrow/<bundle id>/        the bundle, and decoder.html: a page that decodes its files in a browser, without a server
escrow/backbones/<hash>/   the backbone in diffusers layout, if the bundle does not embed it, with its license
escrow/software/<id>/      this package as a wheel, constraints.txt, both formats, licenses, RESTORE.md

Each folder has a SHA256SUMS for `sha256sum --check`, written last; that of a bundle also lists its backbone's files.
"""

import contextlib
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

from codec.browser.embedding import embedded_page
from codec.errors import ArchiveError, BundleError, SettingsError
from tasks.archive import layout, wheel
from tasks.processes.child import Child, ChildDied
from tasks.processes.codec_process import Models, worker
from tasks.processes.requests import SaveBackbone
from tasks.storage import local
from tasks.storage.store import StorageError, Store, sha256_of

SAVE_SECONDS = 3600.0
RESTORE = """# How to restore this archive

Decoding needs Python {python}, the packages in constraints.txt, and the files in `escrow`. Run this in this folder:

    sha256sum --check SHA256SUMS
    python -m venv venv
    venv/bin/pip install --constraint constraints.txt {wheel}
    venv/bin/python -c 'from tasks.restore.restore import restore; print(restore("ARCHIVE", "FOLDER"))'

Single .fdc files need only a browser: open `escrow/BUNDLE/decoder.html` and drop them on it.

If neither works any more, write a decoder: FORMAT.md describes every byte of an .fdc file, and
archive-format.md every object of the archive. The tars are plain tars, and the .jxl files in them are standard JPEG XL.
The rows that map files to pictures are Parquet.
"""


OWN_HASH = "# the lines above have the SHA-256 "
"""Start of the last line of a SHA256SUMS, which `sha256sum --check` skips. It detects damage to the list itself."""
WEIGHTS = (".safetensors", ".json")
"""Extensions of the files that a backbone's hash covers; its other files are texts."""


def keep(archive: Store, models: Models) -> dict[str, Any]:
    """Stores bundle, backbone and software in the archive if missing; returns the codec's description of the bundle.

    Raises BundleError or BackboneError if the models do not load, SettingsError if a backbone has no license text.
    """
    with worker(models) as child, tempfile.TemporaryDirectory() as scratch:
        software = _software()  # in parallel with loading the models
        about = child.greeting()
        folder = layout.escrow(about["bundle_id"])
        if not archive.exists(f"{folder}/{layout.SUMS}"):
            path = Path(about["bundle_path"])
            contents: dict[str, bytes | Path] = dict(_local(path))
            with contextlib.suppress(BundleError):  # only the networks of the embedded kind run in a browser
                contents[layout.DECODER_PAGE] = embedded_page(path, about["bundle_id"])
            if about["backbone"] is not None:
                _save_backbone(child, models.backbone, scratch)
                # The names lead out of the bundle's folder, since bundles share backbones.
                location = posixpath.relpath(layout.backbone(about["backbone"]), folder)
                for name, file in _local(Path(scratch)):
                    contents[f"{location}/{name}"] = file
            _publish(archive, folder, contents)
    software_id = hashlib.sha256(software[layout.SUMS]).hexdigest()
    _publish(archive, layout.software(software_id), software)
    return about


@contextmanager
def bundle(archive: Store, bundle_id: str, *, with_backbone: bool = True) -> Iterator[str]:
    """Yields the local path of the archive's own copy of a bundle, with its backbone where the loader looks for it.

    A remote copy is downloaded and checked; without `with_backbone`, the backbone is not downloaded. Raises
    ArchiveError if the archive has no copy of the bundle, or a damaged one.
    """
    folder = layout.escrow(bundle_id)
    if not archive.exists(f"{folder}/{layout.SUMS}"):
        raise ArchiveError(f"{archive.uri(folder)}: the archive has no copy of this bundle; restore it from a mirror")
    if archive.folder is not None:
        yield str(archive.folder / folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        for name, expected in sums(archive, folder).items():
            # A caller that brings its own copy of the backbone saves a download of gigabytes.
            if not with_backbone and name.startswith(f"{layout.BACKBONES}/"):
                continue
            if name == f"{folder}/{layout.DECODER_PAGE}":
                continue
            path = Path(temporary) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if archive.fetch(name, path) != expected:
                raise ArchiveError(f"{archive.uri(name)}: damaged; restore it from a mirror")
        yield str(Path(temporary) / folder)


def faults(archive: Store) -> Iterator[str]:
    """Yields one line for each escrow file that is missing or does not match its SHA256SUMS."""
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
        raise ArchiveError(f"cannot store the backbone in the archive: {death}") from death
    if "fallback" in answer:
        raise SettingsError(answer["error"])


def _local(folder: Path) -> Iterator[tuple[str, Path]]:
    return ((name, folder / name) for name, _ in sorted(local.walk(folder)))


def _publish(archive: Store, folder: str, contents: Mapping[str, bytes | Path]) -> None:
    """Writes files by name relative to the folder, then their SHA256SUMS; existing files are not replaced.

    Bundles that share a backbone may bring different texts: such texts also get their hash in the name.
    Raises StorageError if the folder has different weights.
    """
    if archive.exists(f"{folder}/{layout.SUMS}"):
        return
    stored: dict[str, bytes | Path] = {}
    for name, content in contents.items():
        if name != layout.SUMS:
            stored[_publish_file(archive, folder, name, content)] = content
    # Last: a folder with SHA256SUMS is complete, and one without, left by a killed command, is written again.
    archive.publish(f"{folder}/{layout.SUMS}", _sums_of(stored))


def _publish_file(archive: Store, folder: str, name: str, content: bytes | Path) -> str:
    """Writes a file; returns its name relative to the folder, which differs from `name` for a second text."""
    if archive.publish(posixpath.normpath(f"{folder}/{name}"), content):
        return name
    stem, extension = posixpath.splitext(name)
    # Weights are named by a hash that covers them: other content means damage, and no second name can mend it.
    if extension not in WEIGHTS:
        name = f"{stem}-{sha256_of(content)[:8]}{extension}"
        if archive.publish(posixpath.normpath(f"{folder}/{name}"), content):
            return name
    location = archive.uri(posixpath.normpath(f"{folder}/{name}"))
    raise StorageError(f"{location}: the stored content differs from the written one; audit the archive")


def _sums_of(contents: Mapping[str, bytes | Path]) -> bytes:
    lines = ""
    for name, content in sorted(contents.items()):
        if name != layout.SUMS:
            lines += f"{sha256_of(content)}  {name}\n"
    return f"{lines}{OWN_HASH}{sha256_of(lines.encode())}\n".encode()


def is_whole(listed: bytes) -> bool:
    """Whether a SHA256SUMS is well-formed and matches its own hash, which format 1 does not state."""
    lines, mark, own = listed.decode(errors="replace").partition(OWN_HASH)
    well_formed = all(re.fullmatch(r"[0-9a-f]{64}  .+", line) for line in lines.splitlines())
    # An empty list would vouch for a folder without any file.
    return well_formed and bool(lines) and (not mark or own == f"{sha256_of(lines.encode())}\n")


def sums(archive: Store, folder: str) -> dict[str, str]:
    """Returns SHA-256 by name relative to the archive. Raises ArchiveError for a damaged list or a path outside it."""
    data = archive.read(f"{folder}/{layout.SUMS}")
    lines = data.decode(errors="replace").partition(OWN_HASH)[0].splitlines()
    listed: dict[str, str] = {}
    for line in lines:
        # A line of sha256sum: 64 hexadecimal digits, two blanks, the name.
        name = posixpath.normpath(f"{folder}/{line[66:]}")
        listed[name] = line[:64]
    # `../` is normal, for backbones; but a list that was tampered with must not lead out of the escrow.
    is_inside = all(name.startswith(f"{layout.ESCROW}/") for name in listed)
    if not is_whole(data) or not is_inside:
        raise ArchiveError(f"{archive.uri(f'{folder}/{layout.SUMS}')}: damaged; restore it from a mirror")
    return listed


@functools.cache
def _software() -> dict[str, bytes]:
    name, content = wheel.build()
    license = wheel.installed().read_text("licenses/LICENSE") or ""
    software = {
        name: content,
        "constraints.txt": _constraints().encode(),
        "LICENSE": license.encode(),
        "RESTORE.md": RESTORE.format(wheel=name, python=platform.python_version()).encode(),
    }
    for text in ("FORMAT.md", "LICENSES.md"):
        software[text] = (wheel.folder("codec") / text).read_bytes()
    software["archive-format.md"] = (wheel.folder("tasks") / "archive" / "archive-format.md").read_bytes()
    software[layout.SUMS] = _sums_of(software)
    return software


def _constraints() -> str:
    """Returns the versions of all installed packages, but this one, as a constraints file of pip."""
    versions: dict[str, str] = {}
    for found in importlib.metadata.distributions():
        metadata = found.metadata  # parsed anew by each access
        # The first of two is the one that Python imports. A local version (2.9.0+cpu) is not on the package index.
        versions.setdefault(metadata["Name"], metadata["Version"].partition("+")[0])
    versions.pop(wheel.DISTRIBUTION, None)
    return "".join(f"{package}=={version}\n" for package, version in sorted(versions.items()))
