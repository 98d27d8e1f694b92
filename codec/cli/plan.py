"""Which files a command reads, and the name that each output gets: decided before anything is written."""

import glob
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from codec.cli.files import PIPE
from codec.errors import SettingsError

NAMED = 3
"""Most pairs of inputs that an error about equal outputs names."""


@dataclass(frozen=True)
class Planned:
    """A file to convert. Either may be PIPE."""

    source: str
    output: str


@dataclass(frozen=True)
class Plan:
    """What a command will do. `is_many` tells a table of several files from the line of a single one."""

    files: tuple[Planned, ...]
    ignored: int = 0
    """Files in folders that are left alone, since their suffix is none that is looked for."""
    is_many: bool = True


def plan(
    sources: Sequence[str],
    suffixes: Collection[str],
    renamed: Callable[[str], str],
    *,
    output: str | None,
    folder: Path | None,
    hint: str,
) -> Plan:
    """Plans the conversion of files, folders and patterns; `renamed` gives an output's name for that of its source.

    A file's output is beside it, or in `folder` under its name; a file of a folder or a pattern keeps its path below
    that folder, or below the part of the pattern without wildcards. Only files of `suffixes` are taken from folders.
    Raises SettingsError if two sources have one output, for which `hint` is an advice, an output is a source, or there
    is nothing to do.
    """
    if output is not None and folder is not None:
        raise SettingsError("choose one of --output and --output-folder")
    if folder is not None and folder.exists() and not folder.is_dir():
        raise SettingsError(f"{folder} is no folder")
    if PIPE in sources:
        if len(sources) > 1 or folder is not None:
            raise SettingsError(f"{PIPE} stands for one picture: give it alone, and its output with --output")
        return Plan((Planned(PIPE, output or PIPE),), is_many=False)
    single = len(sources) == 1 and not Path(sources[0]).is_dir() and not _is_pattern(sources[0])
    if output is not None:
        if not single:
            raise SettingsError("--output names the output of one picture; give --output-folder for several")
        return Plan((Planned(sources[0], output),), is_many=False)
    planned: dict[str, Planned] = {}
    ignored = 0
    for source in sources:
        for path, below in _found(source):
            # A file that is named itself is tried whatever its suffix.
            if below is not None and path.suffix.lower() not in suffixes:
                ignored += 1
                continue
            name = renamed(path.name)
            if folder is None:
                target = path.with_name(name)
            else:
                target = folder / (below or Path(path.name)).with_name(name)
            planned.setdefault(str(path.absolute()), Planned(str(path), str(target)))
    _refuse_collisions(planned, hint)
    if not planned:
        others = f"; {ignored} files of other kinds are left alone" if ignored else ""
        raise SettingsError(f"there is nothing to convert in {', '.join(sources)}{others}")
    return Plan(tuple(planned.values()), ignored, is_many=not single)


def _is_pattern(source: str) -> bool:
    return glob.has_magic(source) and not Path(source).exists()


def _found(source: str) -> Iterator[tuple[Path, Path | None]]:
    """The files of a source, each with its path below the source's folder; None for a file that is named itself."""
    if _is_pattern(source):
        root, pattern = _split(source)
        matches = [match for match in sorted(root.glob(pattern)) if not _is_hidden(match.relative_to(root))]
        if not matches:
            raise SettingsError(f"no file matches {source}")
        for match in matches:
            for path in _files(match) if match.is_dir() else [match]:
                yield path, path.relative_to(root)
        return
    path = Path(source)
    if not path.is_dir():
        yield path, None
        return
    for file in _files(path):
        yield file, file.relative_to(path)


def _split(pattern: str) -> tuple[Path, str]:
    """The folder before the first wildcard of a pattern, and the rest."""
    parts = Path(pattern).parts
    magic = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:magic]), str(Path(*parts[magic:]))


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _files(folder: Path) -> Iterator[Path]:
    """The files of a folder and those below it, in order, without hidden ones. Links to folders are not followed."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(place) / name


def _refuse_collisions(planned: dict[str, Planned], hint: str) -> None:
    owner: dict[str, str] = {}
    double: list[str] = []
    for own in planned.values():
        target = os.path.realpath(own.output)
        if target in owner:
            double.append(f"{owner[target]} and {own.source} would both become {own.output}")
        owner[target] = own.source
    if double:
        more = f", and {len(double) - NAMED} more" if len(double) > NAMED else ""
        raise SettingsError(f"{'; '.join(double[:NAMED])}{more}; {hint}")
    sources = {os.path.realpath(own.source) for own in planned.values()}
    for target, source in owner.items():
        if target in sources:
            raise SettingsError(f"the output of {source} would be {target}, which is an input itself")
