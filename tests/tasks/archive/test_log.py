"""The log: records are numbered without a gap, one wins, and the last is what holds."""

from dataclasses import replace
from pathlib import Path

import pytest

from codec.errors import ArchiveError
from tasks.archive import layout, log
from tasks.archive.log import ArchiveHead
from tasks.storage.store import Store


@pytest.fixture
def archive(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "a"))


def test_of_two_changes_of_one_head_the_first_holds_and_the_second_is_told(archive: Store) -> None:
    head = log.writable(archive)
    assert log.append(archive, head, "hold", replace(head, holds={"a.png": "first"}))
    assert not log.append(archive, head, "hold", replace(head, holds={"a.png": "second"}))
    assert log.read(archive).holds == {"a.png": "first"}
    assert log.number(archive) == head.record + 1


def test_the_last_of_thousands_of_records_holds(archive: Store) -> None:
    head = replace(ArchiveHead(), record=997)
    for number in range(998, 1003):
        assert log.append(archive, head, "hold", replace(head, holds={"a.png": str(number)}))
        head = log.read(archive)
        assert (head.record, head.holds) == (number, {"a.png": str(number)})
    assert len(archive.children(layout.LOG)) == 2


def test_a_record_that_says_it_is_another_is_damage(archive: Store) -> None:
    head = log.writable(archive)
    text = archive.read(layout.record(head.record))
    assert archive.publish(layout.record(2), text)
    with pytest.raises(ArchiveError, match=r"000000002.json: damaged: is record 1; audit the archive"):
        log.read(archive)
