"""A training writes to a URL as to a folder: checkpoints arrive whole, and another machine goes on from them."""

import json
import shutil
import tempfile
from pathlib import Path

import fsspec
import pytest

from tasks.storage.store import Store
from tasks.training.process import evaluation, train
from tasks.training.remote_output import RemoteOutput
from tests.tasks.training.test_process import standin

__all__ = ["standin"]

URL = "memory://bucket/training"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty store, and local folders below the test's own."""
    fsspec.filesystem("memory").store.clear()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "machine"))
    (tmp_path / "machine").mkdir()


def checkpoint(folder: Path, step: int) -> None:
    """What codec.training.checkpoint writes."""
    place = folder / "checkpoints"
    place.mkdir(parents=True, exist_ok=True)
    (place / f"entropy-{step}.safetensors").write_bytes(b"weights %d" % step)
    (place / "entropy.json").write_text(json.dumps({"step": step, "pieces": [f"entropy-{step}.safetensors"]}))
    for old in place.glob("*.safetensors"):
        if old.name != f"entropy-{step}.safetensors":
            old.unlink()


def stored() -> dict[str, bytes]:
    store = Store(URL)
    return {item.name: store.read(item.name) for item in store.list()}


def test_a_training_leaves_at_a_url_what_it_leaves_in_a_folder(standin: object) -> None:
    training = standin("good")  # type: ignore[operator]
    bundle = train(training.__class__(training.shards, training.settings, URL, module=training.module), print, print)
    assert bundle == f"{URL}/bundle"
    assert evaluation(URL) == [{"quality": 8.0, "bpp": 0.1}]
    assert len(stored()["progress.jsonl"].splitlines()) == 3
    assert not [name for name in stored() if name.startswith((".", "data/"))], "what is local stays so"


def test_another_machine_goes_on_from_the_checkpoint_that_is_stored(tmp_path: Path) -> None:
    first = RemoteOutput(URL)
    first.folder.mkdir()
    first.fetch()
    checkpoint(first.folder, 10)
    assert first.checkpoint_is_new()
    first.send()
    assert not first.checkpoint_is_new()
    shutil.rmtree(first.folder)
    other = RemoteOutput(URL)
    other.folder.mkdir()
    (other.folder / "stale").touch()
    other.fetch()
    assert (other.folder / "checkpoints" / "entropy-10.safetensors").read_bytes() == b"weights 10"
    assert not (other.folder / "stale").exists()
    checkpoint(other.folder, 20)
    other.send()
    assert set(stored()) == {"checkpoints/entropy.json", "checkpoints/entropy-20.safetensors"}


def test_a_checkpoint_that_is_replaced_while_it_is_sent_never_leaves_an_index_without_its_pieces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = RemoteOutput(URL)
    output.folder.mkdir()
    output.fetch()
    checkpoint(output.folder, 10)
    output.send()
    checkpoint(output.folder, 20)
    replace, step = Store.replace, iter((30, 40))

    def overtaken(store: Store, name: str, content: bytes) -> None:
        replace(store, name, content)
        if (following := next(step, None)) is not None:
            checkpoint(output.folder, following)

    monkeypatch.setattr(Store, "replace", overtaken)
    for _ in range(3):
        output.send()
        index = json.loads(stored()["checkpoints/entropy.json"])
        assert {f"checkpoints/{piece}" for piece in index["pieces"]} <= set(stored())
    assert index["step"] == 40
