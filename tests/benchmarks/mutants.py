"""Do the tests notice a mistake? `python -m tests.benchmarks.mutants [--only WORD] [--resume] [--processes 1]`.

Each mutation of mutants.toml is made in a copy of the tree, alone, and the tests that it names are run. It is killed
where one of them fails, or does not end. Before that they must all pass without it. A mutation whose text is no more in
its file exactly once stops everything: the list must follow the code.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).parents[2]
TABLE = Path(__file__).with_suffix(".toml")
KEPT = ROOT / "build" / "mutants.json"
RESULTS = Path(__file__).parent / "results" / "mutants.md"
SECONDS = 300.0
"""After which a mutation that made a test wait for ever counts as killed."""


@dataclass(frozen=True)
class Mutant:
    """What is replaced in which file, what harm that would do, and the test files that should notice."""

    name: str
    harm: str
    file: str
    old: str
    new: str
    tests: list[str]


def read_table() -> list[Mutant]:
    """The mutations. Raises SystemExit where one does not fit the code or names no test file."""
    found = [Mutant(**each) for each in tomllib.loads(TABLE.read_text())["mutant"]]
    problems = []
    for mutant in found:
        path = ROOT / mutant.file
        count = path.read_text().count(mutant.old) if path.is_file() else 0
        if count != 1:
            problems.append(f"{mutant.name}: `old` stands {count} times in {mutant.file}")
        for test in mutant.tests:
            file, _, _ = test.partition("::")
            if not (ROOT / file).is_file():
                problems.append(f"{mutant.name}: no {test}")
    names = [mutant.name for mutant in found]
    problems += [f"{name}: named twice" for name in {*names} if names.count(name) > 1]
    if problems:
        sys.exit("error: the table does not fit the code:\n" + "\n".join(problems))
    return found


def copy_tree(target: Path) -> Path:
    """What git knows of the tree, as it is now."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in listed.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


def failing(tree: Path, tests: list[str]) -> str:
    """The first test that fails in a tree, empty where none does."""
    options = ["-q", "-x", "--no-cov", "-p", "no:cacheprovider", "-p", "no:xdist"]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch).chmod(0o755)
        command = [sys.executable, "-m", "pytest", *options, f"--basetemp={scratch}/tests", *tests]
        process = subprocess.Popen(
            command,
            cwd=tree,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.communicate()
            return "does not end"
    if process.returncode == 0:
        return ""
    found = re.search(r"^(?:FAILED|ERROR) (?:\S*/)?(\S+?)(?: - |$)", said, re.MULTILINE)
    return found[1] if found else f"status {process.returncode}"


def verdict(mutant: Mutant, tree: Path) -> str:
    """What kills a mutation, empty where it survives."""
    path = tree / mutant.file
    original = path.read_text()
    try:
        path.write_text(original.replace(mutant.old, mutant.new))
        for test in mutant.tests:
            if killer := failing(tree, [test]):
                return killer
        return ""
    finally:
        path.write_text(original)


def page(verdicts: dict[str, tuple[Mutant, str]], commit: str) -> str:
    """The results as Markdown."""
    killed = sum(bool(killer) for _, killer in verdicts.values())
    lines = [
        "# Mutants",
        "",
        f"`python -m tests.benchmarks.mutants` at {commit}: {killed} of {len(verdicts)} killed. Each is one change of",
        "the code in `tests/benchmarks/mutants.toml`, made alone; the last column is the first test that failed.",
        "",
        "| mutation | what would be the harm | file | killed by |",
        "|---|---|---|---|",
    ]
    for mutant, killer in verdicts.values():
        found = f"`{killer}`" if killer else "**survived**"
        lines.append(f"| {mutant.name} | {mutant.harm} | `{mutant.file}` | {found} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", default="", help="mutations whose name or file has this word; nothing is recorded")
    options.add_argument("--processes", type=int, default=1, help="copies of the tree that are worked on at a time")
    options.add_argument(
        "--resume", action="store_true", help="go on with build/mutants.json, and trust that tests pass"
    )
    options.add_argument("--check", action="store_true", help="only see whether the table fits the code")
    asked = options.parse_args()
    table = [mutant for mutant in read_table() if asked.only in f"{mutant.name} {mutant.file}"]
    print(f"{len(table)} mutations fit the code", flush=True)
    if asked.check:
        return
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    with tempfile.TemporaryDirectory() as home, ThreadPoolExecutor(asked.processes) as pool:
        Path(home).chmod(0o755)  # some tests act as another user
        trees: SimpleQueue[Path] = SimpleQueue()
        for number in range(asked.processes):
            trees.put(copy_tree(Path(home) / str(number)))

        def on_a_tree(mutant: Mutant | str) -> str:
            tree = trees.get()
            try:
                return failing(tree, [mutant]) if isinstance(mutant, str) else verdict(mutant, tree)
            finally:
                trees.put(tree)

        tests = sorted({test for mutant in table for test in mutant.tests})
        kept: dict[str, str] = json.loads(KEPT.read_text()) if asked.resume and KEPT.exists() else {}
        # A test that fails by itself would kill every mutant.
        if not asked.resume:
            for test, failed in zip(tests, pool.map(on_a_tree, tests), strict=True):
                if failed:
                    sys.exit(f"error: {test} fails without any mutation: {failed}")
        pending = [mutant for mutant in table if mutant.name not in kept]
        for mutant, killer in zip(pending, pool.map(on_a_tree, pending), strict=True):
            kept[mutant.name] = killer
            if not asked.only:
                KEPT.parent.mkdir(exist_ok=True)
                KEPT.write_text(json.dumps(kept))
            found = f"killed by {killer}" if killer else "SURVIVED"
            print(f"{mutant.name}: {found}", flush=True)
    verdicts = {mutant.name: (mutant, kept[mutant.name]) for mutant in table}
    if not asked.only:
        RESULTS.write_text(page(verdicts, commit.stdout.strip()))
    survivors = [name for name, (_, killer) in verdicts.items() if not killer]
    if survivors:
        sys.exit(f"{len(survivors)} survived: {', '.join(survivors)}")


if __name__ == "__main__":
    main()
