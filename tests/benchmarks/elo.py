"""python -m tests.benchmarks.elo: processor seconds to rate 2,040 games by 10,000 random orders, with intervals."""

import time

from codec.evaluation.elo import AGGREGATIONS, EloSettings, rate
from tests.codec.evaluation.test_elo import simulated

STRENGTHS = {"cdc": 1400.0, "illm": 1500.0, "hfd": 1550.0, "ours": 1600.0}


def main() -> None:
    """Print one line for each aggregation."""
    games = simulated(STRENGTHS, participants=34, images=10)
    for aggregation in AGGREGATIONS:
        started = time.process_time()
        result = rate(games, aggregation, EloSettings())
        ranking = " > ".join(result.players[place] for place in result.ranking)
        seconds = time.process_time() - started
        print(f"{aggregation:16} {len(games)} games {len(result.ratings)} orders {seconds:5.2f} s  {ranking}")


if __name__ == "__main__":
    main()
