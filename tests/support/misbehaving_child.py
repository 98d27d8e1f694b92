"""A child process for the tests of tasks.processes.child: it echoes, or dies in the way asked for."""

import os
import resource
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codec.errors import BundleError
from tasks.processes.child import Child, Frame, Handler, serve
from tasks.processes.requests import Request, read

ATTEMPTS = (
    "environment of the parent",
    "credentials",
    "writing into the archive",
    "removing a file",
    "loopback",
    "a socket of the system",
    "killing the parent",
    "its own folder",
    "its libraries",
    "its home",
)
"""What a stranger's picture would try that had taken over its decoder; the last three are allowed."""


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
    # Tells the test that the request has come, before the process dies of it.
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
        return _surroundings(request.places), b""
    if fault == "eat":
        eaten = b"x" * request.bytes_to_eat
        # Held until the parent, which looks now and then, has seen how much memory is in use.
        while request.hold:
            time.sleep(0.1)
        return {"length": len(eaten)}, b""
    if fault == "nap":
        time.sleep(0.5)
    while fault == "hang":
        time.sleep(1)
    return {"length": len(payload)}, payload


def _surroundings(places: dict[str, Any]) -> dict[str, Any]:
    """The limits of this process, what the kernel says of it, and what it may reach."""
    limits = {}
    for name in ("CORE", "NOFILE", "AS"):
        limits[name] = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[0]
    seen = {attempt: _outcome(attempt, places) for attempt in ATTEMPTS}
    return {"limits": limits, "status": _text(Path("/proc/self/status")), "seen": seen}


def _outcome(attempt: str, places: dict[str, Any]) -> str:
    try:
        _try(attempt, places)
    except OSError as error:
        return type(error).__name__
    return "granted"


def _try(attempt: str, places: dict[str, Any]) -> None:
    """Do one of ATTEMPTS; an OSError says that the system refused it."""
    match attempt:
        case "environment of the parent":
            Path(f"/proc/{os.getppid()}/environ").read_bytes()
        case "credentials":
            Path(places["credentials"]).read_text()
        case "writing into the archive":
            Path(places["archive"], "x").write_text("x")
        case "removing a file":
            Path(places["credentials"]).unlink()
        case "loopback":
            socket.create_connection(("127.0.0.1", places["port"]), timeout=5).close()
        case "a socket of the system":
            socket.socket(socket.AF_UNIX).close()
        case "killing the parent":
            os.kill(os.getppid(), 0)  # signal 0 only asks whether it may
        case "its own folder":
            Path(os.environ["HOME"], "x").write_text("x")
        case "its libraries":
            Path(os.__file__).read_bytes()
        case "its home":
            list(Path(os.environ["HOME"]).iterdir())
        case _:
            raise ValueError(attempt)


def _text(file: Path) -> str:
    """The content of a file of /proc, or nothing on a system without it."""
    return file.read_text() if file.exists() else ""


def prepare() -> tuple[dict[str, Any], Handler]:
    if "--refuse" in sys.argv:
        raise BundleError("no such bundle")
    if "--break" in sys.argv:
        sys.exit(1)
    greeting = {
        "pid": os.getpid(),
        "threads": os.environ["OMP_NUM_THREADS"],
        "environment": sorted(os.environ),
        "oom_score_adj": _text(Path("/proc/self/oom_score_adj")).strip(),
    }
    return greeting, handle


def hang_in_child(seconds: float = 1, begun: str = "") -> None:
    """Print the pid of a child, then ask it to hang; it makes the file `begun` when it does."""
    with Child("tests.support.misbehaving_child", [], 1) as child:
        print(child.greeting()["pid"], flush=True)
        child.ask(Misbehave("hang", begun), seconds=seconds)


if __name__ == "__main__":
    serve(prepare)
