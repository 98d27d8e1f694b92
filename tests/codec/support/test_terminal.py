"""Names from outside are shown letter by letter, and cannot act on the terminal that shows them."""

import io
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from codec.bundle import Bundle
from codec.cli import app
from codec.support.terminal import print_table, printable, say
from tests.conftest import synthetic
from tests.support.galleries import save

# As a file system may hold them: markup and emoji of rich, a color, a new line, reversed text, a byte beyond UTF-8.
NAMES = ("b[red]c[/red]d", "e[/blue]", ":x:", "f\x1b[31mg", "new\nline", "h\u202egnp", "i\udcff")
SHOWN = (*NAMES[:3], r"f\x1b[31mg", r"new\nline", r"h\u202egnp", r"i\udcff")


def test_what_would_act_on_a_terminal_is_escaped_and_all_else_is_not() -> None:
    assert tuple(map(printable, NAMES)) == SHOWN
    for text in ("Größe 日本 😀 👩\u200d💻", "2024 at 3.00\u202fPM", "e\u0301"):
        assert printable(text) == text


def test_a_line_and_a_row_are_one_line_each_with_their_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    for name in NAMES:
        say(name)
    assert capsys.readouterr().out.splitlines() == [*SHOWN]
    print_table(["key", "[red]note[/red]"], [[name, "x" * 300] for name in NAMES])
    lines = capsys.readouterr().out.splitlines()
    assert "[red]note[/red]" in lines[1]
    rows = [line.split("│")[1].strip() for line in lines if line.startswith("│")]
    assert rows == [*SHOWN], "a row that goes to another program is not folded"


def test_a_long_cell_is_folded_in_a_terminal_and_nothing_of_it_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    print_table(["key"], [["0123456789" * 20]])
    text = terminal.getvalue()
    assert "…" not in text and text.count("9") == 20 and text.splitlines()[-1] == "└" + 58 * "─" + "┘"


def test_commands_show_the_names_of_files_as_they_are(bundle: Bundle, tmp_path: Path) -> None:
    for name in NAMES:
        save(tmp_path / "in" / f"{name}.png", synthetic(8, 8))
    options = ["--bundle", str(bundle.path), "-j", "1"]
    ran = CliRunner().invoke(app, ["encode", str(tmp_path / "in"), "--output-folder", str(tmp_path / "out"), *options])
    assert ran.exit_code == 0, ran.output
    for name in SHOWN:
        assert f"{name}.png" in ran.output
    for name, shown in zip(NAMES, SHOWN, strict=True):
        one = CliRunner().invoke(app, ["encode", str(tmp_path / "in" / f"{name}.png"), *options])
        assert one.exit_code == 0 and f"{shown}.fdc: 8 x 8" in one.output, one.output
        again = CliRunner().invoke(app, ["decode", str(tmp_path / "in" / f"absent {name}.fdc"), *options])
        assert again.exit_code == 1 and f"absent {shown}.fdc" in again.output, again.output
