"""A study in one folder: frozen crops, participants, their comparisons, and their answers.

    <study>/study.sqlite         all data except the pictures
    <study>/crops/<sha256>.png   the exact pictures shown

The browser only receives the ID of a comparison. The method on each side stays on the server until the export.
"""

import datetime
import hashlib
import itertools
import random
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from codec.containers.writing import encode_png
from codec.errors import FdcError, SettingsError
from tasks.study.gallery import Gallery, available, check

SIDE = 512
"""Pixels of a crop's side: three of them are next to each other on the page."""
DATABASE = "study.sqlite"
CROPS = "crops"
ORIGINAL = ""
"""The method name of originals in the table of images."""

Choice = Literal["left", "right"]

_TABLES = """
    CREATE TABLE images (
        image TEXT, method TEXT, bpp REAL, width INTEGER, height INTEGER, crop_left INTEGER, crop_top INTEGER,
        pixels_sha256 TEXT, crop TEXT NOT NULL, PRIMARY KEY (image, method)
    );
    CREATE TABLE participants (name TEXT PRIMARY KEY);
    CREATE TABLE comparisons (
        id TEXT PRIMARY KEY, participant TEXT NOT NULL REFERENCES participants, position INTEGER NOT NULL,
        image TEXT NOT NULL, "left" TEXT NOT NULL, "right" TEXT NOT NULL, UNIQUE (participant, position),
        FOREIGN KEY (image, "left") REFERENCES images, FOREIGN KEY (image, "right") REFERENCES images
    );
    CREATE TABLE answers (
        comparison TEXT PRIMARY KEY REFERENCES comparisons, choice TEXT NOT NULL CHECK (choice IN ('left', 'right')),
        answered_at TEXT NOT NULL, seconds REAL NOT NULL
    );
    CREATE TABLE settings (per_participant INTEGER);
"""


class UnknownParticipant(FdcError):
    """There is no participant of this name."""


class ForgedComparison(FdcError):
    """This participant has no comparison with this ID."""


class AlreadyAnswered(FdcError):
    """The comparison was already answered."""


@dataclass(frozen=True)
class State:
    """The progress of a participant, and the ID of the next comparison; None at the end."""

    done: int
    total: int
    comparison: str | None


class Study:
    """A study in a folder. Raises SettingsError if the folder has none."""

    def __init__(self, folder: Path, choose: random.Random | None = None) -> None:
        self.folder = folder
        self._choose = choose or random.SystemRandom()
        if not (folder / DATABASE).is_file():
            raise SettingsError(f"{folder}: no study here; to start one, name a new folder and the pictures to compare")

    @classmethod
    def create(
        cls,
        folder: Path,
        gallery: Gallery,
        *,
        methods: Sequence[str] = (),
        images: Sequence[str] = (),
        per_participant: int | None = None,
        choose: random.Random | None = None,
    ) -> "Study":
        """Freezes the center crops of all methods on all images. Can be repeated after an interruption.

        Each participant gets `per_participant` random comparisons; all pairs of methods on all images if None.
        Raises SettingsError for a folder in use, and for methods without all images in the size of the originals.
        """
        methods = check(gallery, "methods", methods)
        images = check(gallery, "images", images)
        if len(methods) < 2:
            raise SettingsError("a study needs at least two methods")
        unfinished = folder / f"{DATABASE}.unfinished"
        (folder / CROPS).mkdir(parents=True, exist_ok=True)
        # these two are what an interrupted call leaves
        foreign = {path.name for path in folder.iterdir()} - {CROPS, unfinished.name}
        if foreign:
            raise SettingsError(f"{folder}: holds {min(foreign)} already; name a new folder")
        unfinished.unlink(missing_ok=True)
        rows: list[list[object]] = []
        for image in images:
            rows += _frozen(folder / CROPS, gallery, image, methods)
        with _connected(unfinished) as database:
            database.executescript(_TABLES)
            database.executemany("INSERT INTO images VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
            database.execute("INSERT INTO settings VALUES (?)", [per_participant])
        # last: a folder with this file is a complete study
        unfinished.rename(folder / DATABASE)
        return cls(folder, choose)

    def invite(self, participants: Sequence[str]) -> None:
        """Adds participants by name or code; existing ones stay."""
        with self.database() as database:
            database.executemany("INSERT OR IGNORE INTO participants VALUES (?)", [[name] for name in participants])

    def participants(self) -> list[str]:
        """Lists the participants."""
        with self.database() as database:
            found = database.execute("SELECT name FROM participants ORDER BY name").fetchall()
        return [name for (name,) in found]

    def state(self, participant: str) -> State:
        """Returns the progress of a participant; the first call draws the comparisons. Raises UnknownParticipant."""
        with self.database() as database:
            # takes the write lock now: two first requests of one participant must not both draw
            database.execute("BEGIN IMMEDIATE")
            if database.execute("SELECT 1 FROM participants WHERE name = ?", [participant]).fetchone() is None:
                raise UnknownParticipant("unknown participant; ask the organizer of the study")
            if database.execute("SELECT 1 FROM comparisons WHERE participant = ?", [participant]).fetchone() is None:
                self._draw(database, participant)
            return _state(database, participant)

    def answer(self, participant: str, comparison: str, choice: Choice, seconds: float) -> State:
        """Stores an answer and returns the new progress. `seconds`: how long the pictures were viewed.

        Raises UnknownParticipant, ForgedComparison, AlreadyAnswered, without storing anything.
        """
        self.state(participant)
        with self.database() as database:
            database.execute("BEGIN IMMEDIATE")
            now = _state(database, participant)
            if now.comparison != comparison:
                # answered in another tab or by a repeated click, or an ID that this participant was never shown
                own = database.execute(
                    "SELECT answers.comparison FROM comparisons LEFT JOIN answers ON comparison = id "
                    "WHERE id = ? AND participant = ?",
                    [comparison, participant],
                ).fetchone()
                if own is not None and own[0] is not None:
                    raise AlreadyAnswered("this comparison was already answered")
                raise ForgedComparison("this is not the comparison that was shown")
            stamp = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
            database.execute("INSERT INTO answers VALUES (?, ?, ?, ?)", [comparison, choice, stamp, seconds])
            return _state(database, participant)

    def crop(self, comparison: str, side: Choice | Literal["original"]) -> Path:
        """Returns the PNG on one side of a comparison. Raises ForgedComparison for an unknown ID."""
        # a column of the comparison, or a constant; the server's types let no other text through
        method = f"'{ORIGINAL}'" if side == "original" else f'"{side}"'
        with self.database() as database:
            row = database.execute(
                f"SELECT crop FROM comparisons JOIN images USING (image) WHERE id = ? AND method = {method}",
                [comparison],
            ).fetchone()
        if row is None:
            raise ForgedComparison("no such comparison")
        return self.folder / CROPS / f"{row[0]}.png"

    @contextmanager
    def database(self) -> Iterator[sqlite3.Connection]:
        """Opens a transaction: committed at the end, rolled back on an error."""
        with _connected(self.folder / DATABASE) as database:
            yield database

    def _draw(self, database: sqlite3.Connection, participant: str) -> None:
        methods: dict[str, list[str]] = {}
        query = "SELECT image, method FROM images WHERE method <> ? ORDER BY 1, 2"
        for image, method in database.execute(query, [ORIGINAL]):
            methods.setdefault(image, []).append(method)
        pairs = []
        for image, of_image in methods.items():
            for pair in itertools.combinations(of_image, 2):
                pairs.append((image, pair))
        (most,) = database.execute("SELECT per_participant FROM settings").fetchone()
        count = min(most or len(pairs), len(pairs))
        # in random order, with random sides, against effects of fatigue and habit
        drawn = self._choose.sample(pairs, count)
        for position, (image, pair) in enumerate(drawn):
            sides = self._choose.sample(pair, 2)
            values = [secrets.token_urlsafe(12), participant, position, image, *sides]
            database.execute("INSERT INTO comparisons VALUES (?, ?, ?, ?, ?, ?)", values)


@contextmanager
def _connected(path: Path) -> Iterator[sqlite3.Connection]:
    database = sqlite3.connect(path, timeout=30)
    try:
        database.execute("PRAGMA foreign_keys = ON")
        with database:
            yield database
    finally:
        database.close()


def _state(database: sqlite3.Connection, participant: str) -> State:
    rows = database.execute(
        "SELECT id, answers.comparison IS NOT NULL FROM comparisons LEFT JOIN answers ON comparison = id "
        "WHERE participant = ? ORDER BY position",
        [participant],
    ).fetchall()
    waiting = [comparison for comparison, answered in rows if not answered]
    done = len(rows) - len(waiting)
    following = waiting[0] if waiting else None
    return State(done, len(rows), following)


def _frozen(crops: Path, gallery: Gallery, image: str, methods: Sequence[str]) -> list[list[object]]:
    """Writes the crops of one image, original and reconstructions, and returns their rows."""
    original = gallery.original(image).pixels
    rows = [_row(crops, image, ORIGINAL, None, original)]
    for method in methods:
        if not available(gallery, image, method):
            raise SettingsError(f"{method} has no reconstruction of {image}; leave one of them out")
        pixels = gallery.reconstruction(image, method).pixels
        if pixels.shape != original.shape:
            raise SettingsError(
                f"{image} by {method} is {_size(pixels)}, its original {_size(original)}: "
                "not a reconstruction of the whole image"
            )
        figures = gallery.figures(image, method) or {}
        bpp = figures.get("bpp")
        rows.append(_row(crops, image, method, bpp, pixels))
    return rows


def _row(crops: Path, image: str, method: str, bpp: float | None, pixels: NDArray[np.uint8]) -> list[object]:
    height, width, _ = pixels.shape
    left = max(0, (width - SIDE) // 2)
    top = max(0, (height - SIDE) // 2)
    crop = np.ascontiguousarray(pixels[top : top + SIDE, left : left + SIDE])
    png = encode_png(crop)
    name = hashlib.sha256(png).hexdigest()
    (crops / f"{name}.png").write_bytes(png)
    pixels_sha256 = hashlib.sha256(pixels.tobytes()).hexdigest()
    return [image, method, bpp, width, height, left, top, pixels_sha256, name]


def _size(pixels: NDArray[np.uint8]) -> str:
    height, width, _ = pixels.shape
    return f"{width}x{height}"
