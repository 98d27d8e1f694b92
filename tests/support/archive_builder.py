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
    # 13 and 37 mark a fault for fake_codec; black keeps the noise of another seed from looking like one.
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
        # As the command line of encode_worker, where an option cannot have an empty list of values.
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
        if not on_card:
            models = replace(models, device="cpu")
        return InProcess(tasks.processes.verify_worker, models)

    parts = (
        ("worker", tasks.processes.codec_process.worker, worker),
        ("verifier", tasks.processes.codec_process.verifier, verifier),
    )
    # Modules import these functions by name, so each module that holds one is patched.
    modules = [module for name, module in sys.modules.items() if name.startswith("tasks.")]
    with pytest.MonkeyPatch.context() as patch:
        for module in modules:
            for name, real, played in parts:
                if getattr(module, name, None) is real:
                    patch.setattr(module, name, played)
        # Pairs of children are kept for later shards: no real one may be met in here, no played one afterwards.
        tasks.compress.process_pair.dismiss_all()
        yield
        tasks.compress.process_pair.dismiss_all()


def rows(archive: Path | str, order: str = "run, key") -> list[dict[str, Any]]:
    """The report without what is measured on the way."""
    found = report.query(Store(str(archive)), f"SELECT * FROM rows ORDER BY {order}")
    for row in found:
        for name in MEASURED_ON_THE_WAY:
            row.pop(name, None)
    return found


def manifest_name(archive: Path | str, run: int = 1) -> str:
    """The name of the manifest of a run."""
    store = Store(str(archive))
    head = log.read(store)
    if run == head.open_run:
        return head.opened
    return log.manifest_of(log.seal(store, head, run), run)


def reopened(archive: Path, *missing: int) -> None:
    """Make an archive what it was before its last run was sealed, and some of the shards were committed."""
    store = Store(str(archive))
    head = log.read(store)
    assert head.open_run is None
    lost_parts = [layout.part(head.runs, shard) for shard in missing]
    for name in (layout.seal(head.runs), layout.record(head.record), *lost_parts):
        (archive / name).unlink()
    # Tables carry the number of the record that put them in force: this run's were made when it was sealed.
    shutil.rmtree(archive / layout.TABLES / f"{head.record:09d}", ignore_errors=True)


def snapshot(archive: Path | str) -> dict[str, str]:
    """The content hash of every file of an archive; parts and tables count by their rows, a seal by its parts.

    What was found about the store says where it is, and is left out.
    """
    store = Store(str(archive))
    state: dict[str, str] = {}
    own = (f"{layout.TABLES}/", f"{layout.LOG}/", f"{layout.PLACES}/")
    for item in store.list():
        content = store.read(item.name)
        # These hold seconds, dates or the archive's address, which differ between two runs of the same work.
        if "/report/" in item.name or item.name.startswith(own):
            continue
        if item.name.endswith("complete.json"):
            # A seal lists sizes and hashes of the parts, which hold seconds; the names are what must agree.
            parts = json.loads(content)["parts"]
            content = json.dumps([part["name"] for part in parts]).encode()
        state[item.name] = hashlib.sha256(content).hexdigest()
    state["rows"] = hashlib.sha256(repr(rows(archive)).encode()).hexdigest()
    return state


class Counter(Progress):
    """A progress that counts."""

    def __init__(self) -> None:
        self.total = 0
        self.done = 0

    def begin(self, images: int) -> None:
        self.total += images

    def advance(self, images: int) -> None:
        self.done += images
