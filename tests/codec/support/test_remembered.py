"""Only the commands encode and decode believe a self-test of the last day, and only under the very same conditions."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from codec import Codec, encode_png
from codec.bundle import Bundle
from codec.cli import app
from codec.entropy.integer import ExactEntropyModel
from codec.errors import BundleError
from codec.images import Picture
from codec.support import remembered
from tests.conftest import synthetic


@pytest.fixture(autouse=True)
def tests_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every self-test that runs, with a memory of its own that is empty."""
    computed, seen = ExactEntropyModel.known_answer, list[str]()

    def counted(self: ExactEntropyModel) -> str:
        seen.append(computed(self))
        return seen[-1]

    monkeypatch.setattr(ExactEntropyModel, "known_answer", counted)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return seen


def fdc(*arguments: object) -> Any:
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done


def test_encode_and_decode_test_once_a_day_and_self_test_every_time(
    bundle: Bundle, tmp_path: Path, tests_run: list[str]
) -> None:
    source, coded = tmp_path / "in.png", tmp_path / "out.fdc"
    source.write_bytes(encode_png(Picture(synthetic(20, 30))))
    fdc("encode", source, "-o", coded, "--bundle", bundle.path)
    fdc("decode", coded, "-o", tmp_path / "out.png", "--bundle", bundle.path)
    assert len(tests_run) == 1
    fdc("self-test", "--bundle", bundle.path)
    assert len(tests_run) == 2
    (place,) = (file for file in (tmp_path / "cache").rglob("*") if file.is_file())
    for changed in (-remembered.LONGEST_SECONDS - 1, 3600):  # too old, and from the future
        os.utime(place, (time.time() + changed,) * 2)
        fdc("decode", coded, "-o", tmp_path / "out.png", "--overwrite", "--bundle", bundle.path)
    assert len(tests_run) == 4


def test_a_process_that_lives_longer_always_tests(bundle: Bundle, tests_run: list[str]) -> None:
    remembered.keep(bundle.id, "cpu")
    for _ in range(2):
        Codec.load(bundle)
    assert len(tests_run) == 2


def test_other_conditions_are_not_believed(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    remembered.keep(bundle.id, "cpu")
    assert remembered.recall(bundle.id, "cpu")
    changes = {
        "another bundle": lambda patch: patch.setattr(remembered, "_built", remembered._built),
        "processor": lambda patch: patch.setattr(remembered, "_processor", lambda: ["another"]),
        "torch": lambda patch: patch.setattr(torch, "__version__", "another"),
        "build": lambda patch: patch.setattr(remembered, "_built", lambda: {"size": 1}),
        "threads": lambda patch: patch.setattr(torch, "get_num_threads", lambda: 77),
        **{
            name: lambda patch, name=name: patch.setenv(name, "another")
            for name in ("ATEN_CPU_CAPABILITY", "MKL_CBWR", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
        },
    }
    for name, change in changes.items():
        with monkeypatch.context() as patch:
            change(patch)
            asked = "0" * 64 if name == "another bundle" else bundle.id
            assert not remembered.recall(asked, "cpu"), name
    assert remembered.recall(bundle.id, "cpu")


def test_a_test_that_fails_is_not_remembered(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ExactEntropyModel, "known_answer", lambda _: "wrong")
    for _ in range(2):
        with pytest.raises(BundleError, match="does not compute its known answer"):
            Codec.load(bundle, remember=True)
    assert not remembered.recall(bundle.id, "cpu")


def test_without_a_place_to_write_nothing_is_remembered(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    remembered.keep(bundle.id, "cpu")
    assert not remembered.recall(bundle.id, "cpu")
