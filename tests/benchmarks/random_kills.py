"""Killed at random, again and again: `python -m tests.benchmarks.random_kills [--kills 50] [--seed 1]`.

A compression of twelve pictures in four shards is ended by SIGKILL after a random time, and started again, until it
finishes; then another archive is begun, until there were so many kills. Each archive must equal an undisturbed one.
"""

import argparse
import random
import signal
import tempfile
import time
from pathlib import Path

from tests.support import archive_builder, runner_processes


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kills", type=int, default=50)
    options.add_argument("--seed", type=int, default=1)
    asked = options.parse_args()
    chance = random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as home:
        bundle = archive_builder.bundle(Path(home) / "bundle")
        files = {f"{number:02d}.png": archive_builder.png(number) for number in range(10)} | {
            "x.jpg": b"no",
            "y.png": b"",
        }
        source = archive_builder.folder(Path(home) / "source", files)
        for name in ("warm-up", "undisturbed"):  # the first one waits for the imports, which the later ones find done
            started = time.perf_counter()
            runner_processes.end(runner_processes.start(source, Path(home) / name / "archive", bundle))
            patience = time.perf_counter() - started
        print(f"an undisturbed run takes {patience:.1f} s", flush=True)
        expected = archive_builder.snapshot(Path(home) / "undisturbed" / "archive")
        kills = archives = 0
        while kills < asked.kills:
            archives += 1
            archive = Path(home) / str(archives) / "archive"
            while True:
                runner = runner_processes.start(source, archive, bundle)
                runner.join(chance.uniform(0.2, 1.0) * patience)
                if runner.is_alive() and kills < asked.kills:
                    runner.kill()
                status = runner_processes.end(runner)
                if status == 0:
                    break
                assert status == -signal.SIGKILL, f"ended with {status}"
                kills += 1
            found = archive_builder.snapshot(archive)
            differing = [name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)]
            assert not differing, f"archive {archives} differs in {differing}"
            assert not list(archive.rglob("*.unfinished"))
            print(f"archive {archives} is right after {kills} kills", flush=True)
        print(f"{kills} kills in {archives} archives: tars byte for byte, and rows, those of an undisturbed run")


if __name__ == "__main__":
    main()
