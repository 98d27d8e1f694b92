"""Commands beside each other on an archive in memory, released one store operation at a time by a scheduler.

Each actor is a thread that runs a real command; before each operation on the archive it waits until it is chosen. So a
schedule is a list of choices, and the same choices give the same schedule. A killed actor raises at its next operation
and at every one after it, as if its process were gone. Sources are a local folder, the codec is the fake one, in this
process.
"""

import datetime
import itertools
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from codec.errors import ArchiveError
from tasks.archive import log, redaction, report
from tasks.compress import runs
from tasks.maintenance import compaction
from tasks.maintenance.audit import audit
from tasks.maintenance.forget import forget
from tasks.processes.codec_process import Models
from tasks.restore.restore import restore
from tasks.storage import parquet
from tasks.storage.store import Store, sha256_of
from tests.support.archive_builder import SMALL, bundle, folder, in_process, pack, png
from tests.support.fake_codec import FAKE, RAISE
from tests.support.maintenance_runs import naming

ARCHIVE, MIRROR = "memory://archive", "memory://mirror"
OPERATIONS = ("_create", "replace", "remove", "read", "read_range", "open", "pieces", "item", "children", "list")
PAIR = replace(SMALL, max_images_per_shard=2)
FORGOTTEN = "b.png"
"""What the commands forget and redact erase."""
PSEUDONYM = redaction.pseudonym(FORGOTTEN)


class Killed(BaseException):
    """The actor's process is gone."""


@dataclass
class Schedule:
    """The actors and who is released: `choose(actor, operation)` gives the next actor, or None to kill this one."""

    choose: "Choose"
    trace: list[tuple[int, str]] = field(default_factory=list)
    switches: int = 0

    def run(
        self, commands: Sequence[Callable[[], object]], at_switch: Callable[[], None]
    ) -> list[BaseException | None]:
        """Run all commands to their ends; returns what each raised."""
        self._turn, self._alive = 0, list(range(len(commands)))
        self._counts, self._dead = [0] * len(commands), set[int]()
        self._changed, self._at_switch = threading.Condition(), at_switch
        raised: list[BaseException | None] = [None] * len(commands)

        def act(actor: int) -> None:
            LOCAL.actor, LOCAL.schedule = actor, self
            with self._changed:
                self._changed.wait_for(lambda: self._turn == actor)
            try:
                commands[actor]()
            except BaseException as error:  # told to the caller
                raised[actor] = error
            LOCAL.schedule = None
            with self._changed:
                self._alive.remove(actor)
                if self._alive:
                    self._turn = self._alive[0]
                self._changed.notify_all()

        threads = [threading.Thread(target=act, args=(actor,)) for actor in range(len(commands))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return raised

    def operation(self, actor: int, what: str) -> None:
        """Wait until the actor is chosen again."""
        if actor in self._dead:
            raise Killed
        self.trace.append((actor, what))
        chosen = self.choose(actor, self._counts[actor], what)
        self._counts[actor] += 1
        if chosen is None:
            self._dead.add(actor)
            raise Killed
        if chosen == actor or chosen not in self._alive:
            return
        LOCAL.schedule = None
        self._at_switch()
        LOCAL.schedule = self
        self.switches += 1
        with self._changed:
            self._turn = chosen
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._turn == actor)


LOCAL = threading.local()


@contextmanager
def scheduled_stores() -> Iterator[None]:
    """Every operation of an actor on the archive waits for the scheduler."""

    def hooked(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(self: Store, *arguments: Any, **options: Any) -> Any:
            schedule = getattr(LOCAL, "schedule", None)
            if schedule is not None and self.url == f"memory:///{ARCHIVE[9:]}":
                schedule.operation(LOCAL.actor, f"{name} {arguments[0] if arguments else ''}")
            return real(self, *arguments, **options)

        return operation

    import duckdb  # what a module of tests holds of it is found left over at the end, and complained of

    with pytest.MonkeyPatch.context() as patch, in_process(), duckdb.connect(config={"threads": 1}) as shared:
        for name in OPERATIONS:
            patch.setattr(Store, name, hooked(name, getattr(Store, name)))
        patch.setattr(parquet, "database", _databases_of(shared))
        yield


def _databases_of(shared: Any) -> Callable[..., Any]:
    """parquet.database on one instance of DuckDB, since starting one is half of a schedule's time."""
    numbers = itertools.count()

    @contextmanager
    def database(**views: Any) -> Iterator[Any]:
        catalog = f"of_{next(numbers)}"
        with shared.cursor() as connection:
            connection.execute(f"ATTACH ':memory:' AS {catalog}; USE {catalog}")
            for name, table in views.items():
                connection.register(name, table)
            yield connection
            connection.execute(f"USE memory; DETACH {catalog}")

    return database


Objects = dict[str, bytes]


def objects() -> Objects:
    """Everything in memory."""
    return {path: file.getvalue() for path, file in MemoryFileSystem.store.items()}


def put_back(state: Objects) -> None:
    """Let that be everything in memory."""
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    filesystem = MemoryFileSystem()
    for path, data in state.items():
        filesystem.pipe_file(path, data)


class World:
    """A source, a bundle, and archives to begin with: `sealed` of two runs, `opened` with a third that is half done.

    In both a picture broke its encoder. `damaged` is the sealed one with a damaged tar, whose mirror is sound.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.bundle = bundle(home / "bundle")
        first = {"a.png": png(1), FORGOTTEN: png(2), "c.png": png(3), "broken.png": png(4, fault=RAISE)}
        self.source = folder(home / "s", first)
        put_back({})
        self.compress()
        folder(self.source, {FORGOTTEN: png(5), "d.png": png(6)})
        self.compress()
        self.sealed = objects()
        folder(self.source, {FORGOTTEN: png(10), "e.png": png(7), "f.png": png(8), "g.png": png(9)})
        with suppress(Killed), pytest.MonkeyPatch.context() as patch:
            real = Store.publish

            def publish(store: Store, name: str, content: bytes | Path) -> bool:
                if "part-000001" in name:
                    raise Killed
                return real(store, name, content)

            patch.setattr(Store, "publish", publish)
            self.compress()
        self.opened = objects()
        mirrored = {path.replace("/archive", "/mirror", 1): data for path, data in self.sealed.items()}
        put_back(self.sealed)
        kept = report.query(Store(ARCHIVE), "SELECT * FROM rows WHERE tar IS NOT NULL")
        place = next(row for row in kept if row["key"] == "d.png")
        path = f"/archive/{place['tar']}"
        spoiled = bytearray(self.sealed[path])
        spoiled[place["offset"]] ^= 1
        self.damaged = {**self.sealed, **mirrored, path: bytes(spoiled)}
        put_back(self.opened)
        kept = report.query(Store(ARCHIVE), "SELECT * FROM rows WHERE tar IS NOT NULL")
        self.contents = {
            row["sha256"]: Store(ARCHIVE).read_range(row["tar"], row["offset"], row["length"]) for row in kept
        }
        self.secret = [self.contents[row["sha256"]] for row in kept if row["key"] == FORGOTTEN]
        self.commands: dict[str, Callable[[], object]] = {
            "compress": self.compress,
            "resume": lambda: self.compress(resume=3),
            "retry": lambda: self.compress(retry_failed=True),
            "forget": lambda: forget(Store(ARCHIVE), [FORGOTTEN]),
            "redact": lambda: forget(Store(ARCHIVE), [FORGOTTEN], redact=True),
            "compact": lambda: compaction.compact(Store(ARCHIVE), afresh=True),
            "close-run": lambda: runs.close_run(Store(ARCHIVE), 3, "the machine is gone"),
            "repair": lambda: audit(ARCHIVE, repair_from=MIRROR, models=Models("", threads=1, codec=FAKE)),
            "restore": self.restored,
        }

    def compress(self, **options: Any) -> object:
        return pack(self.source, ARCHIVE, self.bundle, PAIR, **options)

    def restored(self) -> None:
        """Restore all, and check what came back."""
        target = Path(tempfile.mkdtemp(dir=self.home))
        done = restore(ARCHIVE, str(target), models=Models("", threads=1, codec=FAKE))
        there = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
        shutil.rmtree(target)
        wrong = [failure for failure in done.failures if failure.key not in (FORGOTTEN, "d.png")]
        if wrong or not {"a.png", "c.png", "broken.png"} <= there:
            raise AssertionError(f"restore: {wrong}, of {sorted(there)}")

    def start(self, names: Sequence[str]) -> None:
        """Put the archive in place with which some commands begin."""
        if "repair" in names:
            put_back(self.damaged)
        else:
            put_back(self.opened if {"resume", "close-run"} & set(names) else self.sealed)


def readable(world: World, *, damaged: bool) -> list[str]:
    """What a fresh reader finds wrong."""
    store = Store(ARCHIVE)
    wrong: list[str] = []
    rows = report.rows(store).to_table().to_pylist()
    for row in rows:
        if row["tar"] is None or (damaged and row["key"] == "d.png"):
            continue
        try:
            data = store.read_range(row["tar"], row["offset"], row["length"])
        except ArchiveError as error:
            wrong.append(str(error))
            continue
        if sha256_of(data) != row["sha256"]:
            wrong.append(f"{row['key']}: other bytes")
    places = [(row["key"], row["run"]) for row in rows]
    wrong += [f"{place}: {places.count(place)} rows" for place in set(places) if places.count(place) > 1]
    names = {FORGOTTEN if key == PSEUDONYM else key for key, run in places if run == 1}
    if lost := {"a.png", FORGOTTEN, "c.png", "broken.png"} - names:
        wrong.append(f"lost rows: {lost}")
    return wrong


def violations(world: World, names: Sequence[str], raised: Sequence[BaseException | None]) -> list[str]:
    """What is not as it was promised, after what was begun is ended by a next command of each kind."""
    wrong = [
        f"{name}: {type(error).__name__}: {error}"
        for name, error in zip(names, raised, strict=True)
        if not isinstance(error, (type(None), Killed)) and (name == "restore" or not isinstance(error, ArchiveError))
    ]
    store = Store(ARCHIVE)
    begun = log.read(store).erasures > 0
    if "repair" in names:
        world.commands["repair"]()
    head = runs.settled(store)
    if head.open_run is not None:
        world.compress(resume=head.open_run)
    wrong += readable(world, damaged=False)
    eight_days_ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=8)
    for file in MemoryFileSystem.store.values():
        file.modified = eight_days_ago
    fakes = Models("", threads=1, codec=FAKE)
    swept = audit(ARCHIVE, models=fakes).problems
    wrong += [f"audit: {found}" for found in swept if found["state"] != "left_over"]
    if swept:
        wrong += [f"audit again: {found}" for found in audit(ARCHIVE, models=fakes).problems]
    wrong += readable(world, damaged=False)
    rows = report.rows(store).to_table().to_pylist()
    ended = [name for name, error in zip(names, raised, strict=True) if error is None]
    if {"compress", "retry"} & set(ended):
        found = {FORGOTTEN if row["key"] == PSEUDONYM else row["key"] for row in rows}
        lost = {path.name for path in world.source.iterdir()} - found
        wrong += [f"{key}: has no row" for key in lost]
    forgotten = {row["key"] for row in rows if row["status"] == "forgotten"}
    if begun:
        if forgotten not in ({FORGOTTEN}, {PSEUDONYM}) or any(row["tar"] for row in rows if row["key"] in forgotten):
            wrong.append(f"forgotten are {forgotten}")
        tars = {path: data for path, data in objects().items() if path.startswith("/archive") and path.endswith(".tar")}
        held = [path for path, data in tars.items() if any(secret in data for secret in world.secret)]
        wrong += [f"{path}: holds what was forgotten" for path in held]
        if forgotten == {PSEUDONYM}:
            wrong += [f"{name}: names what was redacted" for name in naming(store, FORGOTTEN)]
    elif forgotten:
        wrong.append(f"forgotten without an erasure: {forgotten}")
    return wrong


Choose = Callable[[int, int, str], int | None]
"""(actor, number of its operation, operation) -> the actor that is released, None to kill this one."""


def preempted(
    world: World, first: str, second: str | Sequence[str], at: int | str, *, kill: bool
) -> tuple[list[str], bool]:
    """The violations when `first` is stopped, or killed, before its operation `at`, and `second` runs to its end.

    `second` may be several commands, which run one after the other.
    `at` is a number, or a pattern of an operation, of which the first is meant. The second result says whether `first`
    came that far.
    """
    names = [*([second] if isinstance(second, str) else second), first]
    world.start(names)
    last = len(names) - 1
    waiting = [True]

    def choose(actor: int, operation: int, what: str) -> int | None:
        if actor == last and waiting[0] and (operation == at or (isinstance(at, str) and re.match(at, what))):
            waiting[0] = False
            return None if kill else 0
        return last if waiting[0] else actor

    return _run(world, names, choose, damaged="repair" in names), not waiting[0]


def interleaved(world: World, names: Sequence[str], choices: Sequence[int]) -> list[str]:
    """The violations of some actors, at each operation of which the next choice says who is released; -1 kills."""
    world.start(names)
    left = iter(choices)

    def choose(actor: int, operation: int, what: str) -> int | None:
        chosen = next(left, actor)
        return None if chosen < 0 else chosen % len(names)

    return _run(world, names, choose, damaged="repair" in names)


def _run(world: World, names: Sequence[str], choose: Choose, *, damaged: bool) -> list[str]:
    wrong: list[str] = []
    schedule = Schedule(choose)
    commands = [world.commands[name] for name in names]
    raised = schedule.run(commands, lambda: wrong.extend(readable(world, damaged=damaged)))
    return wrong + violations(world, names, raised)
