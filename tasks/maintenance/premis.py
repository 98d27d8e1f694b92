"""Streams preservation events as PREMIS 3 XML."""

import os
import re
import sys
from collections.abc import Iterable
from operator import attrgetter
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

from codec.errors import SettingsError
from tasks.archive import layout, manifest
from tasks.maintenance.events import Agent, Event, events
from tasks.storage.store import Store

NAMESPACE = "http://www.loc.gov/premis/v3"
VOCABULARY = "http://id.loc.gov/vocabulary/preservation"
_XSI = "http://www.w3.org/2001/XMLSchema-instance"

_CODES = {
    "eventType": {
        "compression": "com",
        "creation": "cre",
        "deletion": "del",
        "fixity check": "fix",
        "ingestion": "ing",
        "ingestion end": "ine",
        "ingestion start": "ins",
        "migration": "mig",
        "policy assignment": "poa",
        "recovery": "rec",
        "redaction": "red",
    },
    "eventOutcome": {"success": "suc", "fail": "fai", "warning": "war"},
}
"""Event types of the Library of Congress, with their codes."""

_NOT_PLAIN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
"""Characters that XML 1.0 cannot contain, or that its readers change."""


def export(archive: Store, output: Path | None) -> None:
    """Writes the events of an archive to standard output or to a file, which appears only when complete."""
    about = manifest.from_json(archive.read(layout.ARCHIVE), archive.uri(layout.ARCHIVE))
    name = str(about.get("name", ""))
    if output is None:
        try:
            write(name, events(archive), sys.stdout.buffer)
            sys.stdout.buffer.flush()
        except OSError as error:
            raise SettingsError(f"cannot write to standard output: {error.strerror}") from error
        return
    # hidden and with the process's number: two exports to one file do not mix
    temporary = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            write(name, events(archive), file)
        temporary.replace(output)
    except OSError as error:
        raise SettingsError(f"cannot write {output}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write(archive: str, history: Iterable[Event], target: IO[bytes]) -> None:
    """Writes a PREMIS document with the events of an archive and their agents.

    The archive is the only object, an intellectualEntity; events refer to it, to runs, keys and stored objects.
    """
    head = f'<?xml version="1.0" encoding="UTF-8"?>\n<premis xmlns="{NAMESPACE}" xmlns:xsi="{_XSI}" version="3.0">\n'
    target.write(head.encode())
    entity = ElementTree.Element("object", {"xsi:type": "intellectualEntity"})
    _identify(entity, "object", "archive", archive)
    _put(entity, target)
    # PREMIS has agents after events, so they are collected while events are streamed
    agents = set[Agent]()
    for event in history:
        _put(_event(event), target)
        agents.update(event.agents)
    for agent in sorted(agents, key=attrgetter("kind", "value")):
        _put(_agent(agent), target)
    target.write(b"</premis>\n")


def _event(event: Event) -> ElementTree.Element:
    element = ElementTree.Element("event")
    identifier = ElementTree.SubElement(element, "eventIdentifier")
    _add(identifier, "eventIdentifierType", "UUID")
    _add(identifier, "eventIdentifierValue", str(event.id))
    _term(element, "eventType", event.type)
    _add(element, "eventDateTime", event.time.strftime("%Y-%m-%dT%H:%M:%SZ"))
    _add(ElementTree.SubElement(element, "eventDetailInformation"), "eventDetail", event.detail)
    outcome = ElementTree.SubElement(element, "eventOutcomeInformation")
    _term(outcome, "eventOutcome", event.outcome)
    if event.note:
        _add(ElementTree.SubElement(outcome, "eventOutcomeDetail"), "eventOutcomeDetailNote", event.note)
    for agent in event.agents:
        _identify(element, "linkingAgent", agent.kind, agent.value)
    for kind, name in event.objects:
        _identify(element, "linkingObject", kind, name)
    return element


def _agent(agent: Agent) -> ElementTree.Element:
    element = ElementTree.Element("agent")
    _identify(element, "agent", agent.kind, agent.value)
    name = "codec bundle"
    version = ""
    if agent.kind == "software":
        name, _, version = agent.value.partition(" ")
    _add(element, "agentName", name)
    _add(element, "agentType", "software")
    if version:
        _add(element, "agentVersion", version)
    return element


def _identify(parent: ElementTree.Element, what: str, kind: str, name: str) -> None:
    """Writes an identifier. Names with characters that XML cannot contain are percent-encoded, as their type states."""
    identifier_type = f"fdcodec {kind}"
    # readers of XML strip blanks at both ends
    is_plain = _NOT_PLAIN.search(name) is None and name == name.strip()
    if not is_plain:
        identifier_type += ", percent-encoded"
        name = _encoded(name.replace("%", "%25"))
    element = ElementTree.SubElement(parent, f"{what}Identifier")
    _add(element, f"{what}IdentifierType", identifier_type)
    _add(element, f"{what}IdentifierValue", name)


def _encoded(text: str) -> str:
    """Percent-encodes the UTF-8 of characters that XML cannot contain, and of leading and trailing blanks."""
    text = _NOT_PLAIN.sub(lambda found: _escapes(found[0]), text)
    inner = text.strip()
    if not inner:
        return _escapes(text)
    before, _, after = text.partition(inner)
    return _escapes(before) + inner + _escapes(after)


def _escapes(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode("utf-8", "surrogatepass"))


def _term(parent: ElementTree.Element, vocabulary: str, term: str) -> None:
    uri = f"{VOCABULARY}/{vocabulary}"
    about = {"authority": vocabulary, "authorityURI": uri, "valueURI": f"{uri}/{_CODES[vocabulary][term]}"}
    ElementTree.SubElement(parent, vocabulary, about).text = term


def _add(parent: ElementTree.Element, name: str, text: str) -> None:
    ElementTree.SubElement(parent, name).text = _encoded(text) if text else text


def _put(element: ElementTree.Element, target: IO[bytes]) -> None:
    ElementTree.indent(element)
    target.write(ElementTree.tostring(element, encoding="unicode").encode() + b"\n")
