"""fdc view serves a page to this machine alone, in isolation, until Ctrl-C, and answers mistakes in one line."""

import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from codec import Codec, Picture, encode_png
from codec.bundle import Bundle
from codec.cli import app
from tests.conftest import synthetic
from tests.golden.make import GOLDEN


@pytest.fixture
def file(tmp_path: Path, bundle: Bundle) -> Path:
    (tmp_path / "in.fdc").write_bytes(Codec.load(bundle).encode(Picture(synthetic(40, 56))).data)
    (tmp_path / "in.png").write_bytes(encode_png(synthetic(40, 56)))
    Image.open(tmp_path / "in.png").save(tmp_path / "in.tif")
    return tmp_path / "in.fdc"


@pytest.fixture
def viewing(file: Path, bundle: Bundle) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command as it runs, and its address; the original is a TIFF, which browsers do not show."""
    command = [sys.executable, "-c", "from codec.cli import main; main()", "view", file, file.with_suffix(".tif")]
    options = ["--no-browser", "--bundle", bundle.path]
    process = subprocess.Popen([*map(str, (*command, *options))], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:\d+/", line)
    assert found, line
    yield process, found[0]
    process.kill()
    process.communicate()


def get(address: str, host: str | None = None) -> tuple[int, bytes, dict[str, str]]:
    request = urllib.request.Request(address, headers={} if host is None else {"Host": host})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), dict(error.headers)


def test_the_page_is_isolated_shows_both_pictures_and_ends_with_ctrl_c(
    viewing: tuple[subprocess.Popen[str], str], file: Path, bundle: Bundle
) -> None:
    process, address = viewing
    status, text, headers = get(address)
    assert status == 200
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert b'data-file="in.fdc"' in text and b'data-original="in.tif"' in text
    assert get(f"{address}given.fdc")[1] == file.read_bytes()
    assert get(f"{address}original")[1].startswith(b"\x89PNG")
    assert get(f"{address}{bundle.id[:16]}/bundle.json")[1] == (bundle.path / "bundle.json").read_bytes()
    for name in ("../networks.py", "%2e%2e/networks.py", "..%2fnetworks.py", "0000000000000000/bundle.json", "absent"):
        assert get(f"{address}{name}")[0] == 404
    # a site whose name was made to point here must not read the picture
    assert get(f"{address}given.fdc", host="evil.example")[0] == 403
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("in.png", "in.png: not an .fdc file"),
        ("absent.fdc", "absent.fdc: No such file"),
        ("in.fdc", "no bundle with id"),
        ("golden.fdc absent.png --bundle frozen", "cannot read absent.png"),
        ("golden.fdc in.fdc --bundle frozen", "in.fdc:"),
        ("--embed-decoder -o in.png", "in.png already exists"),
        ("--bundle absent", "absent"),
        ("--webgpu frozen", "frozen has no ort.webgpu.bundle.min.mjs"),
    ],
)
def test_a_mistake_is_one_line(
    line: str, message: str, file: Path, frozen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "golden.fdc").write_bytes((GOLDEN / "parallel-plain.fdc").read_bytes())
    (tmp_path / "frozen").symlink_to(frozen)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["view", "--no-browser", *line.split()])
    assert done.exit_code == 1, done.output
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and message in done.stderr


def test_the_page_with_its_decoder_states_its_size(file: Path, bundle: Bundle, tmp_path: Path) -> None:
    made = tmp_path / "page.html"
    options = ["--embed-decoder", "-o", str(made), "--bundle", str(bundle.path)]
    done = CliRunner().invoke(app, ["view", str(file), *options])
    assert done.exit_code == 0, done.output
    assert f"{made.stat().st_size / 1e6:.1f} MB" in done.stdout
    text = made.read_text()
    assert "src=" not in re.sub(
        r"<script type=\"(text/plain|application/json|module)\".*?</script>", "", text, flags=re.S
    )
    again = tmp_path / "again.html"
    CliRunner().invoke(app, ["view", str(file), "--embed-decoder", "-o", str(again), "--bundle", str(bundle.path)])
    assert again.read_bytes() == made.read_bytes()
