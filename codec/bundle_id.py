"""Where the embedded bundles are, and the id of a bundle. Imports no torch."""

import hashlib
import json
from pathlib import Path
from typing import Any

EMBEDDED = Path(__file__).parent / "bundles"
DEFAULT_BUNDLE = EMBEDDED / "mini"
CONFIG = "bundle.json"


def digest(data: Any) -> str:
    """The id of a bundle: SHA-256 of the canonical JSON of its configuration, as written.

    Not of the dataclass that is built from it: a new setting would change the id of every bundle.
    """
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
