"""A child process that answers one request at a time over pipes: a JSON line, then raw bytes, in both directions.

Untrusted pictures are decoded and encoded in such a process. Whatever it does on a request, even crash, affects only
that request. It limits its own time by an alarm, which also works after its parent has ended.
"""

import functools
import json
import logging
import os
import re
import select
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

from codec.errors import ArchiveError, FdcError
from codec.support.waiting import passive
from tasks.processes import confinement
from tasks.processes.requests import Request, RequestError

LOGGER = logging.getLogger(__name__)
START_SECONDS = 600.0
"""How long a child may take to load its models."""
GIVEN = re.compile(
    "PATH|LANG|LANGUAGE|LC_.*|TZ|OMP_.*|GOMP_.*|MKL_.*|KMP_.*|CUDA_.*|NVIDIA_.*|LD_LIBRARY_PATH|PYTHON.*|VIRTUAL_ENV"
    "|HF_HUB_OFFLINE|SSL_CERT_FILE|DO_NOT_TRACK|COVERAGE_.*"
)
"""Names of the environment variables passed to processes that decode untrusted pictures."""
CACHES = {"TORCH_HOME": "torch", "HF_HOME": "huggingface"}
"""Folders of downloaded models: the environment variable, and the default below ~/.cache."""
SPACE_BEYOND = 4 << 30
"""Bytes of address space that a child may map in addition to twice its memory limit."""
GRACE_SECONDS = 30.0
"""How long the parent waits beyond the child's own time limit."""
END_SECONDS = 10.0
"""How long a child that no longer answers may take to end."""
WATCH_SECONDS = 0.1
"""How often the memory of a busy child is checked."""
TOLD_TO_END = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
"""Signals from outside, which say nothing about the picture at work."""
Frame = tuple[dict[str, Any], bytes]
Handler = Callable[[dict[str, Any], bytes], Frame]


class ChildDied(Exception):
    """The child ended instead of answering; `reason` is timeout, killed or crashed."""

    def __init__(self, status: int, greedy: bool = False, *, late: bool = False) -> None:
        self.reason = {-signal.SIGALRM: "timeout", -signal.SIGKILL: "killed"}.get(status, "crashed")
        if late:
            self.reason = "timeout"
        super().__init__(self._explained(status, greedy))

    def _explained(self, status: int, greedy: bool) -> str:
        if greedy:
            return "took more memory than image_memory allows"
        if self.reason == "timeout":
            return "took too long"
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        return f"its process ended with {how}"


def send(stream: BinaryIO, header: dict[str, Any], payload: bytes = b"") -> None:
    """Writes a frame."""
    stream.write(json.dumps({**header, "bytes": len(payload)}).encode() + b"\n" + payload)
    stream.flush()


def receive(stream: BinaryIO) -> Frame | None:
    """Reads a frame; None at the end of the stream, even in the middle of a frame."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        return None
    header = json.loads(line)
    length = header.pop("bytes")
    payload = stream.read(length)
    if len(payload) != length:
        return None
    return header, payload


class Child:
    """A child process, started on entering the context and restarted at the next request after it died.

    Runs `python -m module arguments...` with `threads` computing threads; its main function calls `serve`. On Linux, a
    child that uses more than `memory` bytes during a request is killed. Its environment consists of the variables that
    match GIVEN and those named by `environment`.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        threads: int,
        memory: int | None = None,
        environment: Collection[str] = (),
    ) -> None:
        self._name = module.rpartition(".")[2]
        self._memory = memory
        self._command = [sys.executable, "-m", module, *arguments]
        self._given = {name for name in os.environ if GIVEN.fullmatch(name) or name in environment}
        self._threads = str(threads)
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._greeting: dict[str, Any] | None = None

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._reap()
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None

    def greeting(self) -> dict[str, Any]:
        """The child's greeting. Raises ArchiveError if the child fails to start."""
        process = self._process or self._start()
        if self._greeting is None:
            answer = receive(_pipe(process.stdout))
            if answer is None:
                command = " ".join(self._command[1:])
                raise ArchiveError(f"`python {command}` ended with status {self._reap()} at its start")
            self._greeting = answer[0]
        if "error" in self._greeting:
            raise ArchiveError(self._greeting["error"])
        return self._greeting

    def ask(self, request: Request, payload: bytes = b"", *, seconds: float) -> Frame:
        """Sends a request and returns the answer, which may take `seconds` to compute.

        Raises ChildDied. Raises ArchiveError, which is unrelated to the payload, if the child cannot start, does not
        support the request, or was terminated from outside.
        """
        if self._process is not None and self._process.poll() is not None:
            status = self._reap()  # it ended while idle, which is unrelated to this request
            LOGGER.warning("%s ended with status %d while idle; starting a new one", self._name, status)
        self.greeting()
        process = cast("subprocess.Popen[bytes]", self._process)
        header = {**request.header(), "seconds": seconds, "memory": self._memory}
        with _deadline(process, seconds + GRACE_SECONDS) as late:
            # a child that dies while it reads: its missing answer tells below
            with suppress(BrokenPipeError):
                send(_pipe(process.stdin), header, payload)
            greedy = self._wait(process)
            answer = receive(_pipe(process.stdout))
        if answer is None:
            status = self._reap()
            if -status in TOLD_TO_END:
                raise ArchiveError(f"interrupted: a worker process got {signal.Signals(-status).name}; run again")
            death = ChildDied(status, greedy, late=late.is_set())
            LOGGER.warning("%s, asked to %s: %s", self._name, request.do, death)
            raise death
        about, _ = answer
        refusal = about.get("refused")
        if refusal:
            raise ArchiveError(f"{self._name}: {refusal}")
        missing = about.pop("not_granted", None)
        if missing:
            _say_once(missing)
        return answer

    def _environment(self) -> dict[str, str]:
        """The environment: listed variables, an empty home that is also the scratch folder, and the model caches."""
        if self._scratch is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="fdc-child-", ignore_cleanup_errors=True)
        home = self._scratch.name
        caches = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
        own = {name: os.environ[name] for name in self._given if name in os.environ}
        # named, since the libraries would look for their models below the empty home
        for name, folder in CACHES.items():
            own[name] = os.environ.get(name) or f"{caches}/{folder}"
        own |= dict.fromkeys(("HOME", "TMPDIR", "TRITON_CACHE_DIR"), home)
        own |= passive(own)
        return own | {"OMP_NUM_THREADS": self._threads, "MKL_NUM_THREADS": self._threads}

    def _wait(self, process: "subprocess.Popen[bytes]") -> bool:
        """Waits until the child answers or ends. Returns True if it was killed for its memory use."""
        with selectors.DefaultSelector() as answers:
            answers.register(_pipe(process.stdout), selectors.EVENT_READ)
            while not answers.select(WATCH_SECONDS):
                if self._memory is not None and _resident(process.pid) > self._memory:
                    process.kill()
                    return True
        return False

    def _start(self) -> "subprocess.Popen[bytes]":
        self._greeting = None
        # before the first picture is decoded: the child runs as the same user and could read our keys from /proc
        confinement.hide()
        environment = self._environment()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until the child handles it silently
        try:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return self._process

    def _reap(self) -> int:
        process = cast("subprocess.Popen[bytes]", self._process)
        self._process = None
        with suppress(subprocess.TimeoutExpired):  # it ends by itself, and its exit status shows the cause
            process.wait(END_SECONDS)
        with suppress(BrokenPipeError):
            _pipe(process.stdin).close()
        _pipe(process.stdout).close()
        return process.wait()


@contextmanager
def _deadline(process: "subprocess.Popen[bytes]", seconds: float) -> Iterator[threading.Event]:
    """Kills a process after a timeout and sets the event. Its own alarm ends it earlier unless it is stopped."""
    late = threading.Event()

    def end() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


def serve(prepare: Callable[[], tuple[dict[str, Any], Handler]]) -> None:
    """Runs the child's side: prepares, greets, then answers requests until the parent ends.

    Output of libraries goes to stderr. Raises oom_score_adj so that the OOM killer picks this process first. An
    FdcError during preparation is sent to the parent as `error`.
    """
    requests = sys.stdin.buffer
    answers = cast(BinaryIO, os.fdopen(os.dup(1), "wb"))
    os.dup2(2, 1)
    with suppress(OSError):  # not Linux, or not permitted
        Path("/proc/self/oom_score_adj").write_text("1000")
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the current request and so the wait of the parent
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.setitimer(signal.ITIMER_REAL, START_SECONDS)
    try:
        greeting, handle = prepare()
    except FdcError as error:
        send(answers, {"error": str(error)})
        return
    signal.setitimer(signal.ITIMER_REAL, 0)
    confined = False
    with suppress(BrokenPipeError):  # the parent has ended
        send(answers, greeting)
        while request := receive(requests):
            header, payload = request
            # uncaught, the alarm ends the process even inside a library that never returns to Python
            signal.setitimer(signal.ITIMER_REAL, header.pop("seconds"))
            memory = header.pop("memory", None)
            not_granted = None
            if payload and not confined:  # from here on, bytes are untrusted
                confined = True
                not_granted = _confine(memory)
            try:
                answer = handle(header, payload)
            except RequestError as error:
                answer = {"refused": str(error)}, b""
            if not_granted:
                about, data = answer
                answer = {**about, "not_granted": not_granted}, data
            signal.setitimer(signal.ITIMER_REAL, 0)
            send(answers, *answer)


def still_at_work(seconds: float) -> None:
    """Restarts the time limit: in a request for many pictures, each picture has its own."""
    if signal.getitimer(signal.ITIMER_REAL)[0] > 0:  # no alarm if this code runs outside a child
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _end_with_parent() -> None:
    """Ends this process once its parent has ended, even in the middle of a request."""
    requests = select.poll()
    requests.register(sys.stdin.fileno(), 0)  # poll reports a closed peer without being asked
    requests.poll()
    os.kill(os.getpid(), signal.SIGKILL)


def _confine(memory: int | None) -> list[str]:
    """Drops the rights that a decoder does not need. Returns the protections that the system does not support."""
    models = [argument for argument in sys.argv[1:] if argument and Path(argument).exists()]
    missing = confinement.confine(models, os.environ.get("TMPDIR", ""))
    # CUDA maps far more address space than the memory it uses
    uses_cuda = any("cuda" in argument for argument in sys.argv)
    if memory is not None and not uses_cuda:
        confinement.limit_address_space(2 * memory + SPACE_BEYOND)
    return missing


@functools.cache
def _say(missing: str) -> None:
    LOGGER.warning("this system does not fully confine the processes that decode pictures: %s", missing)


def _say_once(missing: Sequence[str]) -> None:
    _say("; ".join(missing))


def _resident(pid: int) -> int:
    """Returns the memory of a process in bytes; 0 if the system does not report it."""
    try:
        resident_pages = Path(f"/proc/{pid}/statm").read_text().split()[1]  # proc(5)
        return int(resident_pages) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _pipe(stream: Any) -> BinaryIO:
    return cast(BinaryIO, stream)
