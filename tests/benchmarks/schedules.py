"""python -m tests.benchmarks.schedules [--random 10000] [--progress FILE] [-o FILE]: commands beside each other.

Every ordered pair of compress, resume, retry, forget, compact, close-run, repair and restore: the first is stopped
before each of its store operations, the other runs to its end, the first goes on; then the same with the first killed
there. After that three commands at random, switched at random operations, one in ten killed. After each schedule
what was begun is ended, and the archive must hold what tests.support.schedules.violations says. What was done stands
in the progress file, so the same command goes on where it was interrupted. Ends with status 1 if there is a violation.
"""

import argparse
import itertools
import json
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.support import schedules
from tests.support.schedules import World

COMMANDS = ("compress", "resume", "retry", "forget", "compact", "close-run", "repair", "restore")
SWITCHES = 12
"""At most so many switches of a random schedule, spread over the operations of its commands."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--random", type=int, default=10_000, help="random schedules of three commands")
    parser.add_argument("--progress", type=Path, default=Path(tempfile.gettempdir()) / "schedules.jsonl")
    parser.add_argument("-o", "--output", type=Path, help="where the table goes")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    counts: Counter[str] = Counter()
    found: list[str] = []
    done: dict[str, int] = {}
    if arguments.progress.exists():
        for line in arguments.progress.read_text().splitlines():
            entry = json.loads(line)
            done[entry["of"]] = entry["next"]
            counts[entry["kind"]] += 1
            found += entry["wrong"]
    begun = time.process_time()
    with arguments.progress.open("a") as file, tempfile.TemporaryDirectory() as home, schedules.scheduled_stores():
        world = World(Path(home))

        def note(kind: str, of: str, following: int, wrong: list[str]) -> None:
            entry = {"kind": kind, "of": of, "next": following, "wrong": [f"{of} {following - 1}: {w}" for w in wrong]}
            print(json.dumps(entry), file=file, flush=True)
            counts[kind] += 1
            found.extend(entry["wrong"])  # type: ignore[arg-type]
            for line in wrong:
                print(f"{of} {following - 1}: {line}")

        for first, second, kill in itertools.product(COMMANDS, COMMANDS, (False, True)):
            kind = "killed" if kill else "stopped"
            of = f"{first} {kind}, {second}"
            at = done.get(of, 0)
            # One operation later each time, until the first ends before it; -1 in the file says that it did.
            while at >= 0:
                wrong, reached = schedules.preempted(world, first, second, at, kill=kill)
                at = at + 1 if reached else -1
                note(kind, of, at, wrong)
        for seed in range(done.get("random", 0), arguments.random):
            note("random", "random", seed + 1, random_schedule(world, seed))
    lines = [f"- {kind}: {number:,} schedules" for kind, number in sorted(counts.items())]
    lines += [f"- violations: {len(found)}", f"- processor seconds of this part: {time.process_time() - begun:,.0f}"]
    print("\n".join(lines))
    if arguments.output:
        arguments.output.write_text("\n".join([f"# {__doc__.partition(chr(10))[0]}", "", *lines, *found[:20], ""]))
    return 1 if found else 0


def random_schedule(world: World, seed: int) -> list[str]:
    """Three commands, switched at some of their first operations; one in ten is killed once."""
    draw = random.Random(seed)
    names = draw.choices(COMMANDS, k=3)
    choices = [0] * 250
    actor = 0
    places = set(draw.sample(range(250), draw.randint(1, SWITCHES)))
    for place in range(250):
        if place in places:
            actor = draw.randrange(3)
        choices[place] = actor
    if draw.random() < 0.1:
        choices[draw.randrange(250)] = -1
    return schedules.interleaved(world, names, choices)


if __name__ == "__main__":
    sys.exit(main())
