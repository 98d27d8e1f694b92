"""Commands beside each other, stopped and killed at any store operation: no schedule loses or brings back a picture."""

import inspect
import itertools
import textwrap
import types
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.archive import log, report
from tasks.compress import runs
from tasks.restore import restore
from tests.benchmarks.schedules import COMMANDS
from tests.support import schedules
from tests.support.schedules import World

PAIRS = [*itertools.product(COMMANDS, COMMANDS)]
PAIRS += [("redact", "compress"), ("compress", "redact"), ("repair", "redact"), ("redact", "restore")]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with schedules.scheduled_stores():
        yield World(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=[" ".join(pair) for pair in PAIRS])
def test_one_command_beside_another(world: World, first: str, second: str) -> None:
    """One operation for each pair, a different one for stopping than for killing; the benchmark has them all."""
    for kill in (False, True):
        at = zlib.crc32(f"{first} {second} {kill}".encode()) % 50
        assert schedules.preempted(world, first, second, at, kill=kill)[0] == [], f"before operation {at}"


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    names=st.lists(st.sampled_from(COMMANDS), min_size=3, max_size=3),
    switches=st.lists(st.tuples(st.integers(1, 40), st.integers(-1, 2)), max_size=8),
)
def test_three_commands_at_random(world: World, names: list[str], switches: list[tuple[int, int]]) -> None:
    choices = [choice for count, actor in switches for choice in ([max(actor, 0)] * count + [actor])]
    assert schedules.interleaved(world, names, choices) == []


Unmended = tuple[Callable[..., Any], str, str]
MENDS: dict[str, tuple[Unmended, tuple[str, str | tuple[str, ...], str, bool]]] = {
    "a record is made only if its head still holds": (
        (
            log.append,
            "manifest.to_json(document))",
            "manifest.to_json(document)) or archive.publish(layout.record(n := number(archive) + 1), "
            'manifest.to_json(document | {"record": n}))',
        ),
        ("forget", "compress", "_create log/", False),
    ),
    "a plan that an erasure overtook is made anew": (
        (runs._opened, " and head.erasures == erasures", ""),
        ("compress", "forget", "_create log/", False),
    ),
    "whoever meets an erasure ends it": (
        (runs.settled, "erasing.finish(archive)", "log.writable(archive)"),
        ("forget", "compress", "_create runs/", True),
    ),
    "a reader whose table was replaced reads again": (
        (report._consistently, "log.number(archive) == head.record", "True"),
        ("restore", "forget", "(item|pieces|open) tables/", False),
    ),
    "a part that is gone is not noted as damaged before the head was read again": (
        (report._consistently, "if log.number(archive) != head.record", "if False"),
        ("restore", ("close-run", "forget"), "pieces runs/000003/report", False),
    ),
    "a picture whose tar was replaced is looked up again": (
        (restore._read, "except NotFoundError", "except ZeroDivisionError"),
        ("restore", "forget", "read_range runs/", False),
    ),
}


def unmended(patch: pytest.MonkeyPatch, function: Callable[..., Any], mend: str, instead: str) -> None:
    """Replace a function by its version without the mend, in every module that imported it."""
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(mend) == 1, f"{mend!r} is no more in {function.__name__}"
    assert isinstance(function, types.FunctionType)
    made: dict[str, Any] = {}
    exec(compile(source.replace(mend, instead), function.__code__.co_filename, "exec"), function.__globals__, made)
    patch.setattr(function, "__code__", made[function.__name__].__code__)


@pytest.mark.parametrize("mend", MENDS)
def test_without_its_mend_a_known_fault_is_back(world: World, mend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taken_out, (first, second, at, kill) = MENDS[mend]
    assert schedules.preempted(world, first, second, at, kill=kill) == ([], True)
    unmended(monkeypatch, *taken_out)
    try:
        wrong, _ = schedules.preempted(world, first, second, at, kill=kill)
    except Exception as error:  # an archive that no command can go on with
        wrong = [repr(error)]
    assert wrong
