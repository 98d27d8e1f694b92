"""The page on the archive's format names every object that an archive has, and no other."""

import re
from pathlib import Path

import tasks.archive
from tasks.archive import layout, log
from tasks.maintenance import compaction, holds
from tasks.maintenance.audit import audit
from tasks.maintenance.forget import forget
from tasks.processes.codec_process import Models
from tasks.storage.store import Store
from tests.support.archive_builder import folder, pack, png
from tests.support.fake_codec import FAKE

PAGE = Path(tasks.archive.__file__).with_name("archive-format.md").read_text()
PLACEHOLDERS = {
    **{"run": r"\d{6}", "shard": r"\d{6}", "hash": "[0-9a-f]{64}", "h16": "[0-9a-f]{16}", "n": r"\d{9}"},
    **{"k": r"\d{6}", "number": r"\d+", "index": r"\d{6}", "bundle id": "[0-9a-f]{64}", "time": r"\d{8}T\d{12}Z"},
}
ON_A_BUCKET_ALONE = ("places/<h16>.json", "places/claim")
WITH_A_FOREIGN_BACKBONE_ALONE = ("escrow/backbones/<hash>/...",)
OF_A_COMMAND_ALONE = ("reports/...",)


def patterns() -> dict[str, re.Pattern[str]]:
    """The names of the page's first table, each as a pattern."""
    section = PAGE.partition("## Objects")[2].partition("##")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    names = [name for row in rows for name in re.findall("`([^`]+)`", row)]
    found = {}
    for name in names:
        pieces = re.split(r"<([^>]+)>", name)
        literal, held = pieces[::2], pieces[1::2]
        text = re.escape(literal[0])
        for placeholder, after in zip(held, literal[1:], strict=True):
            text += PLACEHOLDERS[placeholder] + re.escape(after)
        found[name] = re.compile(text.replace(r"\.\.\.", ".+") + "$")
    return found


def test_every_object_of_an_archive_is_on_the_page_and_everything_on_the_page_is_in_an_archive(
    tmp_path: Path, fake_bundle: Path, children_are_played_here: None
) -> None:
    archive = tmp_path / "a"
    source = folder(tmp_path / "s", {"a.png": png(1), "b.png": png(2), "c.png": png(3), "d.png": png(4)})
    pack(source, archive, fake_bundle)
    store = Store(str(archive))
    holds.hold(store, "a.png", "a court asked")
    forget(store, ["b.png"])
    folder(source, {"e.png": png(5)})
    pack(source, archive, fake_bundle)
    compaction.compact(store, afresh=True)
    audit(store.url, models=Models("", threads=1, codec=FAKE))
    there = sorted(item.name for item in store.list())
    named = {name: [item for item in there if pattern.match(item)] for name, pattern in patterns().items()}
    elsewhere = (*ON_A_BUCKET_ALONE, *WITH_A_FOREIGN_BACKBONE_ALONE, *OF_A_COMMAND_ALONE)
    assert [name for name, found in named.items() if not found and name not in elsewhere] == []
    for item in there:
        assert [name for name, found in named.items() if item in found], f"{item} is not on the page"
    kinds = {str(kind) for kind in re.findall(r"`(\w+)`", PAGE.partition("Kinds of records:")[2].partition("##")[0])}
    written = {store.read(layout.record(number)).split(b'"kind": "')[1].split(b'"')[0].decode()
               for number in range(1, log.number(store) + 1)}  # fmt: skip
    assert written | {"release", "upgrade"} == kinds


def test_the_page_is_in_the_escrow(packed_once: tuple[Path, Path]) -> None:
    [kept] = packed_once[1].glob("escrow/software/*/archive-format.md")
    assert kept.read_text() == PAGE


def test_its_fields_are_those_of_the_head() -> None:
    section = PAGE.partition("| field of `head` |")[2].partition("\n\n")[0]
    fields = {name for line in section.splitlines()[2:] for name in re.findall(r"`(\w+)`", line.split("|")[1])}
    assert fields == set(log.ArchiveHead.__dataclass_fields__) - {"record"}
