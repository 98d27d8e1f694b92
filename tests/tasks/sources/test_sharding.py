"""Sources fill shards in order; those of one group share a shard where one can hold them."""

from tasks.sources.sharding import Limits, Shards


def ranges(limits: Limits, *entries: tuple[int, int, int]) -> list[tuple[int, int]]:
    shards = Shards(limits)
    assert all(shards.take(*entry) for entry in entries)
    return shards.ranges


def test_a_group_begins_a_shard_rather_than_be_cut() -> None:
    single, first, second = (1, 1, 1), (1, 2, 2), (1, 1, 1)
    assert ranges(Limits(3, 100), single, single, first, second) == [(0, 2), (2, 4)]
    assert ranges(Limits(3, 100), single, first, second) == [(0, 3)]
    assert ranges(Limits(9, 10), (8, 1, 8), (2, 2, 5), (3, 1, 3)) == [(0, 1), (1, 3)]


def test_a_group_that_no_shard_can_hold_is_cut_as_if_it_were_none() -> None:
    assert ranges(Limits(2, 100), (1, 3, 3), (1, 1, 1), (1, 1, 1)) == [(0, 2), (2, 3)]
    assert ranges(Limits(9, 10), (8, 2, 17), (9, 1, 9)) == [(0, 1), (1, 2)]


def test_a_full_run_takes_no_more() -> None:
    shards = Shards(Limits(1, 100, shards=1))
    assert (shards.take(1), shards.take(1)) == (True, False)
