"""Folders of small pictures and archives of them, for the tests of the protocol."""

import hashlib
import io
import json
import shutil
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tasks.compress.process_pair
import tasks.processes.codec_process
import tasks.processes.encode_worker
import tasks.processes.verify_worker
from tasks.archive import layout, log, report
from tasks.archive.manifest import RunSettings
from tasks.archive.schema import MEASURED_ON_THE_WAY
from tasks.compress.runs import Outcome, compress
from tasks.processes.codec_process import Models
from tasks.processes.requests import Request
from tasks.progress import Progress
from tasks.storage.store import Store
from tests.support.fake_codec import FAKE

SMALL = RunSettings(quality=4.0, max_images_per_shard=3, image_timeout=600.0, metrics=(), threads=1)


def png(seed: int, width: int = 40, height: int = 24, fault: int = 0) -> bytes:
    """A PNG of noise, other for each seed; `fault` makes the fake codec misbehave."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    pixels[0, 0] = (fault, 13, 37) if fault else (0, 0, 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def folder(path: Path, names: dict[str, bytes]) -> Path:
    """A folder of files."""
    path.mkdir(parents=True, exist_ok=True)
    for name, content in names.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def bundle(path: Path, salt: str = "salt") -> Path:
    """A bundle of the fake codec."""
    return folder(path, {"salt": salt.encode(), "CARD.md": b"made by the tests\n"})


def pack(
    source: Path | str, archive: Path | str, bundle: Path, settings: RunSettings = SMALL, **options: Any
) -> Outcome:
    """compress with the fake codec."""
    return compress(
        str(source),
        str(archive),
        settings,
        models=Models(str(bundle), codec=FAKE, child_env=("FAKE_CODEC_LEVEL",)),
        **options,
    )


class InProcess:
    """A child process's part played by its own code here: for tests in which nothing dies, since starting costs."""

    def __init__(self, module: Any, models: Models, metrics: Sequence[str] = ()) -> None:
        arguments = Namespace(**{"metrics": list(metrics) or ["none"], **vars(models)})
        self._greeting, self._handle = module._prepare(arguments)

    def __enter__(self) -> "InProcess":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def greeting(self) -> dict[str, Any]:
        return dict(self._greeting)

    def ask(self, request: Request, payload: bytes = b"", *, seconds: float) -> tuple[dict[str, Any], bytes]:
        answer: tuple[dict[str, Any], bytes] = self._handle(request.header(), payload)
        return answer


@contextmanager
def in_process() -> Iterator[None]:
    """The children of everything in tasks are played here."""

    def worker(models: Models, metrics: Sequence[str] = ()) -> InProcess:
        return InProcess(tasks.processes.encode_worker, models, metrics)

    def verifier(models: Models, *, on_card: bool = False) -> InProcess:
        models = models if on_card else replace(models, device="cpu")
        return InProcess(tasks.processes.verify_worker, models)

    parts = (
        ("worker", tasks.processes.codec_process.worker, worker),
        ("verifier", tasks.processes.codec_process.verifier, verifier),
    )
    with pytest.MonkeyPatch.context() as patch:
        for module in [module for name, module in sys.modules.items() if name.startswith("tasks.")]:
            for name, real, played in parts:
                if getattr(module, name, None) is real:
                    patch.setattr(module, name, played)
        tasks.compress.process_pair.dismiss_all()
        yield
        tasks.compress.process_pair.dismiss_all()


def rows(archive: Path | str, order: str = "run, key") -> list[dict[str, Any]]:
    """The report without what is measured on the way."""
    found = report.query(Store(str(archive)), f"SELECT * FROM rows ORDER BY {order}")
    return [{name: value for name, value in row.items() if name not in MEASURED_ON_THE_WAY} for row in found]


def manifest_name(archive: Path | str, run: int = 1) -> str:
    """The name of the manifest of a run."""
    store = Store(str(archive))
    head = log.read(store)
    return head.opened if run == head.open_run else log.manifest_of(log.seal(store, head, run), run)


def reopened(archive: Path, *missing: int) -> None:
    """Make an archive what it was before its last run was sealed, and some of the shards were committed."""
    store = Store(str(archive))
    head = log.read(store)
    assert head.open_run is None
    for name in (layout.seal(head.runs), layout.record(head.record), *(layout.part(head.runs, n) for n in missing)):
        (archive / name).unlink()
    shutil.rmtree(archive / layout.TABLES / f"{head.record:09d}", ignore_errors=True)


def snapshot(archive: Path | str) -> dict[str, str]:
    """The content hash of every file of an archive; parts and tables count by their rows, a seal by its parts.

    What was found about the store says where it is, and is left out.
    """
    store = Store(str(archive))
    state: dict[str, str] = {}
    for item in store.list():
        content = store.read(item.name)
        own = (f"{layout.TABLES}/", f"{layout.LOG}/", f"{layout.PLACES}/")
        if "/report/" in item.name or item.name.startswith(own):
            continue
        if item.name.endswith("complete.json"):
            content = json.dumps([part["name"] for part in json.loads(content)["parts"]]).encode()
        state[item.name] = hashlib.sha256(content).hexdigest()
    state["rows"] = hashlib.sha256(repr(rows(archive)).encode()).hexdigest()
    return state


class Counter(Progress):
    """A progress that counts."""

    def __init__(self) -> None:
        self.total = self.done = 0

    def begin(self, images: int) -> None:
        self.total += images

    def advance(self, images: int) -> None:
        self.done += images
