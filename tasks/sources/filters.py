"""Selects sources by patterns of keys to include and to exclude."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

LITTER = (".DS_Store", "Thumbs.db", "desktop.ini", "._*", "@eaDir", ".Spotlight-V100", ".Trashes", "$RECYCLE.BIN")
"""Files that operating systems add to folders. A name also matches a folder and everything below it."""
_EXTENSIONS = """
    3gp aae avi csv db doc docx htm html ini json lnk log m4a m4v md mkv mov mp3 mp4 mpg mts pdf ppt pptx rtf srt txt
    wav webm wmv xls xlsx xml xmp zip
"""
NON_IMAGES = tuple(f"*.{extension}" for extension in _EXTENSIONS.split())
"""File names of videos, sidecars, texts and documents."""
NOT_INCLUDED = "(not included)"


@dataclass(frozen=True)
class Filter:
    """Selects keys that match a pattern of `include` (all if empty) and none of `exclude`.

    A pattern without a slash is matched against each part of a key, one with a slash against the whole key. Patterns
    are shell patterns and case-sensitive, except NON_IMAGES.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = LITTER
    non_images: bool = True

    def left_aside(self, key: str) -> str | None:
        """Returns the pattern that excludes a key; None if the key is selected."""
        parts = key.split("/")
        for pattern in self.exclude:
            if _matches(pattern, key, parts):
                return pattern
        if not self.non_images:
            name = parts[-1].lower()
            for pattern in NON_IMAGES:
                if fnmatchcase(name, pattern):
                    return pattern
        if self.include and not any(_matches(pattern, key, parts) for pattern in self.include):
            return NOT_INCLUDED
        return None


def _matches(pattern: str, key: str, parts: Sequence[str]) -> bool:
    # Not fnmatch, which ignores case on some systems: a run must select the same keys everywhere.
    if "/" in pattern:
        return fnmatchcase(key, pattern)
    return any(fnmatchcase(part, pattern) for part in parts)
