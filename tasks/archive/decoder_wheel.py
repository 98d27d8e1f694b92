"""Builds the distribution fdcodec-decoder: a wheel with the part of this package that reads and writes .fdc files.

    python -m tasks.archive.decoder_wheel FOLDER

The wheel contains the module `tasks.decoder`, everything it imports, and the embedded bundles. Each excluded package is
replaced by a module that raises ModuleNotFoundError and names fdcodec. Both distributions install the same modules, so
an environment can have only one of them.
"""

import argparse
import importlib.metadata
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from codec.errors import ArchiveError
from tasks.archive import wheel

NAME = "fdcodec-decoder"
DEPENDENCIES = ("constriction", "diffusers", "numpy", "pillow", "torch")
LEFT_OUT = r"codec/(browser|training|evaluation|metrics|cli)/.*|codec/lossless\.py"
"""Excluded files of codec: those that need more packages, and those for training and measuring."""
OF_TASKS = (
    *("tasks/__init__.py", "tasks/decoder.py", "tasks/py.typed"),
    *("tasks/archive/__init__.py", "tasks/archive/archive-format.md", "tasks/archive/layout.py"),
    *("tasks/storage/__init__.py", "tasks/storage/keys.py"),
)
LACKING = """raise ModuleNotFoundError(f"fdcodec-decoder has no {__name__}: install fdcodec instead", name=__name__)
"""
METADATA = """Metadata-Version: 2.4
Name: fdcodec-decoder
Version: {version}
Summary: Reads and writes .fdc pictures, and restores archives of them: fdcodec without its pipeline
License-Expression: Apache-2.0
License-File: LICENSE
Requires-Python: {python}
{dependencies}
Description-Content-Type: text/markdown

    from tasks.decoder import decode, encode, info, restore

The package fdcodec contains this module too. It also compresses archives, and trains and evaluates codecs.
"""


def build() -> tuple[str, bytes]:
    """Builds the wheel; returns its file name and bytes. Raises ArchiveError if fdcodec is not installed."""
    every: dict[str, bytes] = {}
    for package in wheel.PACKAGES:
        every.update(wheel.files(package))
    contents = {name: content for name, content in every.items() if _is_included(name)}
    for folder in _excluded_packages(every, contents):
        contents[f"{folder}.py"] = LACKING.encode()
    installation = wheel.installed()
    license = installation.read_text("licenses/LICENSE") or ""
    metadata = {"METADATA": _metadata(installation).encode(), "licenses/LICENSE": license.encode()}
    return wheel.pack(NAME, installation.version, contents, metadata)


def _is_included(name: str) -> bool:
    if name.startswith("codec/"):
        return not re.fullmatch(LEFT_OUT, name)
    return name in OF_TASKS


def _excluded_packages(every: Iterable[str], included: Iterable[str]) -> list[str]:
    """Returns the folders of excluded packages, sorted, without those below another excluded package."""
    packages = {str(Path(name).parent) for name in every if name.endswith("/__init__.py")}
    present = {str(Path(name).parent) for name in included}
    excluded = []
    # A package takes precedence over a module of the same name, so the modules that are made from these do not hide the
    # packages of fdcodec.
    for folder in sorted(packages - present):
        if str(Path(folder).parent) in {".", *present}:
            excluded.append(folder)
    return excluded


def _metadata(installation: importlib.metadata.Distribution) -> str:
    """Returns METADATA with those requirements of fdcodec that the decoder has too, in the same versions."""
    requirements = []
    for line in installation.requires or []:
        package = re.split(r"[^\w-]", line)[0]  # a requirement goes on with an extra, a version or a marker
        if package in DEPENDENCIES:
            requirements.append(f"Requires-Dist: {line}")
    return METADATA.format(
        version=installation.version,
        python=installation.metadata["Requires-Python"],
        dependencies="\n".join(requirements),
    )


def main() -> int:
    """Parses the command line and builds. Returns 0, or 1 with one line on stderr."""
    parser = argparse.ArgumentParser("python -m tasks.archive.decoder_wheel", description="Build fdcodec-decoder.")
    parser.add_argument("folder", type=Path, help="an existing folder for the wheel")
    folder = parser.parse_args().folder
    try:
        name, content = build()
        (folder / name).write_bytes(content)
    except (ArchiveError, OSError) as error:
        print(f"error: cannot build a wheel in {folder}: {error}", file=sys.stderr)
        return 1
    print(folder / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
