"""Codecs that run as two programs, an encoder and a decoder given as command templates, with a time limit."""

import shlex
import shutil
import subprocess
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codec.containers.writing import encode_png
from codec.errors import SettingsError
from codec.evaluation.baselines.baseline import Baseline, Pixels, UnavailableError
from codec.images import read_image


@dataclass(frozen=True)
class Command:
    """An external encoder and decoder as command templates. No shell is involved.

    {input} and {output} are file names in a scratch folder, {setting} is the setting. The encoder reads PNG, the
    decoder writes it.
    """

    name: str
    encode: str
    decode: str
    settings: tuple[float, ...]
    """Ordered from the smallest files to the largest."""
    suffix: str = ".bin"
    """Suffix of the compressed file, with its dot."""
    points: tuple[float, ...] = ()
    """Settings to measure at; without any, files of given rates are searched."""
    seconds: float = 600.0
    """Time limit of each program in seconds."""


BPG = Command(
    "bpg",
    "bpgenc -m 9 -q {setting:g} -o {output} {input}",
    "bpgdec -o {output} {input}",
    tuple(range(51, -1, -1)),
    ".bpg",
)
"""HEVC intra in Fabrice Bellard's container."""


def read_commands(path: Path) -> list[Command]:
    """Reads commands from a TOML file: one table per codec, named after it, with the fields of Command.

    Raises SettingsError for an invalid file.
    """
    try:
        tables: dict[str, dict[str, Any]] = tomllib.loads(path.read_text())
        commands = []
        for name, table in tables.items():
            for key in ("settings", "points"):
                if key in table:
                    table[key] = tuple(table[key])  # a Command is hashable
            commands.append(Command(name, **table))
        return commands
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read {path}: {error}") from None
    except (tomllib.TOMLDecodeError, TypeError, AttributeError) as error:
        raise SettingsError(
            f"{path} does not describe codecs by a table [NAME] with encode, decode and settings each: {error}"
        ) from None


def external(command: Command) -> Baseline:
    """A codec that runs as two programs. Raises UnavailableError if one is not on PATH."""
    for template in (command.encode, command.decode):
        program = shlex.split(template)[0]
        if not shutil.which(program):
            raise UnavailableError(f"the program {program} is not on PATH")

    def encode(pixels: Pixels, setting: float) -> bytes:
        return _run(command, command.encode, encode_png(pixels), ".png", command.suffix, setting)

    def decode(data: bytes) -> Pixels:
        return read_image(_run(command, command.decode, data, command.suffix, ".png", 0)).pixels

    return Baseline(command.name, command.encode, command.settings, encode, decode, command.points)


def _run(command: Command, template: str, data: bytes, read: str, written: str, setting: float) -> bytes:
    """Runs a command on the data. Raises SettingsError if it fails, writes nothing or exceeds its time."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, f"in{read}")
        target = Path(scratch, f"out{written}")
        source.write_bytes(data)
        # Split first: a path with spaces stays one argument.
        words = [part.format(input=source, output=target, setting=setting) for part in shlex.split(template)]
        try:
            subprocess.run(words, check=True, capture_output=True, timeout=command.seconds)
            return target.read_bytes()
        except subprocess.TimeoutExpired:
            reason = f"did not end within {command.seconds:g} s"
        except subprocess.CalledProcessError as error:
            said = error.stderr.decode(errors="replace").strip().splitlines()
            last_line = said[-1] if said else "it said nothing"
            reason = f"ended with status {error.returncode}: {last_line}"
        except OSError as error:
            reason = f"wrote no file ({error.strerror})"
    raise SettingsError(f"{words[0]} of {command.name} {reason}")
