"""What benchmarks of a codec on a folder of photos share: their arguments, which photos they take, and their page."""

import argparse
from collections.abc import Callable
from pathlib import Path

from codec import Codec
from codec.evaluation.experiments import spread


def run(name: str, heading: str, table: Callable[[Codec, list[Path]], str], *, photos: int) -> int:
    """Print `table` of some photos of the folder that is asked for, evenly spaced, and write it where that is asked."""
    options = argparse.ArgumentParser(prog=f"python -m tests.benchmarks.{name}", description=heading)
    options.add_argument("folder", type=Path)
    options.add_argument("--bundle", default="", help="folder of a trained codec; the embedded one if empty")
    options.add_argument("--photos", type=int, default=photos)
    options.add_argument("-o", "--output", type=Path)
    arguments = options.parse_args()
    codec = Codec.load(arguments.bundle or None)
    found = sorted(path for path in arguments.folder.iterdir() if path.is_file())
    chosen = spread(found, arguments.photos)
    text = f"# {heading}, bundle {codec.bundle.id[:8]}, {len(chosen)} photos\n\n"
    text += f"`python -m tests.benchmarks.{name} FOLDER --photos {arguments.photos}`\n\n{table(codec, chosen)}"
    print(text, end="")
    if arguments.output:
        arguments.output.write_text(text)
    return 0
