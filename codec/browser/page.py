"""The files of the page."""

from pathlib import Path

FOLDER = Path(__file__).parent / "script"
