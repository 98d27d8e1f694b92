"""Pictures are measured in parallel processes, to the same rows as in one; what kills a process is a failed row."""

import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from codec import encode_png
from codec.evaluation.runner import Evaluation, EvaluationRow, evaluate
from codec.evaluation.spec import EvaluationConfig
from tasks.evaluation import measure
from tasks.progress import Progress
from tests.conftest import synthetic

KILL = f"{sys.executable} -c 'import os; os.kill(os.getppid(), {int(signal.SIGKILL)})' {{input}} {{output}}"
COPY = f"{sys.executable} -c 'import shutil, sys; shutil.copy(*sys.argv[1:3])' {{input}} {{output}}"
SLEEP = f"{sys.executable} -c 'import time; time.sleep(100)' {{input}} {{output}}"


class Counting(Progress):
    def __init__(self) -> None:
        self.total = self.done = 0

    def begin(self, images: int) -> None:
        self.total += images

    def advance(self, images: int) -> None:
        self.done += images


@pytest.fixture
def config(tmp_path: Path) -> EvaluationConfig:
    """Three pictures, JPEG, and external codecs that copy, hang and kill the process that called them."""
    (tmp_path / "pictures").mkdir()
    for seed in range(3):
        (tmp_path / "pictures" / f"{seed}.png").write_bytes(encode_png(synthetic(40, 50, seed)))
    described = tmp_path / "codecs.toml"
    described.write_text(
        "".join(
            f'[{name}]\nencode = "{program}"\ndecode = "{COPY}"\nsettings = [1]\npoints = [1]\nseconds = {seconds}\n'
            for name, program, seconds in (("copy", COPY, 90), ("hang", SLEEP, 1), ("kill", KILL, 90))
        )
    )
    return EvaluationConfig(
        str(tmp_path / "pictures"), str(tmp_path / "out"), ("jpeg", "copy"), (2.0, 4.0), commands=str(described)
    )


def without_seconds(rows: list[EvaluationRow]) -> list[EvaluationRow]:
    return [{name: value for name, value in row.items() if "seconds" not in name} for row in rows]


NETWORKS = ("ms_ssim", "lpips_alex", "lpips_vgg", "dists")


def alike(rows: list[EvaluationRow], others: list[EvaluationRow]) -> bool:
    """Assert equal values. Last bits of what networks measure depend on the addresses of tensors, and may differ."""
    for row, other in zip(rows, others, strict=True):
        for name in row.keys() | other.keys():
            one, two = row[name], other[name]
            assert one == (pytest.approx(two, rel=1e-5) if name in NETWORKS and two is not None else two), name
    return True


def test_two_processes_give_the_rows_of_one_and_measure_nothing_twice(config: EvaluationConfig, tmp_path: Path) -> None:
    codecs, _ = config.open()
    progress = Counting()
    assert measure(config, codecs, workers=2, progress=progress) == 6
    assert (progress.done, progress.total) == (6, 6)
    evaluate(config.jobs(codecs), tmp_path / "alone")
    rows, alone = (without_seconds(Evaluation(tmp_path / place).rows()) for place in ("out", "alone"))
    assert alike(rows, alone) and len(rows) == 9 and {row["status"] for row in rows} == {"measured"}
    (tmp_path / "out" / "rows" / "jpeg" / "1.png.parquet").unlink()
    assert measure(config, codecs, workers=2) == 1
    assert alike(without_seconds(Evaluation(tmp_path / "out").rows()), rows)
    assert measure(config, codecs) == 0


def test_a_codec_that_hangs_or_kills_its_process_costs_its_rows(config: EvaluationConfig, tmp_path: Path) -> None:
    chosen = replace(config, codecs=("kill", "hang", "copy"))
    (tmp_path / "pictures" / "0.png").unlink()
    measure(chosen, chosen.open()[0], workers=2)
    errors = {(row["codec"], row["image"]): row["error"] for row in Evaluation(tmp_path / "out").rows()}
    for image in ("1.png", "2.png"):
        assert errors["kill", image] == "its process ended with SIGKILL"
        assert "of hang did not end within 1 s" in errors["hang", image]
        assert errors["copy", image].startswith("psnr_db: identical")  # what is undefined says why


def test_a_picture_that_takes_too_long_is_a_failed_row(config: EvaluationConfig, tmp_path: Path) -> None:
    described = tmp_path / "codecs.toml"
    described.write_text(described.read_text().replace("seconds = 1\n", "seconds = 90\n"))
    chosen = replace(config, codecs=("hang",))
    (tmp_path / "pictures" / "0.png").unlink()
    (tmp_path / "pictures" / "1.png").unlink()
    measure(chosen, chosen.open()[0], seconds=1)
    (row,) = Evaluation(tmp_path / "out").rows()
    assert (row["status"], row["error"]) == ("failed", "took too long")
