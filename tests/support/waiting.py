"""Waiting for what happens, however long a busy machine takes."""

import subprocess
import time
from collections.abc import Callable
from typing import Any

PATIENCE = 600.0
"""Seconds after which something is taken to never happen."""


def until(true: Callable[[], Any], what: str, seconds: float = PATIENCE, every: float = 0.1) -> Any:
    """Wait until something is true; returns it."""
    deadline = time.monotonic() + seconds
    while True:
        found = true()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(every)


def end(process: "subprocess.Popen[bytes]", patience: float = 60.0) -> None:
    """Tell a process to end, and wait; a worker of Prefect that is about to start a run goes on, and is killed."""
    process.terminate()
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
