"""Elo: hand-worked games, raters of known strength, and what the arithmetic must keep."""

import sys
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from codec.errors import SettingsError
from codec.evaluation.elo import AGGREGATIONS, EloSettings, Games, draw, in_groups, markdown, one_by_one, rate

QUICK = EloSettings(orders=400)


def games_of(rows: list[tuple[str, str, float, str, str]]) -> Games:
    return Games.of(*map(list, zip(*rows, strict=True)))  # type: ignore[arg-type]


def simulated(strengths: dict[str, float], participants: int, images: int, seed: int = 0) -> Games:
    """Every participant sees every pair of every image once, and answers by the Bradley-Terry odds of the strengths."""
    random, rows = np.random.default_rng(seed), []
    for participant in range(participants):
        for image in range(images):
            for first in strengths:
                for second in strengths:
                    if first < second:
                        odds = 10 ** ((strengths[second] - strengths[first]) / 400)
                        won = float(random.random() < 1 / (1 + odds))
                        rows.append((first, second, won, f"p{participant}", f"i{image}"))
    return games_of(rows)


def test_two_games_worked_by_hand() -> None:
    """a beats b twice. At equal ratings a gets 16; then a is expected to score 1 / (1 + 10^(-32/400)) = 0.54592."""
    games = games_of([("a", "b", 1, "p", "i"), ("b", "a", 0, "p", "i")])
    final = one_by_one(games, np.array([[0, 1]], np.int32), k=32, start=1500)
    assert final[0] == pytest.approx([1516 + 32 * (1 - 0.545922), 1484 - 32 * (1 - 0.545922)], abs=1e-4)


def test_a_tournament_worked_by_hand() -> None:
    """Equal at first: a won 2 of 2, b 1 of 2, c none; each expected 1, so K 10 gives +10, 0, -10.

    A second round of draws: a meets b at 10 and c at 20 points more, of which it is expected 0.514388 and 0.528751.
    """
    first = [("a", "b", 1, "p", "1"), ("b", "c", 1, "p", "1"), ("a", "c", 1, "p", "1")]
    second = [("a", "b", 0.5, "p", "2"), ("b", "c", 0.5, "p", "2"), ("c", "a", 0.5, "p", "2")]
    games = games_of([*first, *second])
    scored = games.tally(games.image)
    after_one = in_groups(scored, np.array([[0]], np.int32), k=10, start=1000)
    assert after_one[0] == pytest.approx([1010, 1000, 990])
    after_both = in_groups(scored, np.array([[0, 1]], np.int32), k=10, start=1000)
    step = 10 * (1 - 0.514388 - 0.528751)
    assert after_both[0] == pytest.approx([1010 + step, 1000, 990 - step], abs=1e-4)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_the_order_of_known_strengths_is_recovered(aggregation: str) -> None:
    strengths = {"hfd": 1400.0, "ours": 1650.0, "cdc": 1250.0, "illm": 1520.0}
    result = rate(simulated(strengths, participants=20, images=10), aggregation, QUICK)  # type: ignore[arg-type]
    assert [result.players[place] for place in result.ranking] == sorted(strengths, key=lambda name: -strengths[name])
    bounds = result.intervals
    assert bounds is not None
    assert (bounds[0] < result.medians).all()
    assert (result.medians < bounds[1]).all()
    best, worst = result.ranking[0], result.ranking[-1]
    assert bounds[0, best] > bounds[1, worst]


def test_equal_methods_have_intervals_that_overlap() -> None:
    result = rate(simulated(dict.fromkeys("abc", 1500.0), participants=12, images=6), "per participant", QUICK)
    bounds = result.intervals
    assert bounds is not None
    assert bounds[0].max() < bounds[1].min()


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@hypothesis.settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_points_are_moved_and_never_made(aggregation: str, data: st.DataObject) -> None:
    names = st.sampled_from("abcd")
    row = st.tuples(names, names, st.sampled_from([0, 0.5, 1]), st.sampled_from("pq"), st.sampled_from("xy"))
    rows = data.draw(st.lists(row.filter(lambda row: row[0] != row[1]), min_size=1, max_size=12))
    result = rate(games_of(rows), aggregation, EloSettings(orders=5))  # type: ignore[arg-type]
    assert result.ratings.sum(1) == pytest.approx(1500 * len(result.players))
    if result.resampled is not None:
        assert result.resampled.sum(1) == pytest.approx(1500 * len(result.players))


def test_groups_of_one_game_are_games_one_by_one() -> None:
    games = simulated({"a": 1400, "b": 1500, "c": 1600}, participants=2, images=3)
    orders = np.array([np.random.default_rng(seed).permutation(len(games)) for seed in range(7)], np.int32)
    apart = in_groups(games.tally(np.arange(len(games), dtype=np.int32)), orders, 32, 1500)
    assert one_by_one(games, orders, 32, 1500) == pytest.approx(apart)


def test_a_large_group_does_not_throw_equal_players_past_each_other() -> None:
    """With the K of single games the two would jump by thousands; lowered, a strength of 100 points is met."""
    games = simulated({"a": 1450, "b": 1550}, participants=40, images=20)
    lowered = rate(games, "per image", QUICK)
    assert lowered.medians == pytest.approx([1450, 1550], abs=35)
    thrown = rate(games, "per image", EloSettings(orders=400, group_k=400))
    assert np.ptp(thrown.ratings[:, 0]) > 10 * np.ptp(lowered.ratings[:, 0])


def test_the_same_seed_gives_the_same_ratings() -> None:
    games = simulated({"a": 1450, "b": 1550}, participants=3, images=3)
    assert (rate(games, "every game", QUICK).ratings == rate(games, "every game", QUICK).ratings).all()
    assert (
        rate(games, "every game", EloSettings(orders=400, seed=1)).ratings != rate(games, "every game", QUICK).ratings
    ).any()


def test_k_and_start_are_settings() -> None:
    games = games_of([("a", "b", 1, "p", "i")])
    assert rate(games, "every game", EloSettings(k=10, start=0, orders=1)).ratings.tolist() == [[5, -5]]
    assert rate(games, "per image", EloSettings(k=10, start=0, orders=1)).ratings.tolist() == [[5, -5]]
    assert rate(games, "per image", EloSettings(k=10, group_k=4, start=0, orders=1)).ratings.tolist() == [[2, -2]]


def test_one_participant_alone_has_no_interval() -> None:
    assert rate(games_of([("a", "b", 1, "p", "i"), ("a", "b", 1, "p", "j")]), "every game", QUICK).intervals is None


@pytest.mark.parametrize(
    ("rows", "why"),
    [([], "nothing to rate"), ([("a", "a", 1, "p", "i"), ("a", "b", 1, "p", "i")], "against itself")],
)
def test_games_that_say_nothing_are_refused(rows: list[tuple[str, str, float, str, str]], why: str) -> None:
    columns = map(list, zip(*rows, strict=True)) if rows else [[]] * 5
    with pytest.raises(SettingsError, match=why):
        Games.of(*columns)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [{"k": 0}, {"group_k": -1}, {"orders": 0}])
def test_bad_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match="must be above 0"):
        EloSettings(**bad)  # type: ignore[arg-type]


def test_the_table_and_the_figure_show_every_method(tmp_path: Path) -> None:
    games = simulated({"ours": 1600, "hfd": 1500, "cdc": 1400}, participants=4, images=4)
    results = [rate(games, aggregation, QUICK) for aggregation in AGGREGATIONS]
    shown = markdown(games, results, QUICK)
    assert "48 games, 4 participants, 4 images" in shown
    for aggregation in AGGREGATIONS:
        assert shown.count(f"| {aggregation} |") == 3
    won, lost = games.wins[2, 0], games.wins[0, 2]
    assert f"{won:g} of {won + lost:g}" in shown
    draw(results, [tmp_path / "elo.png", tmp_path / "elo.svg"])
    with Image.open(tmp_path / "elo.png") as image:
        assert len(image.convert("RGB").getcolors(1 << 20) or []) > 50
    assert (tmp_path / "elo.svg").read_text().startswith("<?xml")


def test_without_matplotlib_the_figure_is_one_line_that_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = [rate(simulated({"a": 1600, "b": 1500}, participants=1, images=2), "every game", QUICK)]
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(SettingsError, match=r"pip install 'fdcodec\[evaluate\]'"):
        draw(results, [tmp_path / "elo.svg"])
