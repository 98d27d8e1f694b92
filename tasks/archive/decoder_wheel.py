"""Builds the distribution fdcodec-decoder: a wheel with the part of this package that reads and writes .fdc files.

    python -m tasks.archive.decoder_wheel FOLDER

The wheel contains the module `tasks.decoder`, everything it imports, and the embedded bundles. Each excluded package is
replaced by a module that raises ModuleNotFoundError and names fdcodec. Both distributions install the same modules, so
an environment can have only one of them.
"""

import argparse
import re
import sys
from pathlib import Path

from codec.errors import ArchiveError
from tasks.archive import wheel

NAME = "fdcodec-decoder"
DEPENDENCIES = ("constriction", "diffusers", "numpy", "pillow", "torch")
LEFT_OUT = r"codec/(training|evaluation|metrics)/.*|codec/(cli|lossless)\.py"
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
    every = {name: content for package in wheel.PACKAGES for name, content in wheel.files(package)}
    codec = {name for name in every if name.startswith("codec/") and not re.fullmatch(LEFT_OUT, name)}
    contents = {name: content for name, content in every.items() if name in codec or name in OF_TASKS}
    # A package takes precedence over a module of the same name, so these do not hide the packages of fdcodec.
    folders = {str(Path(name).parent) for name in every if name.endswith("/__init__.py")}
    present = {str(Path(name).parent) for name in contents}
    absent = {folder for folder in folders - present if str(Path(folder).parent) in {".", *present}}
    contents |= {f"{folder}.py": LACKING.encode() for folder in sorted(absent)}
    installation = wheel.installed()
    stated = [line for line in installation.requires or [] if re.split(r"[^\w-]", line)[0] in DEPENDENCIES]
    about = METADATA.format(
        version=installation.version,
        python=installation.metadata["Requires-Python"],
        dependencies="\n".join(f"Requires-Dist: {line}" for line in stated),
    )
    license = (installation.read_text("licenses/LICENSE") or "").encode()
    return wheel.pack(NAME, installation.version, contents, {"METADATA": about.encode(), "licenses/LICENSE": license})


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
