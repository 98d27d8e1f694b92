"""Waiting for what happens, however long a busy machine takes."""

import time
from collections.abc import Callable
from typing import Any

PATIENCE = 600.0
"""Seconds after which something is taken to never happen."""


def until(true: Callable[[], Any], what: str, seconds: float = PATIENCE, every: float = 0.1) -> Any:
    """Wait until something is true; returns it."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(every)
    return found
