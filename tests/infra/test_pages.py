"""Pages name what there is: every path in them exists, every link leads somewhere, every room is described."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / "README.md", ROOT / "infra" / "README.md", ROOT / "tests" / "README.md"),
    *sorted((ROOT / "infra" / "docs").glob("*.md")),
    *sorted((ROOT / ".github").glob("*.md")),
    ROOT / "tasks" / "archive" / "archive-format.md",
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
    anchors = {re.sub(r"[^\w -]", "", line.lstrip("# ")).strip().lower().replace(" ", "-")
               for line in text.splitlines() if line.startswith("#")}  # fmt: skip
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors


def test_the_architecture_describes_every_room() -> None:
    text = (ROOT / "infra" / "docs" / "architecture.md").read_text()
    rooms = [path.parent.name for floor in ("codec", "tasks") for path in (ROOT / floor).glob("*/__init__.py")]
    assert len(rooms) > 15
    assert [room for room in rooms if f"`{room}`" not in text] == []
