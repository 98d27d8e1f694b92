"""python -m tests.benchmarks.format_mutations [--only TEXT ...]: do the golden files find a decoder's mistakes?

The mistakes of format_mutations.toml are planted in the source of the second decoder, one at a time. Each mutant
decodes the golden files of both versions, meets the files that must be refused, and computes the known answers, until a
result is not as stated. A mutant that passes everything survives. Prints a table, and ends with status 1 where a mutant
survives for which the list has no argument.
"""

import argparse
import hashlib
import json
import signal
import sys
import tarfile
import tempfile
import tomllib
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parents[1] / "golden"
DECODER = GOLDEN / "second_decoder.py"
MISTAKES = Path(__file__).with_suffix(".toml")
REFUSED_WITH = "parallel"
"""The kind of bundle that refused files name."""
SLOW = ("contents-of-2-26", "refused/contents-beyond-2-26", "match-near-the-dictionarys-size", "four-tiles")
"""Checks of half a second and more, which come last."""
LONGEST_CHECK = 30.0
"""Seconds after which a mutant is taken to go on for ever; the decoder itself needs two at most."""


@dataclass(frozen=True)
class Mistake:
    """A text of the decoder's source that gives way to another.

    `first`: the check that is tried first, being the cheapest that is known to find it. `argued`: why the mutant may
    survive.
    """

    name: str
    right: str
    wrong: str
    first: str | None = None
    argued: str = ""

    def planted(self, source: str) -> str:
        """The source with the mistake. Raises ValueError unless there is one place for it."""
        if source.count(self.right) != 1:
            raise ValueError(f"{self.name}: {self.right!r} occurs {source.count(self.right)} times, not once")
        return source.replace(self.right, self.wrong)


class Decoder:
    """A second decoder of any source. Its models are loaded when they are asked for."""

    def __init__(self, source: str, bundles: Path) -> None:
        self.module = types.ModuleType("mutant")
        exec(compile(source, "mutant", "exec"), self.module.__dict__)
        self._bundles = bundles
        self._models: dict[str, Any] = {}

    def model(self, kind: str) -> Any:
        if kind not in self._models:
            self._models[kind] = self.module.EntropyModel(self._bundles / kind)
        return self._models[kind]

    def decoded(self, data: bytes, kind: str) -> dict[str, Any]:
        """All that is stated about a file of version 2."""
        file = self.module.parse(data)
        symbols = self.module.decode(file, self.model(kind))
        return {
            "bundle": kind,
            "width": file.width,
            "height": file.height,
            "gray": file.gray,
            "orientation": file.orientation,
            "symbols": hashlib.sha256(symbols.astype("<i4").tobytes()).hexdigest(),
            "chunks": {tag: [hashlib.sha256(own).hexdigest() for own in many] for tag, many in file.chunks.items()},
            "skipped": list(file.skipped),
        }


Check = Callable[[Decoder], bool]
"""Whether a decoder does what it must; an exception says that it does not."""


def checks(kinds: Iterable[str]) -> dict[str, Check]:
    """All checks by name, the quick ones first."""
    version_2 = json.loads((GOLDEN / "version2" / "expected.json").read_text())
    version_1 = json.loads((GOLDEN / "symbols.json").read_text())
    found: dict[str, Check] = {}
    for name, expected in version_2["read"].items():
        found[name] = reads((GOLDEN / "version2" / f"{name}.fdc").read_bytes(), expected)
    for name in version_2["refused"]:
        found[f"refused/{name}"] = refuses((GOLDEN / "version2" / "refused" / f"{name}.fdc").read_bytes())
    for name, expected in version_1.items():
        found[name] = reads((GOLDEN / name).read_bytes(), in_words_of_version_2(expected))
    for kind in kinds:
        found[f"known answer of {kind}"] = knows(kind)
    quick = {name: check for name, check in found.items() if name not in SLOW}
    return quick | {name: found[name] for name in SLOW}


def reads(data: bytes, expected: Mapping[str, Any]) -> Check:
    return lambda decoder: decoder.decoded(data, expected["bundle"]) == expected


def refuses(data: bytes) -> Check:
    def check(decoder: Decoder) -> bool:
        model = decoder.model(REFUSED_WITH)
        try:
            decoder.module.decode(decoder.module.parse(data), model)
        except Exception:
            return True
        return False

    return check


def knows(kind: str) -> Check:
    def check(decoder: Decoder) -> bool:
        model = decoder.model(kind)
        return bool(decoder.module.known_answer(model) == model.known_answer)

    return check


def in_words_of_version_2(expected: Mapping[str, Any]) -> dict[str, Any]:
    """What symbols.json says of a file, as expected.json would."""
    names = {"ALPH": "alpha", "ICCP": "icc", "exIf": "exif"}
    chunks = {tag: [expected[name]] for tag, name in names.items() if expected[name]}
    fields = {name: expected[name] for name in ("bundle", "width", "height", "gray", "symbols")}
    return {**fields, "orientation": 1, "chunks": chunks, "skipped": []}


def in_order(wanted: Mapping[str, Check], first: str | None) -> Mapping[str, Check]:
    """The checks with one of them before all others."""
    return {first: wanted[first], **wanted} if first else wanted


def killer(decoder: Decoder, wanted: Mapping[str, Check]) -> str | None:
    """The first check that finds the decoder wrong, or without an end."""
    for name, check in wanted.items():
        # A mistake may make a loop endless, in code that asks nobody: only a signal ends it.
        signal.setitimer(signal.ITIMER_REAL, LONGEST_CHECK)
        try:
            right = check(decoder)
        except Exception:
            right = False
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if not right:
            return name
    return None


def give_up(*_: object) -> None:
    raise TimeoutError


def run(mistakes: Iterable[Mistake]) -> list[tuple[Mistake, str | None]]:
    """Each mistake and what found it. Raises ValueError where the decoder is wrong without any."""
    source = DECODER.read_text()
    signal.signal(signal.SIGALRM, give_up)
    with tempfile.TemporaryDirectory() as folder:
        bundles = Path(folder)
        with tarfile.open(GOLDEN / "bundles.tar.xz") as archive:
            archive.extractall(bundles, filter="data")
        wanted = checks(sorted(path.name for path in bundles.iterdir()))
        # Otherwise every mutant would be found by what is wrong already.
        wrong = killer(Decoder(source, bundles), wanted)
        if wrong:
            raise ValueError(f"the second decoder is wrong without a mistake: {wrong}")
        results = []
        for each in mistakes:
            mutant = Decoder(each.planted(source), bundles)
            results.append((each, killer(mutant, in_order(wanted, each.first))))
        return results


def listed(only: Iterable[str] = ()) -> list[Mistake]:
    """The mistakes of the list, or those whose name has one of some texts."""
    texts = list(only)
    mistakes = [Mistake(**entry) for entry in tomllib.loads(MISTAKES.read_text())["mistake"]]
    return [each for each in mistakes if not texts or any(text in each.name for text in texts)]


def main() -> int:
    """Run and print a table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--only", nargs="*", default=[], metavar="TEXT", help="mistakes whose name has one of these")
    results = run(listed(options.parse_args().only))
    survivors = [each for each, found_by in results if found_by is None]
    print(f"{len(results) - len(survivors)} of {len(results)} mutants killed.\n")
    print("| mistake | found by |\n|---|---|")
    for each, found_by in results:
        print(f"| {each.name} | {found_by or 'survives: ' + (each.argued or 'no argument')} |")
    return 1 if any(not each.argued for each in survivors) else 0


if __name__ == "__main__":
    sys.exit(main())
