"""python -m tests.benchmarks.silent_losses [--cases 50000] [--seed 0] [-o RESULT.md]: is anything lost without a word?

Into a valid picture goes one more part: an unknown segment, chunk, box, tag, property, item or marker, a known one that
holds something else, a further picture, a film, a trailer, bytes between. The structure must cover the file from its
first to its last byte, and the verdict must not be `compressed` unless the part is among the carried blocks, or its
name among those that the owner agreed to leave out. Nothing is decoded. Prints a table by container and outcome, and
ends with status 1 where anything was lost silently.
"""

import argparse
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

from codec.containers.inspect import inspect
from codec.containers.judgement import judge
from codec.errors import ImageError
from tests.support.insertions import INSERTIONS, Case


def outcome(case: Case) -> str:
    """What became of the case's part; begins with `lost` for what must never happen."""
    try:
        structure = inspect(case.data)
    except ImageError:
        return "kept: not_an_image"
    if sum(part.length for part in structure.parts) != len(case.data):
        return "lost: bytes without a name"
    verdict = judge(structure)
    if verdict.reason is not None:
        return f"kept: {verdict.reason}"
    if case.hidden and any(case.hidden in block.content for block in verdict.blocks):
        return "compressed, carried"
    if case.hidden and structure.icc is not None and case.hidden in structure.icc:
        return "compressed, carried as the color profile"
    if verdict.discarded:
        return f"compressed, left out by name: {', '.join(verdict.discarded)}"
    return f"lost: {case.place}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    rng = Random(arguments.seed)
    found: Counter[tuple[str, str]] = Counter()
    longest = 0.0
    for number in range(arguments.cases):
        case = INSERTIONS[number % len(INSERTIONS)](rng)
        began = time.perf_counter()
        result = outcome(case)
        longest = max(longest, time.perf_counter() - began)
        found[case.place.split()[0], result] += 1
    lost = sum(count for (_, result), count in found.items() if result.startswith("lost"))
    text = report(arguments.cases, arguments.seed, found, lost, longest)
    print(text, end="")
    if arguments.output:
        arguments.output.write_text(text)
    sys.exit(int(bool(lost)))


def report(cases: int, seed: int, found: Counter[tuple[str, str]], lost: int, longest: float) -> str:
    lines = [f"# {cases} pictures with one more part, seed {seed}", ""]
    lines += [f"`python -m tests.benchmarks.silent_losses --cases {cases} --seed {seed}`: {lost} silent losses."]
    lines += [
        f"The longest judgement took {longest * 1000:.0f} ms.",
        "",
        "| container | outcome | files |",
        "|---|---|---:|",
    ]
    lines += [f"| {container} | {result} | {count} |" for (container, result), count in sorted(found.items())]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
