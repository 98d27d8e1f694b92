"""The wheel runs outside the checkout, and what its archive keeps of it restores pictures with nothing else at hand."""

import importlib.metadata
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from PIL import Image

from tasks.archive import decoder_wheel
from tasks.archive import wheel as escrowed
from tests.conftest import synthetic
from tests.support.archive_builder import folder
from tests.support.prefect_server import Server

ROOT = Path(__file__).parents[2]
SHIPPED = ("codec", "flows", "tasks", "LICENSE", "README.md", "pyproject.toml")
"""What a wheel is built from: no tests, no infra."""
NO_NETWORK = ["unshare", "--map-root-user", "--net"]


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """The output of a command that sees nothing of the checkout, with its home and caches in `cwd`."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "OMP_NUM_THREADS")}
    home = {"HOME": str(cwd), "PREFECT_HOME": str(cwd / "prefect"), "COLUMNS": "200", "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=cwd, env=kept | home | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def environment(place: Path, wheel: Path, *options: str, hidden: str = "", only: Collection[str] = ()) -> Path:
    """A virtual environment with a wheel and the dependencies that are installed here; its folder of programs.

    `hidden` is a package that counts as installed but cannot be imported. `only` names the files and folders of
    site-packages that are there at all.
    """
    venv.EnvBuilder(symlinks=True).create(place)
    dependencies = place / "dependencies"
    dependencies.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "fdcodec" not in entry.name and entry.name != hidden and (not only or entry.name in only):
            (dependencies / entry.name).symlink_to(entry)
    (site,) = place.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(f"{dependencies}\n")
    install = ["-m", "pip", "--python", str(place / "bin" / "python"), "install", "--quiet", "--no-index", *options]
    run(sys.executable, *install, wheel, cwd=place)
    return place / "bin"


def needed(names: Iterable[str]) -> set[str]:
    """The entries of site-packages that belong to these distributions and their dependencies."""
    found: dict[str, importlib.metadata.Distribution] = {}
    wanted = [Requirement(name) for name in names]
    while wanted:
        requirement = wanted.pop()
        if requirement.name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found[requirement.name] = own = importlib.metadata.distribution(requirement.name)
        wanted += map(Requirement, own.requires or [])
    return {file.parts[0] for own in found.values() for file in own.files or []}


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


def test_the_wheel_holds_bundles_settings_format_and_licenses_and_nothing_of_the_workshop(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"codec/bundles/mini/bundle.json", "codec/bundles/mini/entropy.safetensors", "codec/FORMAT.md"} <= names
    assert {"codec/LICENSES.md", "codec/training/settings/mini.toml"} <= names
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


USE = """
import json, sys
from tasks.decoder import decode, encode, info, restore

data = encode("photo.png", quality=8)
picture = decode(data)
print(json.dumps({"pixels": picture.pixels.shape, "info": info(data)}))
print(json.dumps(vars(restore(sys.argv[1], "all"))))
print(json.dumps(vars(restore(sys.argv[1], "named", ["a/photo.png", "deep.tif", "c.png"], kind="jpeg:90"))))
"""
LACKS = """
import importlib
for name in ("flows", "flows.compress_archive", "tasks.compress.runs", "codec.training", "codec.metrics.quality"):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        print(error)
"""
ALONE = """
import importlib, pkgutil, codec, tasks
for package in (codec, tasks):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".", onerror=lambda name: None):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            print(error)
for name in ("prefect", "webdataset", "s3fs", "pyarrow", "lpips", "accelerate", "torchvision", "typer", "imagecodecs"):
    assert importlib.util.find_spec(name) is None, name
"""


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that holds only fdcodec-decoder and its dependencies, as pip resolves them."""
    home = tmp_path_factory.mktemp("decoder")
    run(sys.executable, "-m", "tasks.archive.decoder_wheel", home, cwd=ROOT)
    (built,) = home.glob("fdcodec_decoder-*.whl")
    return environment(home / "venv", built, only=needed(decoder_wheel.DEPENDENCIES))


def test_the_decoder_alone_encodes_decodes_informs_and_restores(archive: Path, decoder: Path, tmp_path: Path) -> None:
    Image.fromarray(synthetic(40, 56)).save(tmp_path / "photo.png")
    lines = run(*NO_NETWORK, decoder / "python", "-c", USE, archive, cwd=tmp_path).splitlines()
    coded, everything, named = map(json.loads, lines)
    assert coded["pixels"] == [40, 56, 3]
    assert (coded["info"]["width"], coded["info"]["height"], coded["info"]["quality"]) == (56, 40, 8)
    assert everything == {"files": 2, "failures": []}
    (picture,) = (tmp_path / "all").rglob("*.png")
    with Image.open(picture) as image:
        difference = np.abs(np.asarray(image).astype(int) - synthetic(40, 56))
    assert difference.mean() < 30
    assert named == {"files": 2, "failures": ["c.png: not found in any tar"]}
    with Image.open(tmp_path / "named" / "a" / "photo.png.jpg") as image:
        assert image.size == (56, 40)
    assert (tmp_path / "named" / "deep.tif").read_bytes() == deep()


def test_what_the_decoder_lacks_is_one_line_that_names_fdcodec(decoder: Path, tmp_path: Path) -> None:
    lines = run(decoder / "python", "-c", LACKS, cwd=tmp_path).splitlines()
    packages = ["flows", "flows", "tasks.compress", "codec.training", "codec.metrics"]
    assert lines == [f"fdcodec-decoder has no {package}: install fdcodec instead" for package in packages]


def test_every_module_of_the_decoder_needs_only_its_dependencies(decoder: Path, tmp_path: Path) -> None:
    lines = run(decoder / "python", "-c", ALONE, cwd=tmp_path).splitlines()
    assert lines
    for_gpus = {f"No module named {name!r}" for name in ("numba", "triton")}  # used where they are installed
    assert [line for line in lines if "install fdcodec instead" not in line and line not in for_gpus] == []


def test_the_decoder_is_typed_licensed_and_of_the_version_of_fdcodec(decoder: Path) -> None:
    (site,) = decoder.parent.glob("lib/python*/site-packages")
    (own,) = importlib.metadata.distributions(name="fdcodec-decoder", path=[str(site)])
    assert own.version == importlib.metadata.version("fdcodec")
    assert (site / "tasks" / "py.typed").exists() and (site / "codec" / "py.typed").exists()
    assert "Apache License" in (own.read_text("licenses/LICENSE") or "")
    assert {"codec/LICENSES.md", "codec/FORMAT.md"} <= {str(file) for file in own.files or []}
