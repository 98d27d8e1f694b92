"""fdc archive runs the flows' plain functions with the flows' options, and only what is called is imported."""

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import typer.main
from prefect import Flow
from typer.testing import CliRunner

from codec.cli import app, group
from flows import archive, audit_archive, compress_archive, drill_archive, quality_report, restore_archive

ROOT = Path(__file__).parents[2]
NAMED = {
    "compress": compress_archive.compress_archive,
    "restore": restore_archive.restore_archive,
    "audit": audit_archive.audit_archive,
    "report": quality_report.quality_report,
    "drill": drill_archive.drill_archive,
}


@pytest.fixture
def program(tmp_path: Path) -> list[str]:
    """fdc in a process that sees this checkout's entry points, whatever is installed."""
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["fdc.commands"]
    info = tmp_path / "installed" / "fdcodec-0.dist-info"
    info.mkdir(parents=True)
    lines = [f"{name} = {value}" for name, value in points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[fdc.commands]", *lines, ""]))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fdcodec\nVersion: 0\n")
    start = f"import sys; sys.path.insert(0, {str(info.parent)!r}); from codec.cli import main; main()"
    return [sys.executable, "-c", start]


@pytest.mark.parametrize("name", NAMED)
def test_a_command_has_the_options_of_its_flow(name: str) -> None:
    flow: Flow[..., object] = NAMED[name]
    command = typer.main.get_command(archive.app).commands[name]  # type: ignore[attr-defined]
    names = [parameter.name for parameter in command.params if parameter.name != "help"]
    assert names == [*flow.parameters.properties, "verbose"]


def test_an_archive_is_made_and_looked_at_by_fdc(program: list[str], tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.txt").write_text("kept whole, which needs no codec")
    # An unreachable server: these commands need none.
    environment = os.environ | {"PREFECT_API_URL": "http://127.0.0.1:9/api"}

    def fdc(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*program, "archive", *arguments]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    made = fdc("compress", "photos", "ARCHIVE", "--metrics", "none", "--workers", "1")
    assert made.returncode == 0, made.stderr
    assert "images" in made.stdout and "error" not in made.stderr
    status = fdc("status", "ARCHIVE", "--json")
    assert status.returncode == 0 and json.loads(status.stdout)["runs"][0]["images"] == 1
    absent = CliRunner().invoke(archive.app, ["compact", str(tmp_path / "absent")])
    assert absent.exit_code == 1 and "no archive here" in absent.stderr


def test_help_names_the_command_without_importing_it(program: list[str]) -> None:
    program[-1] = (
        program[-1]
        .replace("main()", "sys.argv[1:] = ['--help']; main()")
        .replace("import sys;", "import sys, atexit; atexit.register(lambda: print('prefect' in sys.modules));")
    )
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    assert re.search(r"archive +Compress, restore, audit and maintain archives", done.stdout)
    assert done.stdout.endswith("\nFalse\n")


def test_where_it_is_not_installed_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "provided", lambda: {})
    done = CliRunner().invoke(app, ["archive", "status"])
    assert done.exit_code == 1 and done.stdout == ""
    assert done.stderr == "error: fdc archive belongs to the whole of fdcodec, which is not installed here\n"
    broken = EntryPoint("archive", "flows.no_such_module:app", group.ENTRY_POINTS)
    monkeypatch.setattr(group, "provided", lambda: {"archive": broken})
    done = CliRunner().invoke(app, ["archive", "status"])
    assert done.exit_code == 1 and "No module named 'flows.no_such_module'; install fdcodec" in done.stderr
