"""A child process for the tests of tasks.processes.child: it echoes, or dies in the way asked for."""

import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codec.errors import BundleError
from tasks.processes.child import Child, Frame, Handler, serve
from tasks.processes.requests import Request, read


@dataclass(frozen=True)
class Misbehave(Request):
    """What the child does with the request; by default it echoes the payload."""

    do = "misbehave"
    fault: str = "echo"
    begun: str = ""
    bytes_to_eat: int = 0
    hold: bool = False
    places: dict[str, Any] = field(default_factory=dict)


def handle(header: dict[str, Any], payload: bytes) -> Frame:
    request = read(header, Misbehave)
    fault = request.fault
    if request.begun:
        Path(request.begun).touch()
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
    if fault == "home":
        return {"home": os.environ["HOME"]}, b""
    if fault == "look":
        status = Path("/proc/self/status")
        limits = {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[0] for name in ("CORE", "NOFILE", "AS")}
        about = {"limits": limits, "status": status.read_text() if status.exists() else ""}
        return about | {"seen": {what: _tried(look) for what, look in looks(request.places).items()}}, b""
    if fault == "eat":
        eaten = b"x" * request.bytes_to_eat
        while request.hold:
            time.sleep(0.1)
        return {"length": len(eaten)}, b""
    if fault == "nap":
        time.sleep(0.5)
    while fault == "hang":
        time.sleep(1)
    return {"length": len(payload)}, payload


def looks(places: dict[str, Any]) -> dict[str, Callable[[], object]]:
    """What a stranger's picture would try that had taken over its decoder."""
    return {
        "environment of the parent": lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes(),
        "credentials": lambda: Path(places["credentials"]).read_text(),
        "writing into the archive": lambda: Path(places["archive"], "x").write_text("x"),
        "removing a file": lambda: Path(places["credentials"]).unlink(),
        "loopback": lambda: socket.create_connection(("127.0.0.1", places["port"]), timeout=5).close(),
        "a socket of the system": lambda: socket.socket(socket.AF_UNIX).close(),
        "killing the parent": lambda: os.kill(os.getppid(), 0),
        "its own folder": lambda: Path(os.environ["HOME"], "x").write_text("x"),
        "its libraries": lambda: Path(os.__file__).read_bytes()[:1],
        "its home": lambda: list(Path(os.environ["HOME"]).iterdir()),
    }


def _tried(look: Callable[[], object]) -> str:
    try:
        look()
    except OSError as error:
        return type(error).__name__
    return "granted"


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
        "oom_score_adj": score.read_text().strip() if score.exists() else "",
    }, handle


def hang_in_child(seconds: float = 1, begun: str = "") -> None:
    """Print the pid of a child, then ask it to hang; it makes the file `begun` when it does."""
    with Child("tests.support.misbehaving_child", [], 1) as child:
        print(child.greeting()["pid"], flush=True)
        child.ask(Misbehave("hang", begun), seconds=seconds)


if __name__ == "__main__":
    serve(prepare)
