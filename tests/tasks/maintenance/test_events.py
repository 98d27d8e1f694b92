"""What happened to an archive comes out as PREMIS 3: whole, the same each time, and without a redacted key."""

import re
import shutil
import subprocess
import sys
import urllib.parse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from codec.errors import ArchiveError
from flows.archive import app
from tasks.archive import layout, log, report
from tasks.compress.runs import close_run
from tasks.maintenance import compaction, forget, holds, premis, upgrade
from tasks.maintenance.audit import audit
from tasks.maintenance.events import events
from tasks.storage.store import Store
from tests.support.archive_builder import folder, pack, png
from tests.support.codecless_archives import make
from tests.support.format1_archives import as_format_1
from tests.support.maintenance_runs import RUNS

XSI = "{http://www.w3.org/2001/XMLSchema-instance}"
SCHEMA: dict[str, Sequence[str]] = {
    "premis": ("object+", "event*", "agent*"),
    "object": ("objectIdentifier+",),
    "objectIdentifier": ("objectIdentifierType", "objectIdentifierValue"),
    "event": (
        *("eventIdentifier", "eventType", "eventDateTime", "eventDetailInformation*"),
        *("eventOutcomeInformation*", "linkingAgentIdentifier*", "linkingObjectIdentifier*"),
    ),
    "eventIdentifier": ("eventIdentifierType", "eventIdentifierValue"),
    "eventDetailInformation": ("eventDetail?",),
    "eventOutcomeInformation": ("eventOutcome?", "eventOutcomeDetail*"),
    "eventOutcomeDetail": ("eventOutcomeDetailNote?",),
    "linkingAgentIdentifier": ("linkingAgentIdentifierType", "linkingAgentIdentifierValue"),
    "linkingObjectIdentifier": ("linkingObjectIdentifierType", "linkingObjectIdentifierValue"),
    "agent": ("agentIdentifier+", "agentName*", "agentType?", "agentVersion?"),
    "agentIdentifier": ("agentIdentifierType", "agentIdentifierValue"),
}
"""The semantic units of PREMIS 3 that are used: what each holds in which order, `?`, `+` and `*` as in patterns."""


def tag(element: ElementTree.Element) -> str:
    namespace, _, name = element.tag[1:].partition("}")
    assert namespace == "http://www.loc.gov/premis/v3"
    return name


def check(element: ElementTree.Element) -> None:
    """Check an element and its children against the schema; an element without children must have text."""
    if (units := SCHEMA.get(tag(element))) is None:
        assert not len(element) and (element.text or "").strip(), tag(element)
        return
    pattern = "".join(f"(?:{unit.rstrip('?+*')} ){unit[len(unit.rstrip('?+*')) :]}" for unit in units)
    assert re.fullmatch(pattern, "".join(f"{tag(child)} " for child in element)), tag(element)
    for child in element:
        check(child)


def exported(store: Store, tmp_path: Path) -> ElementTree.Element:
    """The document of an archive's events, checked against the schema."""
    premis.export(store, tmp_path / "events.xml")
    document = ElementTree.parse(tmp_path / "events.xml").getroot()
    check(document)
    assert document.get("version") == "3.0"
    assert [entity.get(f"{XSI}type") for entity in document if tag(entity) == "object"] == ["intellectualEntity"]
    return document


def texts(element: ElementTree.Element, name: str) -> list[str]:
    return [found.text or "" for found in element.iter(f"{{{premis.NAMESPACE}}}{name}")]


def told(document: ElementTree.Element) -> list[tuple[str, str, dict[str, str]]]:
    """The type, outcome and objects of each event."""
    found = []
    for event in (element for element in document if tag(element) == "event"):
        kinds = [kind.removeprefix("fdcodec ") for kind in texts(event, "linkingObjectIdentifierType")]
        objects = dict(zip(kinds, texts(event, "linkingObjectIdentifierValue"), strict=True))
        [term], [outcome] = texts(event, "eventType"), texts(event, "eventOutcome")
        found.append((term, outcome, objects))
    return found


def test_every_event_has_the_mandatory_units_terms_of_the_vocabulary_and_agents_that_are_described(
    tmp_path: Path, fake_bundle: Path, children_are_played_here: None
) -> None:
    source = folder(tmp_path / "s", {"a.png": png(1), "b.png": png(2), "text.txt": b"no picture", "again.png": png(1)})
    pack(source, tmp_path / "a", fake_bundle)
    store = Store(str(tmp_path / "a"))
    holds.hold(store, "a.png", "a court asked")
    holds.release(store, "a.png")
    forget.forget(store, ["b.png"])
    document = exported(store, tmp_path)
    events = told(document)
    counts = Counter(term for term, _, _ in events)
    assert counts == {"creation": 1, "ingestion start": 1, "ingestion": 4, "compression": 1, "ingestion end": 1,
                      "policy assignment": 2, "deletion": 1}  # fmt: skip
    assert [objects["key"] for term, _, objects in events if term == "deletion"] == ["b.png"]
    [compressed] = [objects for term, _, objects in events if term == "compression"]
    [row] = report.query(store, "FROM rows WHERE status = 'compressed' AND duplicate_of IS NULL")
    assert compressed == {"run": "000001", "key": row["key"], "object": row["tar"]}
    identifiers = texts(document, "eventIdentifierValue")
    assert len(set(identifiers)) == len(identifiers) == len(events)
    times = texts(document, "eventDateTime")
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", time) for time in times)
    described = set(zip(texts(document, "agentIdentifierType"), texts(document, "agentIdentifierValue"), strict=True))
    named = set(
        zip(texts(document, "linkingAgentIdentifierType"), texts(document, "linkingAgentIdentifierValue"), strict=True)
    )
    assert named == described
    plan = log.plan(store, log.read(store), 1)
    assert described == {
        ("fdcodec software", f"fdcodec {plan.package_version}"),
        ("fdcodec bundle", plan.bundle_id),
    }
    for event in document.iter(f"{{{premis.NAMESPACE}}}eventType"):
        assert event.get("authorityURI") == "http://id.loc.gov/vocabulary/preservation/eventType"
        assert re.fullmatch(r"http://id.loc.gov/vocabulary/preservation/eventType/[a-z]{3}", event.get("valueURI", ""))


def test_audits_repairs_closed_runs_and_an_upgrade_are_events(tmp_path: Path) -> None:
    made = make(tmp_path / "a", RUNS[:2], seal=False)
    made.remove(layout.part(2, 1))
    close_run(made, 2, "the bucket is gone")
    store = as_format_1(tmp_path / "a")
    before = told(exported(store, tmp_path))
    assert Counter(term for term, _, _ in before) == {"ingestion": 8}
    assert [objects["key"] for _, outcome, objects in before if outcome == "fail"] == ["e"]
    upgrade.upgrade(store)
    assert told(exported(store, tmp_path)) == [*before, ("migration", "success", {"archive": "made"})]
    mirror = Path(shutil.copytree(tmp_path / "a", tmp_path / "mirror"))
    store.remove(layout.part(1, 0))
    audit(store.url)
    with pytest.raises(ArchiveError, match=r"part-000000\.parquet: missing"):
        premis.export(store, tmp_path / "none.xml")
    assert list(tmp_path.glob("*none.xml*")) == []
    audit(store.url, repair_from=str(mirror))
    audit(store.url)
    part = {"object": layout.part(1, 0)}
    after = [
        (term, outcome, {kind: name for kind, name in objects.items() if "audits/" not in name})
        for term, outcome, objects in told(exported(store, tmp_path))[len(before) + 1 :]
    ]
    assert after == [
        ("fixity check", "fail", {"archive": "made"}),
        ("fixity check", "fail", part),
        ("fixity check", "warning", {"archive": "made"}),
        ("fixity check", "fail", part),
        ("recovery", "success", part),
        ("fixity check", "success", {"archive": "made"}),
    ]


def test_a_run_that_was_closed_says_so(tmp_path: Path) -> None:
    store = make(tmp_path / "a", RUNS[:1], seal=False)
    store.remove(layout.part(1, 1))
    assert [term for term, _, _ in told(exported(store, tmp_path))] == [
        "creation",
        "ingestion start",
        *3 * ["ingestion"],
    ]
    close_run(store, 1, "the bucket is gone")
    document = exported(store, tmp_path)
    assert told(document)[-1] == ("ingestion end", "warning", {"run": "000001"})
    assert texts(document, "eventOutcomeDetailNote")[-1] == "closed without shards 1: the bucket is gone"


HOSTILE = (
    *("a&b <c> \"d\" 'e'.png", "]]>.png", "<!--.png", "</eventDetail>", "&amp;#0;.png", "line\nfeed.png", "\r\n.png"),
    *("control\x01\x1f.png", "del\x7f\x85.png", " blank ", "100%.png", "%0A.png", "\u2028.png", "\ufffe\uffff.png"),
    *("e\u0301.png", "\U0001f600/\u202e.png", "tab\t.png", "%\n%0A"),
)


def test_hostile_keys_come_back_from_the_document_as_they_were(tmp_path: Path) -> None:
    store = make(tmp_path / "a", [dict.fromkeys(HOSTILE, b"x")])
    document = exported(store, tmp_path)
    keys = []
    for link in document.iter(f"{{{premis.NAMESPACE}}}linkingObjectIdentifier"):
        kind, name = (unit.text or "" for unit in link)
        if kind == "fdcodec key, percent-encoded":
            keys.append(urllib.parse.unquote(name))
        elif kind == "fdcodec key":
            keys.append(name)
    assert sorted(keys) == sorted(HOSTILE)


def test_a_redacted_key_appears_by_its_pseudonym_alone(tmp_path: Path) -> None:
    store = make(tmp_path / "a", [{"Jane Doe.png": b"jane", "a": b"aaa"}, {"Jane Doe.png": b"doe"}])
    holds.hold(store, "Jane Doe.png", "a court asked")
    holds.release(store, "Jane Doe.png")
    audit(store.url)
    assert any("Jane" in str(objects) for _, _, objects in told(exported(store, tmp_path)))
    forget.forget(store, ["Jane Doe.png"], redact=True)
    document = exported(store, tmp_path)
    written = (tmp_path / "events.xml").read_text()
    assert "Jane" not in written and "Doe" not in written
    terms = Counter(term for term, _, objects in told(document) if objects.get("key", "").startswith("redacted/"))
    assert terms == {"ingestion": 2, "policy assignment": 2, "deletion": 1, "redaction": 1}


def test_the_same_archive_gives_the_same_bytes_in_a_file_and_on_standard_output(tmp_path: Path) -> None:
    store = make(tmp_path / "a", RUNS)
    named = CliRunner().invoke(app, ["events", store.url, "--output", str(tmp_path / "1.xml")])
    assert (named.exit_code, named.output) == (0, "")
    compaction.compact(store)
    shown = CliRunner().invoke(app, ["events", str(tmp_path / "a")])
    assert shown.stdout_bytes == (tmp_path / "1.xml").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.xml", "a"]
    refused = CliRunner().invoke(app, ["events", str(tmp_path / "nothing")])
    assert refused.exit_code == 1 and "no archive here" in refused.output


def test_a_foreign_file_among_the_audits_is_no_event(tmp_path: Path) -> None:
    make(tmp_path / "a", RUNS)
    before = list(events(Store(str(tmp_path / "a"))))
    (tmp_path / "a" / "audits").mkdir()
    (tmp_path / "a" / "audits" / "notes.txt").write_text("mine")
    assert list(events(Store(str(tmp_path / "a")))) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_behind_standard_output_is_one_line(tmp_path: Path) -> None:
    make(tmp_path / "a", RUNS)
    command = [sys.executable, "-m", "flows.archive", "events", str(tmp_path / "a")]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: cannot write to standard output: No space left on device\n"
