"""Which sources an archive takes: patterns of keys to take, and to leave aside."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

LITTER = (".DS_Store", "Thumbs.db", "desktop.ini", "._*", "@eaDir", ".Spotlight-V100", ".Trashes", "$RECYCLE.BIN")
"""What operating systems leave beside pictures; a name here also stands for a folder and all below it."""
_EXTENSIONS = """
    3gp aae avi csv db doc docx htm html ini json lnk log m4a m4v md mkv mov mp3 mp4 mpg mts pdf ppt pptx rtf srt txt
    wav webm wmv xls xlsx xml xmp zip
"""
NON_IMAGES = tuple(f"*.{extension}" for extension in _EXTENSIONS.split())
"""Names of films, sidecars, texts and documents."""
NOT_INCLUDED = "(not included)"


@dataclass(frozen=True)
class Filter:
    """Keys that are taken: those that match a pattern of `include` (any where it is empty), and none of `exclude`.

    A pattern without a slash is held against each part of a key, one with a slash against the whole key. Patterns are
    those of the shell and tell upper from lower case, but for NON_IMAGES.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = LITTER
    non_images: bool = True

    def left_aside(self, key: str) -> str | None:
        """The pattern for which a key is left aside; None where it is taken."""
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
    if "/" in pattern:
        return fnmatchcase(key, pattern)
    return any(fnmatchcase(part, pattern) for part in parts)
