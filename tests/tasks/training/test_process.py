"""The training subprocess: followed while it runs, and gone when it ends, however it ends."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from codec import FdcError, SettingsError
from tasks.training.process import Training, TrainingError, evaluation, settings_file, train
from tests.support.waiting import until

STANDIN = """
import json, os, pathlib, signal, subprocess, sys, time
settings, output = sys.argv[1], pathlib.Path(sys.argv[sys.argv.index("--output") + 1])
output.mkdir(exist_ok=True)
kind = json.loads(pathlib.Path(settings).read_text())["kind"]
print("begun as", kind, flush=True)
if kind == "crash":
    raise MemoryError("no room for this")
if kind == "tidy":
    def tidy(*_):
        time.sleep(1)
        (output / "tidied").touch()
        sys.exit(0)
    signal.signal(signal.SIGTERM, tidy)
    (output / "pids").write_text(str(os.getpid()))
    time.sleep(300)
if kind == "fail":
    print("codec.training: no photos in here", file=sys.stderr)
    sys.exit(1)
if kind == "hang":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    (output / "pids").write_text(str(child.pid))
    time.sleep(300)
with (output / "progress.jsonl").open("a") as stream:
    for step in range(1, 4):
        stream.write(json.dumps({"stage": "entropy", "step": step, "steps": 3, "loss": 1 / step}) + "\\n")
if kind != "empty":
    (output / "bundle").mkdir(exist_ok=True)
(output / "evaluation.json").write_text('[{"quality": 8.0, "bpp": 0.1}]')
"""


@pytest.fixture
def standin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that describes a training by a stand-in module of the given kind."""
    (tmp_path / "standin_training.py").write_text(STANDIN)
    (tmp_path / "one.tar").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def describe(kind: str) -> Training:
        settings = tmp_path / f"{kind}.json"
        settings.write_text(json.dumps({"kind": kind}))
        return Training([str(tmp_path / "one.tar")], str(settings), str(tmp_path / "out"), module="standin_training")

    return describe


def test_lines_and_progress_are_told_and_the_bundle_returned(standin: Any) -> None:
    lines: list[str] = []
    records: list[dict[str, Any]] = []
    bundle = train(standin("good"), lines.append, records.append)
    assert Path(bundle).is_dir()
    assert "begun as good" in lines
    assert [record["step"] for record in records] == [1, 2, 3]
    assert evaluation(str(Path(bundle).parent)) == [{"quality": 8.0, "bpp": 0.1}]
    again: list[dict[str, Any]] = []
    train(standin("good"), lines.append, again.append)
    assert len(again) == 3, "records of an earlier call are not told again"


def test_a_failed_training_says_its_own_last_word(standin: Any) -> None:
    with pytest.raises(TrainingError, match=r"status 1: codec\.training: no photos in here"):
        train(standin("fail"), lambda _: None, lambda _: None)
    with pytest.raises(TrainingError, match="status 1: MemoryError: no room for this"):
        train(standin("crash"), lambda _: None, lambda _: None)
    with pytest.raises(TrainingError, match="without a bundle"):
        train(standin("empty"), lambda _: None, lambda _: None)


def interrupted(training: Training) -> int:
    """Run a training, interrupt it once it has written its process id, and return that."""
    pids = Path(training.output) / "pids"

    def interrupt() -> None:
        until(lambda: pids.exists() and pids.read_text(), "the training's process")
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        train(training, lambda _: None, lambda _: None)
    return int(pids.read_text())


def test_a_worker_that_outlives_its_launcher_has_time_to_tidy_up(standin: Any, tmp_path: Path) -> None:
    interrupted(standin("tidy"))
    assert (tmp_path / "out" / "tidied").exists()


def test_a_training_whose_starter_was_killed_keeps_a_second_one_out(standin: Any, tmp_path: Path) -> None:
    training = standin("hang")
    program = (
        "import sys; from tasks.training.process import Training, train; train(Training([sys.argv[1]], *sys.argv[2:4], "
    )
    program += "module='standin_training'), print, print)"
    root = str(Path(__file__).parents[3])
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"}
    arguments = [sys.executable, "-c", program, training.shards[0], training.settings, training.output]
    starter = subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL)
    pids = tmp_path / "out" / "pids"
    until(lambda: pids.exists() and pids.read_text(), "the training's process")
    starter.kill()
    starter.wait()
    try:
        with pytest.raises(SettingsError, match="another training is running"):
            train(standin("good"), lambda _: None, lambda _: None)
    finally:
        os.killpg(os.getpgid(int(pids.read_text())), signal.SIGKILL)

    def trains() -> bool:
        try:
            train(standin("good"), lambda _: None, lambda _: None)
        except SettingsError:
            return False
        return True

    until(trains, "the end of the lock with the training")


def test_no_process_is_left_when_the_call_is_interrupted(standin: Any) -> None:
    child = interrupted(standin("hang"))

    def over() -> bool:
        try:
            return Path(f"/proc/{child}/stat").read_text().split()[2] == "Z"
        except (FileNotFoundError, ProcessLookupError):
            return True

    until(over, "the end of the training's own child", seconds=100)  # of the 300 that it would sleep


def test_the_command_launches_accelerate_with_everything_asked_for() -> None:
    two = str(Path(__file__).parents[3] / "infra" / "accelerate" / "cpu-2.yaml")
    training = Training(["a", "b"], "demo", "out", ["c"], ["entropy"], ["seed=2"], two)
    command = training.command()
    assert command[:5] == [sys.executable, "-m", "accelerate.commands.launch", "--config_file", two]
    text = " ".join(command[5:])
    assert "--data a b --output out --held-out c --stage entropy --set seed=2" in text
    assert command[7].endswith("demo.toml")


def test_what_cannot_be_started_is_told_before_anything_is(tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "plan.json").write_text("{}")
    out = str(tmp_path / "out")
    cases = [
        (Training([str(tmp_path / "none")], "demo", out), "no tars here"),
        (Training([str(tmp_path / "none.tar")], "demo", out), "not found"),
        (Training([str(tmp_path / "dataset")], "demo", out), "incomplete; run shard-images again"),
        (Training([], "demo", out, accelerate="none.yaml"), "accelerate settings file not found: none.yaml"),
    ]
    for training, message in cases:
        with pytest.raises(FdcError, match=message):
            train(training, lambda _: None, lambda _: None)
    assert not (tmp_path / "out" / "bundle").exists()


def test_an_unknown_settings_name_lists_the_shipped_ones() -> None:
    with pytest.raises(SettingsError, match="demo, mini, mini-decoder, mini-end-to-end, mini-estimator, mini-gpu"):
        settings_file("nothing")
