"""Elo ratings from pairwise comparisons: medians over many random orders, with three aggregations.

Supplement, Sec. D: a method's final rating depends on the order of its games, so games are replayed in many
random orders. Ratings are updated after every game, or once after all games of a participant, or once after all
games of an image, as in a tournament: K times the sum of (score - expected score), expected by the ratings before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from codec.errors import SettingsError
from codec.evaluation.plots import figure

Aggregation = Literal["every game", "per participant", "per image"]
AGGREGATIONS: tuple[Aggregation, ...] = get_args(Aggregation)

SCALE = np.log(10) / 400
"""A gap of 400 points is odds of 10 to 1."""
LARGEST_STEP = 0.5
"""The part of a gap between two equal players that one aggregated update may close."""
CONFIDENCE = 0.95

Indices = NDArray[np.int32]
Ratings = NDArray[np.float64]


@dataclass(frozen=True)
class EloSettings:
    """Settings of the ratings. Raises SettingsError for invalid values.

    `k` is the most points that one game moves. `group_k` is K of the aggregated updates: None means `k`, lowered where
    the sum over a group's games would throw equal players past each other. `orders` is the number of Monte Carlo draws.
    """

    k: float = 32.0
    group_k: float | None = None
    start: float = 1500.0
    orders: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("k", "group_k", "orders"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise SettingsError(f"{name} must be above 0, not {value}")


@dataclass(frozen=True, eq=False)
class Games:
    """N games as indices into `players`; `score` is 1 where first won, 0 where second did, 0.5 for a draw."""

    players: tuple[str, ...]
    first: Indices
    second: Indices
    score: NDArray[np.float64]
    participant: Indices
    image: Indices

    @classmethod
    def of(
        cls,
        first: Sequence[str],
        second: Sequence[str],
        score: Sequence[float],
        participant: Sequence[str],
        image: Sequence[str],
    ) -> Self:
        """Games by name, one element each. Raises SettingsError if there is nothing to rate."""
        players = tuple(sorted({*first, *second}))
        if len(players) < 2:
            raise SettingsError("no games between two methods: there is nothing to rate")
        for one, other in zip(first, second, strict=True):
            if one == other:
                raise SettingsError("a game of a method against itself is meaningless: remove it")
        index_of = {player: index for index, player in enumerate(players)}
        return cls(
            players,
            first=np.array([index_of[name] for name in first], np.int32),
            second=np.array([index_of[name] for name in second], np.int32),
            score=np.array(score, np.float64),
            participant=np.unique(np.array(participant), return_inverse=True)[1].astype(np.int32),
            image=np.unique(np.array(image), return_inverse=True)[1].astype(np.int32),
        )

    def __len__(self) -> int:
        return len(self.score)

    @cached_property
    def wins(self) -> NDArray[np.float64]:
        """(players, players): the row's score against the column."""
        (scored,) = self.tally(np.zeros(len(self), np.int32))
        return np.asarray(scored, np.float64)

    def tally(self, group: Indices) -> NDArray[np.float64]:
        """(groups, players, players): the row's score against the column in each group."""
        scored = np.zeros((int(group.max()) + 1, len(self.players), len(self.players)))
        np.add.at(scored, (group, self.first, self.second), self.score)
        np.add.at(scored, (group, self.second, self.first), 1 - self.score)
        return scored


@dataclass(frozen=True, eq=False)
class Result:
    """The final ratings (orders, players) of one aggregation, and those of resampled studies for the intervals.

    The games' units are drawn with replacement: participants, or images where these are the tournaments. Each drawn
    study is replayed in one random order, so that the intervals hold the spread over orders too and are on the safe
    side. `resampled` is None for a single unit, which has no spread.
    """

    aggregation: Aggregation
    players: tuple[str, ...]
    k: float
    ratings: Ratings
    resampled: Ratings | None

    @property
    def medians(self) -> NDArray[np.float64]:
        """(players,)"""
        return np.median(self.ratings, axis=0)

    @property
    def quartiles(self) -> NDArray[np.float64]:
        """(2, players): the first and the third."""
        return np.quantile(self.ratings, [0.25, 0.75], axis=0)

    @property
    def intervals(self) -> NDArray[np.float64] | None:
        """(2, players): percentile bootstrap, 95 %."""
        if self.resampled is None:
            return None
        tail = (1 - CONFIDENCE) / 2
        return np.quantile(self.resampled, [tail, 1 - tail], axis=0)

    @property
    def ranking(self) -> list[int]:
        """The players, best first."""
        return [int(player) for player in np.argsort(-self.medians, kind="stable")]


def rate(games: Games, aggregation: Aggregation, settings: EloSettings = EloSettings()) -> Result:
    """Replays the games in random orders, and random studies made of the same units."""
    random = np.random.default_rng(settings.seed)
    if aggregation == "every game":
        return _rate_every_game(games, settings, random)
    if aggregation == "per participant":
        scored = games.tally(games.participant)
    else:
        scored = games.tally(games.image)
    k = settings.group_k or min(settings.k, _largest_k(scored))
    orders = _shuffled(random, len(scored), settings.orders)
    ratings = in_groups(scored, orders, k, settings.start)
    resampled = None
    if len(scored) > 1:
        again = random.integers(len(scored), size=orders.shape, dtype=np.int32)
        resampled = in_groups(scored, again, k, settings.start)
    return Result(aggregation, games.players, k, ratings, resampled)


def _rate_every_game(games: Games, settings: EloSettings, random: np.random.Generator) -> Result:
    orders = _shuffled(random, len(games), settings.orders)
    ratings = one_by_one(games, orders, settings.k, settings.start)
    resampled = None
    # Participants are drawn, not games: those of one person are not independent.
    if games.participant.max() > 0:
        again = _resampled_games(random, games.participant, settings.orders)
        resampled = one_by_one(games, again, settings.k, settings.start)
    return Result("every game", games.players, settings.k, ratings, resampled)


def one_by_one(games: Games, orders: Indices, k: float, start: float) -> Ratings:
    """Ratings (orders, players) after the games in each row of `orders`, updated after every game; -1 is skipped.

    All rows play their next game at the same time.
    """
    count = len(orders)
    rows = np.arange(count)
    rating = np.full((len(games.players), count), start, np.float64)
    flat = rating.reshape(-1)  # a view: player p's rating in row r is at p * count + r
    # Index -1 picks the last element: a game of players 0 and 1 that gains nothing.
    first = np.append(games.first, 0) * count
    second = np.append(games.second, 1) * count
    score = np.append(games.score, 0)
    gain = np.append(np.full(len(games), k, np.float64), 0)
    for game in np.ascontiguousarray(orders.T):
        one = first[game] + rows
        other = second[game] + rows
        expected = 1 / (1 + np.exp(SCALE * (flat[other] - flat[one])))
        change = gain[game] * (score[game] - expected)
        flat[one] += change
        flat[other] -= change
    return rating.T


def in_groups(scored: NDArray[np.float64], orders: Indices, k: float, start: float) -> Ratings:
    """Ratings (orders, players) after the groups listed in each row of `orders`, updated once per group.

    `scored` (groups, players, players) is the row's score against the column.
    """
    played = scored + scored.transpose(0, 2, 1)
    points = scored.sum(2)
    rating = np.full((len(orders), scored.shape[1]), start, np.float64)
    for group in np.ascontiguousarray(orders.T):
        expected = 1 / (1 + np.exp(SCALE * (rating[:, None, :] - rating[:, :, None])))
        rating += k * (points[group] - np.einsum("opq,opq->op", played[group], expected))
    return rating


def _largest_k(scored: NDArray[np.float64]) -> float:
    """K at which a group's update of two equal players closes LARGEST_STEP of their gap.

    The slope of the expected score is SCALE / 4 there, over the most games that a player has in a group, both moving.
    """
    most = (scored + scored.transpose(0, 2, 1)).sum(2).max()
    return float(LARGEST_STEP / (2 * most * SCALE / 4))


def _shuffled(random: np.random.Generator, length: int, orders: int) -> Indices:
    return random.permuted(np.tile(np.arange(length, dtype=np.int32), (orders, 1)), axis=1)


def _resampled_games(random: np.random.Generator, participant: Indices, orders: int) -> Indices:
    """Random orders of the games of participants drawn with replacement, shorter ones filled with -1."""
    participants = int(participant.max()) + 1
    own = [np.flatnonzero(participant == one).astype(np.int32) for one in range(participants)]
    drawn = random.integers(participants, size=(orders, participants))
    counts = np.array([len(games) for games in own])
    lengths = counts[drawn].sum(1)
    sequences = np.full((orders, int(lengths.max())), -1, np.int32)
    for row, chosen, length in zip(sequences, drawn, lengths, strict=True):
        row[:length] = np.concatenate([own[one] for one in chosen])
    return random.permuted(sequences, axis=1, out=sequences)


def markdown(games: Games, results: Sequence[Result], settings: EloSettings) -> str:
    """Formats the ratings and the numbers of games won as tables."""
    participants = int(games.participant.max()) + 1
    images = int(games.image.max()) + 1
    lines = [
        f"{len(games)} games, {participants} participants, {images} images; "
        f"{settings.orders} random orders, start {settings.start:g}.",
        "",
        "| aggregation | K | method | median | quartiles | 95 % interval |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        lines += _rating_lines(result)
    names = list(games.players)
    if results:
        best_first = results[0]
        names = [best_first.players[player] for player in best_first.ranking]
    lines += ["", f"| games won against | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    for name in names:
        cells = [_won(games, name, other) for other in names]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _rating_lines(result: Result) -> list[str]:
    """A line of the table for each player, best first."""
    medians = result.medians
    low, high = result.quartiles
    bounds = result.intervals
    lines = []
    for player in result.ranking:
        interval = "-"
        if bounds is not None:
            interval = f"{bounds[0, player]:.0f} to {bounds[1, player]:.0f}"
        lines.append(
            f"| {result.aggregation} | {result.k:.3g} | {result.players[player]} | {medians[player]:.0f} "
            f"| {low[player]:.0f} to {high[player]:.0f} | {interval} |"
        )
    return lines


def _won(games: Games, name: str, other: str) -> str:
    row = games.players.index(name)
    column = games.players.index(other)
    played = games.wins[row, column] + games.wins[column, row]
    if not played:
        return "-"
    return f"{games.wins[row, column]:g} of {played:g}"


def draw(results: Sequence[Result], paths: Sequence[Path]) -> None:
    """Box plots as in the supplement's Fig. 2, one panel an aggregation; the suffix of each path names its format.

    The box ends at the quartiles over the orders, whiskers reach the last value within 1.5 of its length. The bar
    beside it is the 95 % interval. Raises SettingsError where matplotlib is not installed.
    """
    drawn = figure(4.2 * len(results), 4.0)
    panels = drawn.subplots(1, len(results), squeeze=False, sharey=True)[0]
    order = results[0].ranking  # the same in all panels, so that a method stands in one column
    for axis, result in zip(panels, results, strict=True):
        _panel(axis, result, order)
    panels[0].set_ylabel("Elo; bar: 95 % interval")
    for path in paths:
        drawn.savefig(path, dpi=150)


def _panel(axis: Any, result: Result, order: Sequence[int]) -> None:
    """The boxes of one aggregation."""
    line = {"color": "0.25", "linewidth": 1.0}
    boxes = axis.boxplot(
        result.ratings[:, order],
        whis=1.5,
        showfliers=False,
        widths=0.5,
        patch_artist=True,
        medianprops={"color": "#b3261e", "linewidth": 1.6},
        whiskerprops=line,
        capprops=line,
    )
    for box in boxes["boxes"]:
        box.set(facecolor="#e9eef3", edgecolor="0.25", linewidth=1.0)
    positions = np.arange(len(order)) + 1  # where boxplot puts them
    bounds = result.intervals
    if bounds is not None:
        low, high = bounds[:, order]
        axis.vlines(positions + 0.38, low, high, color="#2b6cb0", linewidth=2.4)
    axis.set_xticks(positions, [result.players[player] for player in order])
    if max(map(len, result.players)) > 8:  # long names would run into each other
        axis.tick_params(axis="x", rotation=30)
    axis.set_title(f"{result.aggregation} (K {result.k:.3g})", fontsize=11)
    axis.grid(axis="y", alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
