"""Whatever a child process does on a request costs that request alone."""

import io
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from codec.errors import ArchiveError
from tasks.processes import child as child_module
from tasks.processes.child import Child, ChildDied, receive, send
from tasks.processes.codec_process import Models, worker
from tasks.processes.requests import Measure, Verify
from tests.support.archive_builder import FAKE
from tests.support.misbehaving_child import Misbehave
from tests.support.waiting import until

MODULE = "tests.support.misbehaving_child"


@pytest.fixture
def child() -> Iterator[Child]:
    with Child(MODULE, [], 1) as process:
        yield process


def test_an_answer_carries_raw_bytes_both_ways(child: Child) -> None:
    payload = bytes(range(256)) * 5000
    assert child.ask(Misbehave(), payload, seconds=60) == ({"length": len(payload)}, payload)


def test_what_a_library_prints_does_not_garble_answers(child: Child) -> None:
    assert child.ask(Misbehave("print"), b"x", seconds=60)[1] == b"x"


def test_an_unknown_request_is_refused_in_one_line_and_the_next_one_is_answered(child: Child) -> None:
    with pytest.raises(ArchiveError) as refusal:
        child.ask(Measure("a.png", "jpeg"), b"x", seconds=60)
    expected = "misbehaving_child: unknown request 'measure'; this process answers misbehave"
    assert str(refusal.value) == expected
    assert child.ask(Misbehave(), b"next", seconds=60)[1] == b"next"


def test_the_encoding_process_refuses_what_only_the_verifier_answers(fake_bundle: Path) -> None:
    with (
        worker(Models(str(fake_bundle), codec=FAKE)) as encoder,
        pytest.raises(ArchiveError, match="encode_worker: unknown request 'verify'; this process answers encode, "),
    ):
        encoder.ask(Verify(), b"x", seconds=60)


@pytest.mark.timing
@pytest.mark.parametrize(
    ("fault", "reason", "message"),
    [
        ("segfault", "crashed", "its process ended with SIGSEGV"),
        ("exit", "crashed", "its process ended with status 3"),
        ("kill", "killed", "its process ended with SIGKILL"),
        ("hang", "timeout", "took too long"),
    ],
)
def test_a_death_is_told_and_the_next_request_is_answered(child: Child, fault: str, reason: str, message: str) -> None:
    with pytest.raises(ChildDied, match=message) as death:
        child.ask(Misbehave(fault), seconds=0.3 if fault == "hang" else 60)
    assert death.value.reason == reason
    assert child.ask(Misbehave(), b"again", seconds=60)[1] == b"again"


def test_a_child_that_was_told_to_end_is_no_verdict_on_the_request(child: Child) -> None:
    with pytest.raises(ArchiveError, match="interrupted: a worker process got SIGTERM"):
        child.ask(Misbehave("end"), seconds=60)


@pytest.mark.timing
def test_the_time_limit_is_for_one_request_not_for_all(child: Child) -> None:
    for _ in range(9):
        assert child.ask(Misbehave("nap"), seconds=4)[0] == {"length": 0}  # half a second each


def test_a_child_that_takes_too_much_memory_is_killed_and_the_next_request_is_answered() -> None:
    with Child(MODULE, [], 1, memory=10**9) as child:
        assert child.ask(Misbehave("eat", bytes_to_eat=10**8), seconds=60)[0] == {"length": 10**8}
        with pytest.raises(ChildDied, match="more memory than image_memory allows") as death:
            child.ask(Misbehave("eat", bytes_to_eat=15 * 10**8, hold=True), seconds=600)
        assert death.value.reason == "killed"
        assert child.ask(Misbehave(), b"again", seconds=60)[1] == b"again"
    with Child(MODULE, [], 1) as child:
        assert child.ask(Misbehave("eat", bytes_to_eat=15 * 10**8), seconds=60)[0] == {"length": 15 * 10**8}


def test_a_child_that_cannot_start_says_why() -> None:
    with Child(MODULE, ["--refuse"], 1) as child, pytest.raises(ArchiveError, match="no such bundle"):
        child.greeting()
    with Child(MODULE, ["--break"], 1) as child, pytest.raises(ArchiveError, match="ended with status 1"):
        child.ask(Misbehave(), seconds=1)


def test_threads_are_those_of_the_plan() -> None:
    with Child(MODULE, [], 3) as child:
        assert child.greeting()["threads"] == "3"


def test_an_answer_cut_short_is_none() -> None:
    whole = io.BytesIO()
    send(whole, {"a": 1}, b"payload")
    for length in range(len(whole.getvalue())):
        assert receive(io.BytesIO(whole.getvalue()[:length])) is None
    assert receive(io.BytesIO(whole.getvalue())) == ({"a": 1}, b"payload")


@pytest.mark.skipif(not Path("/proc/self/oom_score_adj").exists(), reason="this system has no such score")
def test_the_child_goes_first_when_memory_runs_out(child: Child) -> None:
    assert child.greeting()["oom_score_adj"] == "1000"


def test_a_hanging_child_does_not_outlive_a_killed_parent() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", f"from {MODULE} import hang_in_child; hang_in_child()"], stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until(lambda: not _running(pid), "the child's end")


def test_a_busy_child_ends_with_its_killed_parent_and_not_with_its_time(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    hang = f"from {MODULE} import hang_in_child; hang_in_child(600, {str(begun)!r})"
    parent = subprocess.Popen([sys.executable, "-c", hang], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    until(begun.exists, "the child's work")
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until(lambda: not _running(pid), "the child's end", seconds=300)  # of the 600 that it would have


def test_a_child_that_is_started_anew_is_a_log_line(child: Child, caplog: pytest.LogCaptureFixture) -> None:
    pid = child.greeting()["pid"]
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # it is dead, and left to its parent to be reaped
    child.ask(Misbehave(), b"x", seconds=60)
    assert "misbehaving_child ended with status -9 while idle; starting a new one" in caplog.messages
    with pytest.raises(ChildDied):
        child.ask(Misbehave("exit"), seconds=60)
    assert "misbehaving_child, asked to misbehave: its process ended with status 3" in caplog.messages


def _running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_leaving_the_context_ends_a_busy_child() -> None:
    with Child(MODULE, [], 1) as child:
        pid = int(child.greeting()["pid"])
    assert not Path(f"/proc/{pid}").exists()
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL


def test_a_child_that_was_killed_while_idle_is_replaced_before_it_is_asked(child: Child) -> None:
    pid = child.greeting()["pid"]
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert child.ask(Misbehave(), b"again", seconds=60)[1] == b"again"
    assert child.greeting()["pid"] != pid


@pytest.mark.timing
@pytest.mark.parametrize("payload", [b"", bytes(10**6)], ids=["waiting", "sending"])
def test_a_stopped_child_is_ended_by_its_parent(child: Child, payload: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.processes.child.GRACE_SECONDS", 0.2)
    os.kill(child.greeting()["pid"], signal.SIGSTOP)
    with pytest.raises(ChildDied) as death:
        child.ask(Misbehave(), payload, seconds=0.3)
    assert death.value.reason == "timeout"
    assert child.ask(Misbehave(), b"again", seconds=60)[1] == b"again"


def test_a_child_gets_a_listed_environment_and_an_empty_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "PREFECT_API_KEY", "DB_PASSWORD", "ANYTHING", "NAMED"):
        monkeypatch.setenv(name, "planted-secret")
    monkeypatch.setenv("HOME", str(tmp_path))
    with Child(MODULE, [], 1, environment=["NAMED"]) as child:
        seen = child.greeting()["environment"]
        home = Path(child.ask(Misbehave("home"), seconds=60)[0]["home"])
        assert home.is_dir() and not any(home.iterdir())
    assert not {"AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "PREFECT_API_KEY", "DB_PASSWORD", "ANYTHING"} & set(seen)
    assert {"PATH", "NAMED", "TORCH_HOME", "HF_HOME", "OMP_NUM_THREADS"} <= set(seen)
    assert not home.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="what a process gives up is Linux's")
def test_what_a_picture_that_took_over_its_decoder_can_reach(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "credentials").write_text("aws_secret_access_key = planted")
    (tmp_path / "archive").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server, Child(MODULE, [], 1, memory=1 << 30) as child:
        places = {"credentials": str(tmp_path / "credentials"), "archive": str(tmp_path / "archive")}
        places |= {"port": server.getsockname()[1]}
        free = child.ask(Misbehave("look", places=places), seconds=60)[0]
        assert free["seen"]["credentials"] == free["seen"]["loopback"] == "granted"  # it has seen no picture yet
        (tmp_path / "credentials").write_text("aws_secret_access_key = planted")
        (tmp_path / "archive" / "x").unlink()
        told = child.ask(Misbehave("look", places=places), b"a stranger's picture", seconds=60)[0]
    seen = told["seen"]
    allowed = {what for what, outcome in seen.items() if outcome == "granted"}
    if any("Landlock" in line or "seccomp" in line for line in caplog.messages):
        pytest.skip(f"not granted here: {caplog.messages}")
    assert allowed == {"its own folder", "its libraries", "its home"}
    assert (tmp_path / "credentials").exists() and not any((tmp_path / "archive").iterdir())
    assert told["limits"]["CORE"] == 0 and told["limits"]["NOFILE"] <= 1024
    assert 0 < told["limits"]["AS"] < 1 << 40
    assert "NoNewPrivs:\t1" in told["status"]


def test_what_a_system_does_not_grant_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    child_module._say.cache_clear()
    for _ in range(2):
        child_module._say_once(["sockets (seccomp): Function not implemented"])
    (line,) = caplog.messages
    assert "sockets (seccomp): Function not implemented" in line


@pytest.mark.skipif(sys.platform != "linux", reason="what a process gives up is Linux's")
def test_nobody_of_the_same_user_can_look_into_the_parent() -> None:
    """The parent's environment holds keys. It runs in a process of its own, since the change cannot be undone."""
    code = f"""
import ctypes
from tasks.processes.child import Child
dumpable = lambda: ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)
before = dumpable()
with Child({MODULE!r}, [], 1) as child:
    child.greeting()
    print(before, dumpable())
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["1", "0"]


@pytest.mark.timing
def test_an_idle_child_does_not_die_of_the_time_of_its_last_request(child: Child) -> None:
    child.ask(Misbehave(), b"x", seconds=3)
    assert child._process is not None
    with pytest.raises(subprocess.TimeoutExpired):
        child._process.wait(4)
