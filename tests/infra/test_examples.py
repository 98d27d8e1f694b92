"""The examples that people copy from run as they are: scripts as commands, the notebook in a kernel."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import httpx
import nbformat
import pytest
from nbclient import NotebookClient

from codec import Codec, encode_png
from codec.bundle import Bundle
from tasks.gateway.addresses import link
from tests.conftest import synthetic
from tests.support.archive_builder import folder
from tests.support.fake_s3 import in_environment
from tests.support.tiny_backbones import write_folder

EXAMPLES = Path(__file__).parents[2] / "infra" / "examples"
PHOTOS = {f"{number}.png": encode_png(synthetic(64, 80, number)) for number in range(2)}
SECONDS = 300


@pytest.fixture(scope="module", autouse=True)
def commands() -> Iterator[None]:
    """The commands of this environment, and this package, come first, as in an activated environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
        patch.setenv("PYTHONPATH", str(EXAMPLES.parents[1]), prepend=os.pathsep)
        yield


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("examples") / "photos", PHOTOS)


def run(example: str, *arguments: Path | str, **environment: str) -> str:
    """Runs an example, which must end with status 0, and returns its output."""
    command = [sys.executable if example.endswith(".py") else "bash", str(EXAMPLES / example), *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=SECONDS, env=os.environ | environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_nightly_job_on_s3_compresses_and_audits(photos: Path) -> None:
    with in_environment():
        fsspec.filesystem("s3").mkdir("bucket")
        table = run("nightly_on_s3.sh", photos, "s3://bucket/archive")
        assert "compressed" in table
        keys = fsspec.filesystem("s3").find("bucket/archive/runs")
        assert sum(key.endswith(".tar") for key in keys) == 1


@pytest.fixture(scope="module")
def asked(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An archive, and what the example that made it says of it."""
    archive = tmp_path_factory.mktemp("asked") / "archive"
    return archive, run("compress_and_query.py", photos, archive)


def test_an_archive_is_compressed_and_asked(asked: tuple[Path, str]) -> None:
    assert all(name in asked[1] for name in (*PHOTOS, "lpips"))


def test_a_classifier_learns_from_an_archive(tmp_path: Path) -> None:
    lines = run("train_classifier.py", tmp_path).splitlines()
    right, total = (int(word) for word in lines[-1].split() if word.isdecimal())
    assert total == 24 and right >= 20, "more than by chance"


@contextmanager
def started(example: str, *arguments: Path | str) -> Iterator[str]:
    """An example that serves, and the first line that it prints."""
    command = ["bash", str(EXAMPLES / example), *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.communicate(timeout=SECONDS)


def test_a_gallery_is_served(photos: Path, asked: tuple[Path, str]) -> None:
    with started("serve_gallery.sh", photos, asked[0], "0") as address:
        with httpx.Client(transport=httpx.HTTPTransport(retries=8), timeout=60) as client:
            page = client.get(address)
        assert page.status_code == 200
        assert all(link(name, "png") in page.text for name in PHOTOS)


def test_a_codec_is_trained_on_a_stable_diffusion_folder(photos: Path, tmp_path: Path) -> None:
    entropy = {"dim": 32, "depth": 1, "heads": 2, "top_k": 8, "hyper_channels": 4}
    stages = {"entropy": {"steps": 2, "batch_size": 2, "crop_size": 32}}
    settings = {"name": "tiny", "entropy": entropy, "stages": stages, "evaluation_images": 0}
    (tmp_path / "tiny.json").write_text(json.dumps(settings))
    model = write_folder(tmp_path / "sd")
    run(
        *("stable_diffusion_one_node.sh", photos, model, tmp_path / "out"),
        SETTINGS=str(tmp_path / "tiny.json"),
        LAUNCH=f"accelerate launch --config_file {EXAMPLES.parent}/accelerate/cpu-1.yaml",
    )
    trained = Codec.load(Bundle.open(tmp_path / "out" / "training" / "bundle"), backbone=model)
    assert trained.decode((tmp_path / "out" / "first.fdc").read_bytes()).shape == (64, 80, 3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the kernel's client
def test_the_notebook_runs_and_is_stored_without_outputs(tmp_path: Path) -> None:
    notebook = nbformat.read(EXAMPLES / "fdcodec.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)
    NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output.data for cell in cells for output in cell.outputs if "data" in output]
    assert sum("image/png" in data for data in shown) == 2, "the photo, and the three pictures beside each other"
    assert "coffee.png" in shown[-1]["text/plain"] and "lpips" in shown[-1]["text/plain"]
    printed = "".join(output.get("text", "") for cell in cells for output in cell.outputs)
    assert "AVIF: " in printed and "fdc: PSNR" in printed
