"""Training as a subprocess: accelerate launches codec.training, its progress is followed, its end is clean."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codec.errors import FdcError, SettingsError

ONE_PROCESS = (
    "--num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no --num_cpu_threads_per_process "
    f"{os.cpu_count() or 1}"
).split()
STOP_SECONDS = 20.0
POLL_SECONDS = 0.5
SETTINGS = Path(__file__).parent.parent / "codec" / "training" / "settings"


class TrainingError(FdcError):
    """The training process ended without a bundle."""


@dataclass(frozen=True)
class Training:
    """One training run. `accelerate` is an accelerate settings file, empty for one process on what the machine has."""

    shards: Sequence[str]
    settings: str
    output: str
    held_out: Sequence[str] = ()
    stages: Sequence[str] = ()
    overrides: Sequence[str] = ()
    accelerate: str = ""
    module: str = "codec.training"

    def command(self) -> list[str]:
        """The command line that is launched."""
        launch = [sys.executable, "-m", "accelerate.commands.launch"]
        launch += ["--config_file", self.accelerate] if self.accelerate else ONE_PROCESS
        options = [settings_file(self.settings), "--data", *self.shards, "--output", self.output]
        for name, values in (("--held-out", self.held_out), ("--stage", self.stages), ("--set", self.overrides)):
            options += [name, *values] if values else []
        return [*launch, "--module", self.module, *options]


def settings_file(name: str) -> str:
    """A settings file by path, or a shipped one by name (mini, demo, sd21). Raises SettingsError."""
    if Path(name).is_file():
        return name
    shipped = SETTINGS / f"{name}.toml"
    if not shipped.is_file():
        known = ", ".join(sorted(path.stem for path in SETTINGS.glob("*.toml")))
        raise SettingsError(f"no settings file {name}; give a path, or one of the shipped ones: {known}")
    return str(shipped)


def train(training: Training, log: Callable[[str], None], progress: Callable[[dict[str, Any]], None]) -> Path:
    """Run the training to its end; returns the bundle's folder.

    `log` hears every line that the process prints, `progress` every record that it adds to progress.jsonl. However this
    call ends, no process of the training is left. Raises TrainingError when the process fails.
    """
    record = Path(training.output) / "progress.jsonl"
    seen = record.stat().st_size if record.exists() else 0
    process = subprocess.Popen(
        training.command(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    last: list[str] = []
    reader = threading.Thread(target=_relay, args=(process, log, last), daemon=True)
    reader.start()
    try:
        while process.poll() is None:
            seen = _follow(record, seen, progress)
            try:
                process.wait(POLL_SECONDS)
            except subprocess.TimeoutExpired:
                continue
    finally:
        _stop(process)
        reader.join()
    _follow(record, seen, progress)
    bundle = Path(training.output) / "bundle"
    if process.returncode:
        raise TrainingError(f"training ended with status {process.returncode}: {last[-1] if last else 'no message'}")
    if not bundle.is_dir():
        raise TrainingError(f"training finished without a bundle in {training.output}: run its entropy stage")
    return bundle


def evaluation(output: str) -> list[dict[str, Any]]:
    """The held-out measurements that training left: one record a quality."""
    records: list[dict[str, Any]] = json.loads((Path(output) / "evaluation.json").read_text())
    return records


def _relay(process: "subprocess.Popen[str]", log: Callable[[str], None], last: list[str]) -> None:
    assert process.stdout is not None
    with process.stdout as lines:
        for line in lines:
            if text := line.rstrip():
                last[:] = [text if text.startswith("codec.training:") or not last else last[0]]
                log(text)


def _follow(record: Path, seen: int, progress: Callable[[dict[str, Any]], None]) -> int:
    """Tell the whole records behind byte `seen`; returns where the next one starts."""
    if not record.exists():
        return seen
    with record.open("rb") as stream:
        stream.seek(seen)
        for line in stream:
            if not line.endswith(b"\n"):
                break
            seen += len(line)
            progress(json.loads(line))
    return seen


def _stop(process: "subprocess.Popen[str]") -> None:
    """End the whole process group, politely first."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
