"""Every direct dependency stands in the table of licenses with the license that it states itself."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NEEDED = [re.split(r"[^\w.-]", line)[0] for line in PROJECT["dependencies"]]
EXTRAS = {
    re.split(r"[^\w.-]", line)[0]: extra for extra, lines in PROJECT["optional-dependencies"].items() for line in lines
}
PERMISSIVE = {"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "MIT", "MIT-CMU"}
SAID = {
    "Apache-2.0": r"apache",
    "BSD-2-Clause": r"bsd",
    "BSD-3-Clause": r"bsd",
    "MIT": r"\bmit\b",
    "MIT-CMU": r"mit-cmu",
}
"""How a package's metadata, which is free text in many, says that it is under a license."""


def table() -> dict[str, list[str]]:
    """The cells behind each name in the first column of the tables."""
    lines = (ROOT / "codec" / "LICENSES.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {name: cells for name, *cells in rows}


def license(name: str) -> str:
    """The license that the table states, without what it says about it."""
    return re.split(r"[;:]", table()[name][-1])[0]


@pytest.mark.parametrize("name", NEEDED)
def test_what_is_installed_with_the_package_is_permissive(name: str) -> None:
    assert set(license(name).split(" OR ")) & PERMISSIVE


@pytest.mark.parametrize("name", sorted(EXTRAS.keys() - set(NEEDED)))
def test_what_is_optional_is_named_with_its_extra_and_a_license(name: str) -> None:
    extra, stated = table()[name]
    assert EXTRAS[name] in extra.split(", ")
    if license(name) not in PERMISSIVE:
        assert len(stated) > len(license(name)) or "based" in stated


@pytest.mark.parametrize("name", NEEDED)
def test_the_table_says_what_the_package_says(name: str) -> None:
    metadata = importlib.metadata.metadata(name)
    own = [metadata.get("License-Expression"), metadata.get("License"), *metadata.get_all("Classifier", [])]
    said = "\n".join(line for line in own if line and (":" not in line or line.startswith("License")))
    assert any(re.search(SAID[one], said, re.IGNORECASE) for one in license(name).split(" OR ") if one in SAID)


def test_copyleft_is_never_a_default() -> None:
    for name in NEEDED:
        assert not re.search(r"(?<!GCC's runtime \()\b(A|L)?GPL", table()[name][-1])
