"""The wheel runs outside the checkout, and what its archive keeps of it restores pictures with nothing else at hand."""

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.archive import wheel as escrowed
from tests.conftest import synthetic
from tests.support.archive_builder import folder
from tests.support.prefect_server import Server

ROOT = Path(__file__).parents[2]
SHIPPED = ("codec", "flows", "tasks", "LICENSE", "README.md", "pyproject.toml")
"""What a wheel is built from: no tests, no infra."""
NO_NETWORK = ["unshare", "--map-root-user", "--net"]


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """What a command prints; it finds nothing of the checkout, and its home and caches are in `cwd`."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "OMP_NUM_THREADS")}
    home = {"HOME": str(cwd), "PREFECT_HOME": str(cwd / "prefect"), "COLUMNS": "200", "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=cwd, env=kept | home | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def environment(place: Path, wheel: Path, *options: str, hidden: str = "") -> Path:
    """A virtual environment with a wheel and the dependencies that are installed here; its folder of programs.

    `hidden` is a package that counts as installed but cannot be imported.
    """
    venv.EnvBuilder(symlinks=True).create(place)
    dependencies = place / "dependencies"
    dependencies.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "fdcodec" not in entry.name and entry.name != hidden:
            (dependencies / entry.name).symlink_to(entry)
    (site,) = place.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(f"{dependencies}\n")
    install = ["-m", "pip", "--python", str(place / "bin" / "python"), "install", "--quiet", "--no-index", *options]
    run(sys.executable, *install, wheel, cwd=place)
    return place / "bin"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without network from what is shipped."""
    home = tmp_path_factory.mktemp("wheel")
    tree = home / "tree"
    for name in SHIPPED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tree / name)
    build = ["-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    run(sys.executable, *build, "--wheel-dir", home, tree, cwd=home)
    (built,) = home.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, wheel: Path, server: Server) -> Path:
    """An archive made outside the checkout by the installed flow."""
    home = tmp_path_factory.mktemp("installed")
    programs = environment(home / "venv", wheel, "--no-deps")
    Image.fromarray(synthetic(40, 56)).save(home / "photo.png")
    run(programs / "fdc", "encode", "photo.png", "-o", "photo.fdc", cwd=home)
    assert (home / "photo.fdc").read_bytes()[:4] == b"\x8fFDC"
    folder(home / "source", {"a/photo.png": (home / "photo.png").read_bytes(), "deep.tif": deep()})
    command = [programs / "python", "-m", "flows.compress_archive", "source", "archive"]
    options = ("--metrics", "none", "--threads", "1", "--workers", "1")
    assert "compress-archive" in run(*command, *options, cwd=home, PREFECT_API_URL=server.url)
    assert run(programs / "python", "-c", "import tasks; print(tasks.__file__)", cwd=home).startswith(str(home))
    return home / "archive"


def deep() -> bytes:
    """A picture of 16 bits, which is kept as it is."""
    buffer = io.BytesIO()
    Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30)).save(buffer, "TIFF")
    return buffer.getvalue()


def test_the_wheel_holds_bundles_settings_format_and_licences_and_nothing_of_the_workshop(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"codec/bundles/mini/bundle.json", "codec/bundles/mini/entropy.safetensors", "codec/FORMAT.md"} <= names
    assert {"codec/LICENCES.md", "codec/training/settings/mini.toml"} <= names
    assert {"codec/py.typed", "tasks/py.typed", "flows/py.typed"} <= names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests", "infra"))]


def test_the_kept_wheel_has_every_file_of_the_built_one_but_the_bundles(wheel: Path, tmp_path: Path) -> None:
    name, content = escrowed.build()
    (tmp_path / name).write_bytes(content)
    with zipfile.ZipFile(wheel) as built, zipfile.ZipFile(tmp_path / name) as kept:
        packages = [name for name in built.namelist() if not re.match(r"codec/bundles/|fdcodec-", name)]
        assert sorted(packages) == sorted(name for name in kept.namelist() if not name.startswith("fdcodec-"))
        assert all(built.read(name) == kept.read(name) for name in packages)


def test_an_archive_is_restored_from_its_own_escrow_without_network_prefect_or_caches(
    archive: Path, tmp_path: Path
) -> None:
    (software,) = (archive / "escrow" / "software").iterdir()
    run("sha256sum", "--check", "--strict", "SHA256SUMS", cwd=software)
    (kept,) = software.glob("*.whl")
    programs = environment(tmp_path / "venv", kept, "--constraint", str(software / "constraints.txt"), hidden="prefect")
    python, home = programs / "python", tmp_path / "home"
    home.mkdir()
    assert run(python, "-c", "import importlib.util as u; print(u.find_spec('prefect'))", cwd=home) == "None\n"
    no_route = "import socket; print(socket.socket().connect_ex(('192.0.2.1', 9)) != 0)"
    assert run(*NO_NETWORK, python, "-c", no_route, cwd=home) == "True\n"
    (told,) = [line for line in (software / "RESTORE.md").read_text().splitlines() if "restore(" in line]
    _, *arguments = shlex.split(told.replace("ARCHIVE", str(archive)).replace("FOLDER", str(home / "out")))
    assert "Restored(images=2, failures=[]" in run(*NO_NETWORK, python, *arguments, cwd=home)
    with Image.open(home / "out" / "a" / "photo.png") as image:
        difference = np.abs(np.asarray(image).astype(int) - synthetic(40, 56))
    assert difference.mean() < 30
    assert (home / "out" / "deep.tif").read_bytes() == deep()
    assert [path.name for path in home.iterdir()] == ["out"], "no cache was made"
