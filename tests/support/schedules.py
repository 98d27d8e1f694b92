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
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
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

ARCHIVE = "memory://archive"
MIRROR = "memory://mirror"
OPERATIONS = ("_create", "replace", "remove", "read", "read_range", "open", "pieces", "item", "children", "list")
PAIR = replace(SMALL, max_images_per_shard=2)
FORGOTTEN = "b.png"
"""What the commands forget and redact erase."""
PSEUDONYM = redaction.pseudonym(FORGOTTEN)
FAKES = Models("", threads=1, codec=FAKE)


class Killed(BaseException):
    """The actor's process is gone.

    No Exception, since a killed process runs no `except Exception` of the commands either.
    """


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
        self._turn = 0
        self._alive = list(range(len(commands)))
        self._counts = [0] * len(commands)
        self._dead: set[int] = set()
        self._changed = threading.Condition()
        self._at_switch = at_switch
        raised: list[BaseException | None] = [None] * len(commands)

        def act(actor: int) -> None:
            LOCAL.actor = actor
            LOCAL.schedule = self
            with self._changed:
                self._changed.wait_for(lambda: self._turn == actor)
            try:
                commands[actor]()
            except BaseException as error:  # told to the caller
                raised[actor] = error
            LOCAL.schedule = None
            # An actor that came to its end hands over to the first of those left, whoever was chosen last.
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
        # A check reads the archive on this thread, and must not wait for the scheduler itself.
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
    scheduled = ARCHIVE.replace("memory://", "memory:///")  # as a Store writes its URL

    def hooked(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(self: Store, *arguments: Any, **options: Any) -> Any:
            schedule = getattr(LOCAL, "schedule", None)
            if schedule is not None and self.url == scheduled:
                what = arguments[0] if arguments else ""
                schedule.operation(LOCAL.actor, f"{name} {what}")
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
    MemoryFileSystem.pseudo_dirs[:] = [""]  # its folders: only the root is left
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
        self._compress_half_a_run()
        self.opened = objects()
        self.damaged = self._with_a_damaged_tar()
        put_back(self.opened)
        store = Store(ARCHIVE)
        self.contents: dict[str, bytes] = {}
        self.secret: list[bytes] = []
        for row in report.query(store, "SELECT * FROM rows WHERE tar IS NOT NULL"):
            content = store.read_range(row["tar"], row["offset"], row["length"])
            self.contents[row["sha256"]] = content
            if row["key"] == FORGOTTEN:
                self.secret.append(content)
        # Each command opens the archive anew, as a process of its own would.
        self.commands: dict[str, Callable[[], object]] = {
            "compress": self.compress,
            "resume": partial(self.compress, resume=3),
            "retry": partial(self.compress, retry_failed=True),
            "forget": lambda: forget(Store(ARCHIVE), [FORGOTTEN]),
            "redact": lambda: forget(Store(ARCHIVE), [FORGOTTEN], redact=True),
            "compact": lambda: compaction.compact(Store(ARCHIVE), afresh=True),
            "close-run": lambda: runs.close_run(Store(ARCHIVE), 3, "the machine is gone"),
            "repair": partial(audit, ARCHIVE, repair_from=MIRROR, models=FAKES),
            "restore": self.restored,
        }

    def _compress_half_a_run(self) -> None:
        """Compress, and be killed before the second shard is committed."""
        real = Store.publish

        def publish(store: Store, name: str, content: bytes | Path) -> bool:
            if "part-000001" in name:
                raise Killed
            return real(store, name, content)

        with suppress(Killed), pytest.MonkeyPatch.context() as patch:
            patch.setattr(Store, "publish", publish)
            self.compress()

    def _with_a_damaged_tar(self) -> "Objects":
        """The sealed archive with one bit of a picture flipped, and its mirror."""
        put_back(self.sealed)
        [row] = report.query(Store(ARCHIVE), "SELECT * FROM rows WHERE key = 'd.png' AND tar IS NOT NULL")
        path = f"/archive/{row['tar']}"
        spoiled = bytearray(self.sealed[path])
        spoiled[row["offset"]] ^= 1
        mirrored = {path.replace("/archive", "/mirror", 1): data for path, data in self.sealed.items()}
        return {**self.sealed, **mirrored, path: bytes(spoiled)}

    def compress(self, **options: Any) -> object:
        return pack(self.source, ARCHIVE, self.bundle, PAIR, **options)

    def restored(self) -> None:
        """Restore all, and check what came back."""
        target = Path(tempfile.mkdtemp(dir=self.home))
        done = restore(ARCHIVE, str(target), models=FAKES)
        there = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
        shutil.rmtree(target)
        # Beside it one may be erased, the other damaged and not yet repaired.
        wrong = [failure for failure in done.failures if failure.key not in (FORGOTTEN, "d.png")]
        lost = {"a.png", "c.png", "broken.png"} - there
        if wrong or lost:
            raise AssertionError(f"restore: {wrong}, of {sorted(there)}")

    def start(self, names: Sequence[str]) -> None:
        """Put the archive in place with which some commands begin."""
        if "repair" in names:
            put_back(self.damaged)
        elif "resume" in names or "close-run" in names:
            put_back(self.opened)
        else:
            put_back(self.sealed)


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
    for place, count in Counter(places).items():
        if count > 1:
            wrong.append(f"{place}: {count} rows")
    names = {_original(key) for key, run in places if run == 1}
    lost = {"a.png", FORGOTTEN, "c.png", "broken.png"} - names
    if lost:
        wrong.append(f"lost rows: {lost}")
    return wrong


def _original(key: str) -> str:
    """The key that a pseudonym stands for, else the key."""
    return FORGOTTEN if key == PSEUDONYM else key


def violations(world: World, names: Sequence[str], raised: Sequence[BaseException | None]) -> list[str]:
    """What is not as it was promised, after what was begun is ended by a next command of each kind."""
    wrong: list[str] = []
    ended: list[str] = []
    for name, error in zip(names, raised, strict=True):
        if error is None:
            ended.append(name)
        elif _unexpected(name, error):
            wrong.append(f"{name}: {type(error).__name__}: {error}")
    store = Store(ARCHIVE)
    begun = log.read(store).erasures > 0
    if "repair" in names:
        world.commands["repair"]()
    head = runs.settled(store)
    if head.open_run is not None:
        world.compress(resume=head.open_run)
    wrong += readable(world, damaged=False)
    wrong += _audited()
    wrong += readable(world, damaged=False)
    rows = report.rows(store).to_table().to_pylist()
    if "compress" in ended or "retry" in ended:
        found = {_original(row["key"]) for row in rows}
        lost = {path.name for path in world.source.iterdir()} - found
        wrong += [f"{key}: has no row" for key in lost]
    forgotten = {row["key"] for row in rows if row["status"] == "forgotten"}
    if begun:
        wrong += _kept_of_an_erasure(world, store, rows, forgotten)
    elif forgotten:
        wrong.append(f"forgotten without an erasure: {forgotten}")
    return wrong


def _unexpected(name: str, error: BaseException) -> bool:
    """Whether a command may not end with this error: others may refuse what another one has changed meanwhile."""
    if isinstance(error, Killed):
        return False
    return name == "restore" or not isinstance(error, ArchiveError)


def _audited() -> list[str]:
    """What an audit finds wrong. It may sweep what a killed command left over, but then has swept all."""
    # Orphans are kept for seven days, since a running command may be about to name them.
    eight_days_ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=8)
    for file in MemoryFileSystem.store.values():
        file.modified = eight_days_ago
    swept = audit(ARCHIVE, models=FAKES).problems
    wrong = [f"audit: {found}" for found in swept if found["state"] != "left_over"]
    # Only then: an audit takes time, and after a clean one would find the same.
    if swept:
        wrong += [f"audit again: {found}" for found in audit(ARCHIVE, models=FAKES).problems]
    return wrong


def _kept_of_an_erasure(world: World, store: Store, rows: list[dict[str, Any]], forgotten: set[str]) -> list[str]:
    """What is still there of a picture that an erasure was begun for."""
    wrong: list[str] = []
    with_bytes = [row for row in rows if row["key"] in forgotten and row["tar"]]
    if forgotten not in ({FORGOTTEN}, {PSEUDONYM}) or with_bytes:
        wrong.append(f"forgotten are {forgotten}")
    for path, data in objects().items():
        if not path.startswith("/archive") or not path.endswith(".tar"):
            continue  # the mirror is the owner's to erase
        if any(secret in data for secret in world.secret):
            wrong.append(f"{path}: holds what was forgotten")
    if forgotten == {PSEUDONYM}:
        wrong += [f"{name}: names what was redacted" for name in naming(store, FORGOTTEN)]
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
    seconds = [second] if isinstance(second, str) else [*second]
    # `first` is the last actor: an actor that ends hands over to the lowest one left, so the others run in their order.
    names = [*seconds, first]
    world.start(names)
    last = len(names) - 1
    waiting = True

    def reached(operation: int, what: str) -> bool:
        if isinstance(at, str):
            return re.match(at, what) is not None
        return operation == at

    def choose(actor: int, operation: int, what: str) -> int | None:
        nonlocal waiting
        if waiting and actor == last and reached(operation, what):
            waiting = False
            return None if kill else 0
        return last if waiting else actor

    wrong = _run(world, names, choose, damaged="repair" in names)
    return wrong, not waiting


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
