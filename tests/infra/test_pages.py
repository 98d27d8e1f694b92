"""Pages say what is true: paths and links lead somewhere, code runs, the site builds, every room is described."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.archive.manifest import RunSettings
from tasks.compress.runs import compress
from tasks.processes.codec_process import Models

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / "README.md", ROOT / "infra" / "README.md", ROOT / "tests" / "README.md"),
    *sorted((ROOT / "infra" / "docs").glob("*.md")),
    *sorted((ROOT / ".github").glob("*.md")),
    ROOT / "tasks" / "archive" / "archive-format.md",
    ROOT / "infra" / "CHANGELOG.md",
    ROOT / "codec" / "bundles" / "mini" / "CARD.md",
]
EXAMPLES = [
    (page, number, block.partition("```")[0])
    for page in PAGES
    for number, block in enumerate(page.read_text().split("```python\n")[1:])
    if not page.is_symlink()
]
FLOORS = ("codec", "tasks", "flows", "infra", "tests")


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    folder = page.resolve().parent
    links = [link for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) if "://" not in link]
    assert [link for link in links if not (folder / link).exists()] == []
    named = re.findall(r"`((?:%s)/[\w./-]+\.(?:py|md|sh|toml|yaml))`" % "|".join(FLOORS), text)  # noqa: UP031
    assert [name for name in named if "NAME" not in name and not (ROOT / name).exists()] == []
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= headings(page).keys()


def headings(page: Path) -> dict[str, str]:
    """The headings of a page by their anchors."""
    found = [line.lstrip("# ").strip() for line in page.read_text().splitlines() if line.startswith("#")]
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-"): heading for heading in found}


def links(page: Path) -> list[tuple[str, Path, str]]:
    """The text, the page and the anchor of each link to a file."""
    found = re.findall(r"\[([^\]]+)\]\(([^)#\s]+)#?([^)\s]*)\)", page.read_text())
    return [(text, (page.parent / to).resolve(), anchor) for text, to, anchor in found if "://" not in to]


def test_ten_things_are_found_by_following_the_links_from_readme() -> None:
    contributing = ROOT / ".github" / "CONTRIBUTING.md"
    table = contributing.read_text().partition("| question | path | code |")[2].partition("\n\n")[0]
    questions = [line for line in table.splitlines() if "?" in line]
    assert len(questions) == 10
    from_readme = {(text, page) for text, page, _ in links(ROOT / "README.md")}
    assert contributing.resolve() in {page for _, page in from_readme}
    for line in questions:
        _, question, path, code, _ = line.split("|")
        (first, to), (heading, target) = re.findall(r"\[([^\]]+)\]\(([^)]+)\)", path)
        page, anchor = target.split("#")
        assert (first, (contributing.parent / to).resolve()) in from_readme, f"{question}: README has no link {first}"
        assert page == to and headings(contributing.parent / page)[anchor] == heading, question
        named = re.findall(r"`([\w./-]+/[\w./-]+)`", code)
        assert named and all((ROOT / name).is_file() for name in named), question


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the examples name: a photo, and an archive of another."""
    home = tmp_path_factory.mktemp("examples")
    (home / "photos" / "2024").mkdir(parents=True)
    pixels = np.linspace(0, 255, 64 * 64 * 3).astype(np.uint8).reshape(64, 64, 3)
    Image.fromarray(pixels).save(home / "photo.jpg")
    Image.fromarray(pixels[::-1]).save(home / "photos" / "2024" / "beach.jpg")
    settings = RunSettings(metrics=(), verify=False, max_failed_fraction=0.0)
    assert compress(str(home / "photos"), str(home / "ARCHIVE"), settings, models=Models("")).totals["compressed"] == 1
    (home / "tasks").symlink_to(ROOT / "tasks")
    return home


@pytest.mark.parametrize(
    ("page", "code"),
    [pytest.param(page, code, id=f"{page.relative_to(ROOT)} {number}") for page, number, code in EXAMPLES],
)
def test_code_in_the_pages_runs(page: Path, code: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    code = code.replace("s3://bucket/archive", str(place / "ARCHIVE"))
    exec(code.replace('connection.register_filesystem(fsspec.filesystem("s3"))', ""), {})


def test_there_is_code_to_run() -> None:
    assert len(EXAMPLES) >= 5


def test_the_site_builds_without_a_dead_link() -> None:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    built = subprocess.run(
        ["bash", str(ROOT / "infra" / "docs.sh")], env=environment, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    site = ROOT / built.stdout.strip().splitlines()[-1]
    assert "Codec" in (site.parent / "api.html").read_text()


def test_the_architecture_describes_every_room() -> None:
    text = (ROOT / "infra" / "docs" / "architecture.md").read_text()
    rooms = [path.parent.name for floor in ("codec", "tasks") for path in (ROOT / floor).glob("*/__init__.py")]
    assert len(rooms) > 15
    assert [room for room in rooms if f"`{room}`" not in text] == []
