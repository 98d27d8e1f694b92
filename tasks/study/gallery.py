"""Originals and their reconstructions by method, from an evaluation folder or from archives.

An evaluation folder of evaluate-codec has Parquet files below `rows/`, whose column `picture` is the path of a
whole-image reconstruction in the folder; originals are in the folder that was measured. A folder made by hand needs no
rows: it has `originals/` and one folder per method, with files of the same names.
"""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, Self

import duckdb
import pyarrow.parquet

from codec.errors import ArchiveError, SettingsError
from codec.images import FORMATS, Picture, read_image
from tasks.archive import layout, log, report
from tasks.archive.opening import existing
from tasks.archive.schema import Row
from tasks.processes.codec_process import Models
from tasks.restore.before_after import Pictures
from tasks.storage import parquet
from tasks.storage.store import Store

# folders of an evaluation, or of one made by hand
ROWS = "rows"
ORIGINALS = "originals"
FIGURES = ("bpp", "psnr_db", "ms_ssim", "lpips", "lpips_alex", "lpips_vgg", "dists")
"""Columns shown next to a reconstruction."""
SUFFIXES = {f".{name.lower()}" for name in FORMATS} | {".jpg", ".tif"}
_BUNDLE = re.compile(r"-[0-9a-f]{8}(?= |$)")
"""The bundle part of a method's name."""
DECODED = 4
"""Pictures of archives cached in memory, for originals and for reconstructions each."""

Figures = Mapping[str, float]


class Gallery(Protocol):
    """Images and methods by name. A missing picture raises an FdcError."""

    images: list[str]
    methods: list[str]

    def figures(self, image: str, method: str) -> Figures | None:
        """Returns the figures of a reconstruction; None if it does not exist."""

    def original(self, image: str) -> Picture: ...

    def reconstruction(self, image: str, method: str) -> Picture: ...


class StudyFolder:
    """An evaluation folder, or one made by hand; `originals` defaults to its folder of originals.

    Raises SettingsError for a folder that is neither.
    """

    def __init__(self, folder: Path, originals: Path | None = None) -> None:
        self._folder = folder.resolve()
        source = (originals or folder / ORIGINALS).resolve()
        for needed in (folder, source):
            if not needed.is_dir():
                raise SettingsError(
                    f"{needed}: folder does not exist; name the originals of an evaluation with --originals"
                )
        # rows name an image with its extension; reconstructions made by hand may have another one
        self._originals: dict[str, Path] = {}
        for path in _pictures(source, source):
            for name in _names(path, source):
                self._originals[name] = path
        self._paths: dict[tuple[str, str], Path] = {}
        self._figures: dict[tuple[str, str], Figures] = {}
        if (folder / ROWS).is_dir():
            self._take_rows()
        else:
            self._take_folders()
        images: set[str] = set()
        methods: set[str] = set()
        for image, method in self._paths:
            methods.add(method)
            if image in self._originals:
                images.add(image)
        self.images = sorted(images)
        self.methods = sorted(methods)
        if not self.images:
            raise SettingsError(f"{folder}: holds no reconstructions of pictures in {source}")

    def figures(self, image: str, method: str) -> Figures | None:
        return self._figures.get((image, method))

    def original(self, image: str) -> Picture:
        return read_image(self._originals[image])

    def reconstruction(self, image: str, method: str) -> Picture:
        return read_image(self._paths[image, method])

    def _take_rows(self) -> None:
        rows: list[dict[str, Any]] = []
        for file in sorted((self._folder / ROWS).rglob("*.parquet")):
            for row in pyarrow.parquet.read_table(file).to_pylist():
                if row["picture"]:  # others were measured only
                    rows.append(row)
        points: dict[str, set[str]] = {}
        for row in rows:
            points.setdefault(row["codec"], set()).add(_point(row))
        for row in rows:
            method = row["codec"]
            if len(points[method]) > 1:  # each rate is a method of its own
                method = f"{method} {_point(row)}"
            key = (row["image"], method)
            self._paths[key] = _inside(self._folder, self._folder / row["picture"])
            self._figures[key] = _figures(row)

    def _take_folders(self) -> None:
        folders = [path for path in self._folder.iterdir() if path.is_dir() and path.name != ORIGINALS]
        for folder in sorted(folders):
            for path in _pictures(self._folder, folder):
                _, name = _names(path, folder)
                key = (name, folder.name)
                self._paths[key] = path
                self._figures[key] = {}


class Archives:
    """Archives of the same sources, one method each; a context manager that owns their decoders."""

    def __init__(self, locations: Sequence[str], models: Models) -> None:
        self._locations = locations
        self._models = models
        self._stores: dict[str, Store] = {}
        for location in locations:
            store = existing(location)
            self._stores[_short(store.url, locations)] = store
        self._rows: dict[str, _Latest] = {}
        self._pictures: dict[str, Pictures] = {}
        self.methods = list(self._stores)
        self.images: list[str] = []
        # a page asks for each picture again and again; a cache per instance ends with it
        self.original = functools.lru_cache(DECODED)(self._original)
        self.reconstruction = functools.lru_cache(DECODED)(self._reconstruction)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for method, store in self._stores.items():
                self._rows[method] = stack.enter_context(_latest(store))
                self._pictures[method] = stack.enter_context(Pictures(store, self._models))
            images: set[str] = set()
            for rows in self._rows.values():
                images.update(rows.images())
            self.images = sorted(images)
            if not self.images:
                raise ArchiveError(f"{', '.join(self._locations)}: holds no pictures yet")
            self._stack = stack.pop_all()  # all opened: `__exit__` closes them instead of this block
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def figures(self, image: str, method: str) -> Figures | None:
        row = self._rows[method].get(image)
        if row is None:
            return None
        return _figures(row)

    def _original(self, image: str) -> Picture:
        for method in self.methods:  # all have the same source
            row = self._rows[method].get(image)
            if row is not None:
                return self._pictures[method].original(row)
        raise ArchiveError(f"no archive holds {image}")

    def _reconstruction(self, image: str, method: str) -> Picture:
        row = self._rows[method].get(image)
        assert row is not None, "callers check available() first"
        return self._pictures[method].stored(row)


def opened(locations: Sequence[str], originals: Path | None, models: Models, stack: ExitStack) -> Gallery:
    """Opens the gallery of one evaluation folder, or of one or more archives, which `stack` closes."""
    if len(locations) == 1:
        folder = Path(locations[0])
        if folder.is_dir() and not (folder / layout.ARCHIVE).is_file():
            return StudyFolder(folder, originals)
    return stack.enter_context(Archives(locations, models))


_LATEST = """
    CREATE TABLE latest AS SELECT * FROM rows WHERE status <> 'failed'
    QUALIFY row_number() OVER (PARTITION BY key ORDER BY run DESC) = 1 AND tar IS NOT NULL AND width IS NOT NULL
"""


class _Latest:
    """The latest stored rows of an archive, in a table on disk that threads can query."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def images(self) -> list[str]:
        # a cursor for each query: threads of the server must not share one
        found = self._connection.cursor().execute("SELECT key FROM latest").fetchall()
        return [key for (key,) in found]

    def get(self, key: str) -> Row | None:
        """Returns the row of a key; None if it does not exist."""
        found = self._connection.cursor().sql("SELECT * FROM latest WHERE key = $key", params={"key": key})
        rows: list[Row] = found.to_arrow_table().to_pylist()
        return rows[0] if rows else None


@contextmanager
def _latest(archive: Store) -> Iterator[_Latest]:
    with parquet.database(rows=report.stream(archive, log.read(archive))) as connection:
        connection.execute(_LATEST)
        yield _Latest(connection)


def _short(url: str, locations: Sequence[str]) -> str:
    """The last part of an archive's URL; the whole URL if two archives share that."""
    name = url.rstrip("/").rpartition("/")[2]
    ends = [location.rstrip("/").rpartition("/")[2] for location in locations]
    if ends.count(name) > 1:
        return url
    return name


def _figures(row: Mapping[str, Any]) -> Figures:
    """Selects the figures that were measured."""
    return {name: row[name] for name in FIGURES if row.get(name) is not None}


def _pictures(root: Path, folder: Path) -> list[Path]:
    """Lists the picture files below a folder of the root. Refuses links that lead out of the root."""
    found = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
    return [_inside(root, path) for path in sorted(found)]


def _names(path: Path, folder: Path) -> tuple[str, str]:
    """Returns the names of a picture: its path below a folder, with and without extension."""
    below = path.relative_to(folder)
    return below.as_posix(), below.with_suffix("").as_posix()


def _point(row: Mapping[str, Any]) -> str:
    """Formats the requested rate, or else the codec's own setting."""
    if row["asked_bpp"] is not None:
        return f"at {row['asked_bpp']:g}"
    return f"{row['setting']:g}"


def _inside(root: Path, path: Path) -> Path:
    """Resolves a path. Raises SettingsError if it leads out of the root."""
    if not path.resolve().is_relative_to(root):
        raise SettingsError(f"{path}: leads out of {root}; pictures outside it are not served")
    return path


def available(gallery: Gallery, image: str, method: str) -> bool:
    """Whether a gallery lists this reconstruction."""
    return gallery.figures(image, method) is not None


def check(gallery: Gallery, kind: str, chosen: Sequence[str]) -> list[str]:
    """Selects images or methods by name, all if no names are given. Raises SettingsError for an unknown name.

    `fdcodec 8` also names a method if only one bundle was measured.
    """
    there = gallery.images if kind == "images" else gallery.methods
    by_name: dict[str, str] = {}
    if kind == "methods":
        short_names = [_BUNDLE.sub("", method) for method in there]
        for short_name, method in zip(short_names, there, strict=True):
            if short_names.count(short_name) == 1:
                by_name[short_name] = method
    for name in there:  # after the short names, since a full name always means itself
        by_name[name] = name
    missing = [name for name in chosen if name not in by_name]
    if missing:
        raise SettingsError(f"no {kind} {', '.join(missing)} here; there are {', '.join(there[:20])}")
    if not chosen:
        return list(there)
    return list(dict.fromkeys(by_name[name] for name in chosen))
