"""A child process for the tests of tasks.processes.child: it echoes, or dies in the way asked for."""

import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

from codec.errors import BundleError
from tasks.processes.child import Child, Frame, Handler, serve


def handle(header: dict[str, Any], payload: bytes) -> Frame:
    fault = header["do"]
    if begun := header.get("begun"):
        Path(begun).touch()
    if fault == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "end":
        os.kill(os.getpid(), signal.SIGTERM)
    if fault == "exit":
        os._exit(3)
    if fault == "print":
        print("a line on standard output")
        os.write(1, b"another, past Python's own buffer\n")
    if fault == "eat":
        eaten = b"x" * header["bytes_to_eat"]
        time.sleep(1)
        return {"length": len(eaten)}, b""
    if fault == "nap":
        time.sleep(0.5)
    while fault == "hang":
        time.sleep(1)
    return {"length": len(payload)}, payload


def prepare() -> tuple[dict[str, Any], Handler]:
    if "--refuse" in sys.argv:
        raise BundleError("no such bundle")
    if "--break" in sys.argv:
        sys.exit(1)
    score = Path("/proc/self/oom_score_adj")
    return {
        "pid": os.getpid(),
        "threads": os.environ["OMP_NUM_THREADS"],
        "environment": sorted(os.environ),
        "status": Path("/proc/self/status").read_text() if score.exists() else "",
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "oom_score_adj": score.read_text().strip() if score.exists() else "",
    }, handle


def hang_in_child(seconds: float = 1, begun: str = "") -> None:
    """Print the pid of a child, then ask it to hang; it makes the file `begun` when it does."""
    with Child("tests.support.misbehaving_child", [], 1) as child:
        print(child.greeting()["pid"], flush=True)
        child.ask({"do": "hang", "begun": begun}, seconds=seconds)


if __name__ == "__main__":
    serve(prepare)
