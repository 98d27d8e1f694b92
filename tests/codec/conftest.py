"""Fixtures of tests on backbones and on training."""

import io
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import webdataset
from PIL import Image

from codec.diffusion.backbone import Backbone
from tests.conftest import synthetic
from tests.support import tiny_backbones as tiny


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Any attempt to reach a network fails the test, also one that the library under test swallows."""
    attempts = []

    def refuse(*arguments: Any, **_: Any) -> None:
        attempts.append(arguments)
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield
    assert not attempts


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model in every layout: folder/, model.ckpt, model.safetensors, and configuration/ for the single files."""
    root = tmp_path_factory.mktemp("published")
    tiny.write_folder(root / "folder")
    tiny.write_configuration(root / "configuration", root / "folder")
    tiny.write_single_file(root / "model.ckpt")
    tiny.write_single_file(root / "model.safetensors")
    return root


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    """A copy of the diffusers folder that a test may damage."""
    return Path(shutil.copytree(published / "folder", tmp_path / "damaged"))


@pytest.fixture(scope="module")
def backbone(published: Path) -> Backbone:
    return Backbone.load(published / "folder")


@pytest.fixture(scope="module")
def mini() -> Backbone:
    return tiny.tiny_mini()


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tars of seven small photos, one of them no photo at all."""
    folder = tmp_path_factory.mktemp("tars")
    for shard, places in enumerate((range(4), range(4, 7))):
        with webdataset.TarWriter(str(folder / f"{shard:06d}.tar")) as tar:
            for place in places:
                stream = io.BytesIO()
                Image.fromarray(synthetic(60 + place, 80, seed=place)).save(stream, "JPEG", quality=95)
                tar.write({"__key__": f"{place:06d}", "jpg": b"broken" if place == 3 else stream.getvalue()})
    return folder
