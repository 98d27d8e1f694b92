"""The card of the embedded bundle says what the bundle is: its id, its hashes, and all that a stranger asks."""

import json
import math
import re
import struct
from pathlib import Path

from codec.bundle import Bundle
from codec.bundle_id import DEFAULT_BUNDLE

ROOT = Path(__file__).parents[2]
CARD = (DEFAULT_BUNDLE / "CARD.md").read_text()
SECTIONS = ["What it is", "Intended use", "Data and licenses", "Recipe", "Figures", "Limits", "Files and hashes"]


def cells(text: str) -> list[list[str]]:
    """The rows of the tables in a text."""
    lines = (line for line in text.splitlines() if line.startswith("|"))
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]


def test_it_has_every_section_of_a_model_card() -> None:
    assert re.findall("^## (.+)$", CARD, re.MULTILINE) == SECTIONS


def test_it_names_the_id_and_every_file_with_its_hash() -> None:
    bundle = Bundle.open(DEFAULT_BUNDLE)
    assert ["bundle id", bundle.id] in cells(CARD)
    document = json.loads((DEFAULT_BUNDLE / "bundle.json").read_text())
    listed = cells(CARD.partition("## Files and hashes")[2])[2:]
    assert dict(listed) == document["files"]
    assert document["backbone_hash"] in CARD


def test_the_parameters_that_it_counts_are_those_of_the_files() -> None:
    counted = {
        "autoencoder": "backbone/vae/",
        "U-Net": "backbone/unet/",
        "entropy model": "entropy",
        "encoder": "encoder",
    }
    stated = {row[0]: row[2] for row in cells(CARD.partition("## What it is")[2].partition("## ")[0])[2:]}
    total = 0
    for part, start in counted.items():
        [path] = [
            path for path in DEFAULT_BUNDLE.rglob("*.safetensors") if f"{path}".startswith(f"{DEFAULT_BUNDLE / start}")
        ]
        data = path.read_bytes()
        header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
        own = sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
        assert stated[part] == f"{own / 1e6:.1f} million"
        total += own
    assert f"{total / 1e6:.1f} million parameters" in CARD


def test_its_figures_on_kodak_are_those_that_are_recorded() -> None:
    recorded = (ROOT / "tests" / "benchmarks" / "results" / "kodak.md").read_text()
    name = f"fdcodec-{Bundle.open(DEFAULT_BUNDLE).id[:8]}"
    points = {
        row[1].removeprefix("setting "): row[3:10] for row in cells(recorded) if row[0] == name and len(row) == 12
    }
    assert points, f"{name} is not recorded"
    table = cells(CARD.partition("Kodak, 24 photos")[2].partition("\n## ")[0])[2:]
    assert {row[0]: row[1:] for row in table} == points
