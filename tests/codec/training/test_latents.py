"""Cached latents: encoded once, resumed where they were stopped, of bounded size, and never of other photos."""

import shutil
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from codec import SettingsError
from codec.diffusion.backbone import Backbone
from codec.training import latents
from codec.training.latents import CachedLatents
from tests.support.tiny_bundles import tiny_backbone
from tests.support.tiny_crops import sampler

ONE_BATCH = 4 * 4 * 4 * 4 * 4
"""Bytes of four latents of 32-pixel crops."""


def cached(tars: Path, folder: Path, batches: int = 2, seed: int = 1, **changes: int) -> CachedLatents:
    return CachedLatents(sampler(tars, **changes), tiny_backbone(seed), batches, folder, Accelerator(cpu=True))


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that are encoded from now on."""
    encode, sizes = Backbone.encode, list[int]()

    def counted(self: Backbone, pixels: Tensor) -> Tensor:
        sizes.append(len(pixels))
        return encode(self, pixels)

    monkeypatch.setattr(Backbone, "encode", counted)
    return sizes


def test_cached_latents_are_those_of_the_backbone_and_are_encoded_once(
    tars: Path, tmp_path: Path, encoded: list[int]
) -> None:
    first = cached(tars, tmp_path)
    with torch.no_grad():
        assert torch.equal(first.batch(5), tiny_backbone().encode(sampler(tars).batch(1)))
    assert torch.equal(first.batch(1, rank=1, world=2), first.batch(1)[2:])
    encoded.clear()
    assert torch.equal(cached(tars, tmp_path).batch(0), first.batch(0))
    assert encoded == []


def test_an_interrupted_cache_goes_on_with_the_batches_that_are_missing(
    tars: Path, tmp_path: Path, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latents, "BYTES_PER_FILE", ONE_BATCH)
    whole = [cached(tars, tmp_path / "whole", 5).batch(step) for step in range(5)]
    save, saved = latents.save_file, list[Path]()

    def killed(tensors: dict[str, Tensor], path: Path) -> None:
        save(tensors, path)
        saved.append(path)
        if len(saved) == 3:
            raise KeyboardInterrupt  # before the file is put in place

    with monkeypatch.context() as patch:
        patch.setattr(latents, "save_file", killed)
        with pytest.raises(KeyboardInterrupt):
            cached(tars, tmp_path / "cut", 5)
    encoded.clear()
    resumed = cached(tars, tmp_path / "cut", 5)
    assert len(encoded) == 3
    assert all(torch.equal(resumed.batch(step), whole[step]) for step in range(5))
    assert not list((tmp_path / "cut").rglob("*.spool"))
    file = sorted((tmp_path / "cut").rglob("*.safetensors"))[2]
    file.write_bytes(file.read_bytes()[:-100])  # as a power cut may leave it
    encoded.clear()
    mended = cached(tars, tmp_path / "cut", 5)
    assert len(encoded) == 1
    assert all(torch.equal(mended.batch(step), whole[step]) for step in range(5))
    encoded.clear()
    assert torch.equal(cached(tars, tmp_path / "cut", 7).batch(4), whole[4])
    assert len(encoded) == 2, "more batches are added to those that are there"


def test_latents_of_another_backbone_photo_or_crop_are_not_taken_from_the_cache_and_deleted(
    tars: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(tars, tmp_path / "tars"))
    first = cached(data, tmp_path / "latents")
    before = first.batch(0)
    assert not torch.equal(cached(data, tmp_path / "latents", seed=2).batch(0), before)
    assert cached(data, tmp_path / "latents", crop_size=64).batch(0).shape[-1] == 8
    (tar, *_) = sorted(data.glob("*.tar"))
    content = bytearray(tar.read_bytes())
    place = content.index(b"\xff\xda") + 40  # coded pixels of the first photo: the size stays the same
    content[place] ^= 0x10
    tar.write_bytes(content)
    changed = cached(data, tmp_path / "latents")
    assert changed.folder != first.folder
    assert [path.name for path in (tmp_path / "latents").iterdir()] == [changed.folder.name]


def test_a_cache_that_would_be_too_large_is_refused_before_it_is_begun(tars: Path, tmp_path: Path) -> None:
    batches = 1000
    limit = batches * ONE_BATCH / 2**30
    arguments = (sampler(tars), tiny_backbone(), batches, tmp_path / "latents", Accelerator(cpu=True))
    with pytest.raises(SettingsError, match=r"cached_batches = 1000 would take 0\.00 GiB, cache_gib is"):
        CachedLatents(*arguments, limit_gib=0.999 * limit)
    assert not (tmp_path / "latents").exists()
    stored = CachedLatents(*arguments[:2], 10, *arguments[3:], limit_gib=limit)
    size = sum(path.stat().st_size for path in stored.folder.iterdir())
    assert 10 * ONE_BATCH <= size < 10 * ONE_BATCH + 2000
