"""Stages overlap and are bounded; order and errors are those of a plain loop."""

import threading
from collections.abc import Iterator

import pytest

from tasks.processes.stages import Timeline, staged


def test_results_come_in_order_whatever_finishes_first() -> None:
    second = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert second.wait(60)
        if item == 1:
            second.set()
        return 10 * item

    assert list(staged(work, range(20), threads=3)) == [10 * item for item in range(20)]


def test_stages_are_at_work_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=60)

    def first(item: int) -> int:
        if item == 1:
            both.wait()
        return item

    def second(item: int) -> int:
        if item == 0:
            both.wait()
        return item

    assert list(staged(second, staged(first, range(4)))) == [0, 1, 2, 3]


def test_no_more_is_taken_than_is_under_way_and_waiting() -> None:
    taken = []

    def items() -> Iterator[int]:
        for item in range(50):
            taken.append(item)
            yield item

    results = staged(lambda item: item, items(), threads=2, waiting=3)
    for item in range(10):
        assert next(results) == item
        assert len(taken) <= item + 1 + 2 + 3
    results.close()  # type: ignore[attr-defined]
    assert len(taken) < 20


def test_an_error_comes_in_its_place_and_nothing_begins_after_it() -> None:
    begun, found = [], []

    def work(item: int) -> int:
        begun.append(item)
        if item == 3:
            raise KeyError(item)
        return item

    with pytest.raises(KeyError, match="3"):
        found.extend(staged(work, range(100)))
    results = staged(work, range(100))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError, match="3"):
        next(results)
    assert max(begun) < 10


def test_an_error_of_where_items_come_from_ends_the_stages_after_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(staged(lambda item: item, staged(lambda item: item, items())))


def test_a_time_line_has_what_was_done_also_where_it_failed() -> None:
    timeline = Timeline()
    with timeline.during("read") as spent:
        assert spent.seconds == 0
    with pytest.raises(ValueError, match="no"), timeline.during("network"):
        raise ValueError("no")
    assert [stage for stage, _, _ in timeline.spans] == ["read", "network"]
    assert all(begin <= end for _, begin, end in timeline.spans) and spent.seconds >= 0
