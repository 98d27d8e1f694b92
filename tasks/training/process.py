"""Runs codec.training in a subprocess launched by accelerate, follows its progress, and stops it cleanly."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from codec.errors import FdcError, SettingsError
from codec.support import processors
from tasks.dataset import local_tars
from tasks.storage.store import Store
from tasks.training.remote_output import RemoteOutput

# stated, since accelerate would take other values from a settings file in the user's home
ONE_PROCESS = [
    *("--num_processes", "1"),
    *("--num_machines", "1"),
    *("--mixed_precision", "no"),
    *("--dynamo_backend", "no"),
    *("--num_cpu_threads_per_process", str(processors.available())),
]
REASON = re.compile(r"(\[rank\d+\]: )?(codec\.training|[\w.]+(Error|Exception)\b)")
"""A line with the cause of a failure: ours, or the last one of a traceback."""
STOP_SECONDS = 20.0
"""How long the process may take to end after SIGTERM."""
POLL_SECONDS = 0.5
"""How often progress is read."""
SETTINGS = Path(__file__).parents[2] / "codec" / "training" / "settings"


class TrainingError(FdcError):
    """The training process ended without a bundle."""


@dataclass(frozen=True)
class Training:
    """One training run. `accelerate` is a settings file of accelerate; if empty, one process is started."""

    shards: Sequence[str]
    settings: str
    output: str
    held_out: Sequence[str] = ()
    stages: Sequence[str] = ()
    overrides: Sequence[str] = ()
    accelerate: str = ""
    module: str = "codec.training"

    def command(self) -> list[str]:
        """Returns the command line. Raises SettingsError for a missing settings file."""
        if self.accelerate and not Path(self.accelerate).is_file():
            raise SettingsError(f"accelerate settings file not found: {self.accelerate}; see infra/accelerate for some")
        launch = [sys.executable, "-m", "accelerate.commands.launch"]
        if self.accelerate:
            launch += ["--config_file", self.accelerate]
        else:
            launch += ONE_PROCESS
        options = [settings_file(self.settings), "--data", *self.shards, "--output", self.output]
        for name, values in (("--held-out", self.held_out), ("--stage", self.stages), ("--set", self.overrides)):
            if values:
                options += [name, *values]
        return [*launch, "--module", self.module, *options]


def settings_file(name: str) -> str:
    """Finds a settings file by path, or a shipped one by name (mini, demo, sd21). Raises SettingsError."""
    if Path(name).is_file():
        return name
    shipped = SETTINGS / f"{name}.toml"
    if not shipped.is_file():
        known = ", ".join(sorted(path.stem for path in SETTINGS.glob("*.toml")))
        raise SettingsError(f"settings file not found: {name}; give a path or a shipped name: {known}")
    return str(shipped)


def train(training: Training, log: Callable[[str], None], progress: Callable[[dict[str, Any]], None]) -> str:
    """Runs the training and returns the bundle's folder or URL.

    `log` receives every line that the process prints, `progress` every record that it adds to progress.jsonl. However
    this call ends, no training process remains. Tars at a URL are copied into the output first. An output at a URL is
    uploaded at each checkpoint and at the end.
    Raises TrainingError if the process fails, SettingsError for invalid settings, ArchiveError.
    """
    training.command()  # reports wrong settings before anything is copied
    remote: RemoteOutput | None = None
    output = Path(training.output)
    if "://" in training.output:
        remote = RemoteOutput(training.output)
        output = remote.folder
    record = output / "progress.jsonl"
    lines = _Lines(log)
    with _only_one(output) as lock:
        if remote:
            remote.fetch()
        shards = [local_tars(location, output / "data") for location in training.shards]
        held_out = [local_tars(location, output / "data") for location in training.held_out]
        seen = record.stat().st_size if record.exists() else 0  # records of earlier calls were reported by them
        process = subprocess.Popen(
            replace(training, shards=shards, held_out=held_out, output=str(output)).command(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # a group of its own, so that `_stop` reaches accelerate's children too
            pass_fds=[lock],
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        reader = threading.Thread(target=lines.relay, args=(process,), daemon=True)
        reader.start()
        try:
            while process.poll() is None:
                seen = _follow(record, seen, progress)
                if remote and remote.checkpoint_is_new():
                    remote.send()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_SECONDS)
        finally:
            _stop(process, reader)
        if remote:
            remote.send()
    _follow(record, seen, progress)  # what was written after the last look
    bundle = output / "bundle"
    if process.returncode:
        raise TrainingError(f"training ended with status {process.returncode}: {lines.reason}")
    if not bundle.is_dir():
        raise TrainingError(f"training finished without a bundle in {training.output}: run its entropy stage")
    return f"{training.output.rstrip('/')}/bundle"


def evaluation(output: str) -> list[dict[str, Any]]:
    """Reads the held-out measurements of a training: one record per quality."""
    records: list[dict[str, Any]] = json.loads(Store(output).read("evaluation.json"))
    return records


@contextmanager
def _only_one(output: Path) -> Iterator[int]:
    """Locks the output folder. The training process inherits the lock, so it persists if this process is killed."""
    output.mkdir(parents=True, exist_ok=True)
    with (output / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(f"another training is running in {output}; wait for it, or stop it") from None
        yield lock.fileno()


class _Lines:
    """Relays the output of a process, and keeps the line with the cause of a failure."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self._first_error = ""
        self._last = "no message"

    @property
    def reason(self) -> str:
        """The first error line, since accelerate appends its own; else the last line."""
        return self._first_error or self._last

    def relay(self, process: "subprocess.Popen[str]") -> None:
        """Reads until all processes have closed the output."""
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                text = line.rstrip()
                if not text:
                    continue
                self._last = text
                self._log(text)
                if REASON.match(text) and not self._first_error:
                    self._first_error = text


def _follow(record: Path, seen: int, progress: Callable[[dict[str, Any]], None]) -> int:
    """Reports the complete records after byte `seen`. Returns the offset of the next one."""
    if not record.exists():
        return seen
    with record.open("rb") as stream:
        stream.seek(seen)
        for line in stream:
            if not line.endswith(b"\n"):  # still being written
                break
            seen += len(line)
            progress(json.loads(line))
    return seen


def _stop(process: "subprocess.Popen[str]", reader: threading.Thread) -> None:
    """Stops the whole process group by SIGTERM, then SIGKILL. The reader ends with the last process of the group."""
    # also if the trainer itself has ended: its loader processes may remain
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        reader.join(STOP_SECONDS)
    process.wait()
