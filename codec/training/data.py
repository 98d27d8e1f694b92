"""Training photos from WebDataset tars, read through their offsets; every draw is a function of (seed, step)."""

import hashlib
import io
import os
import signal
import tarfile
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from multiprocessing import parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from typing import Any, Protocol, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from codec.errors import SettingsError

EXTENSIONS = frozenset(["jpg", "jpeg", "png", "webp", "bmp", "ppm", "tif", "tiff", "gif"])
TRIES = 16
"""Photos tried for one crop before giving up on undecodable ones."""
CACHED_PHOTOS = 8
"""Decoded photos in memory, from which further crops are taken."""
BATCHES_AHEAD = 2
"""Batches that are prepared while one is used, for each process."""


@dataclass(frozen=True)
class TarMember:
    """Location of a photo: a tar, and the range of its bytes."""

    tar: Path
    name: str
    offset: int
    size: int


class ShardedImages:
    """Random access to the image members of WebDataset tars. Raises SettingsError if there are none."""

    def __init__(self, sources: Sequence[str | Path]) -> None:
        self.members: list[TarMember] = []
        for source in sources:
            for tar in _tars(Path(source)):
                self.members += _index(tar)
        if not self.members:
            names = ", ".join(str(source) for source in sources)
            raise SettingsError(f"no photos in {names}: give WebDataset tars, or folders of them")

    def __len__(self) -> int:
        return len(self.members)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 (64 hex digits) of the bytes of every photo, in order."""
        digest = hashlib.sha256()
        for index, member in enumerate(self.members):
            digest.update(f"{member.size}\n".encode())
            digest.update(self.read(index))
        return digest.hexdigest()

    def key(self, index: int) -> str:
        """The member's name in its tar."""
        return self.members[index].name

    def read(self, index: int) -> bytes:
        """The original bytes of a photo."""
        member = self.members[index]
        with member.tar.open("rb") as stream:
            stream.seek(member.offset)
            return stream.read(member.size)


class CropSampler:
    """Random crops. Each photo is seen equally often; order and positions follow from the seed."""

    def __init__(
        self,
        images: ShardedImages,
        *,
        seed: int,
        batch_size: int,
        crop_size: int,
        crops_per_image: int = 1,
        rescale: tuple[float, float] = (0.5, 1.0),
        flip: bool = True,
    ) -> None:
        if batch_size % crops_per_image:
            raise SettingsError(f"a batch of {batch_size} cannot hold {crops_per_image} crops of each photo")
        self.images = images
        self.seed = seed
        self.batch_size = batch_size
        self.crop_size = crop_size
        self.crops_per_image = crops_per_image
        self.rescale = rescale
        self.flip = flip
        self._photo = lru_cache(maxsize=CACHED_PHOTOS)(self._decode)

    def __getstate__(self) -> dict[str, Any]:
        # for loader processes: a cache cannot be pickled, and each process has its own
        return {name: value for name, value in vars(self).items() if name != "_photo"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._photo = lru_cache(maxsize=CACHED_PHOTOS)(self._decode)

    def batch(self, step: int, *, rank: int = 0, world: int = 1) -> Tensor:
        """The rank's slice of the step's batch: (batch_size / world, 3, crop, crop) float32 in [-1, 1].

        The whole batch depends on (seed, step) alone; step may be negative, for draws outside of training.
        """
        if self.batch_size % world:
            raise SettingsError(f"a batch of {self.batch_size} is not divisible by {world} processes")
        share = self.batch_size // world
        crops = [self._crop(step, number) for number in range(rank * share, (rank + 1) * share)]
        stacked = torch.from_numpy(np.stack(crops))
        return stacked.permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1

    def _crop(self, step: int, number: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        # SeedSequence takes no negative numbers, and steps outside of training are negative
        draws = np.random.default_rng(np.random.SeedSequence([self.seed, step % 2**64, number]))
        photo = self._photo_at((step * self.batch_size + number) // self.crops_per_image)
        size = self.crop_size
        scale = draws.uniform(*self.rescale)
        side = min(round(size / scale), photo.width, photo.height)
        # the order of these draws is part of what the seed determines
        left = int(draws.integers(photo.width - side + 1))
        top = int(draws.integers(photo.height - side + 1))
        box = (left, top, left + side, top + side)
        crop = np.asarray(photo.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0))
        if self.flip and draws.random() < 0.5:
            return crop[:, ::-1]
        return crop

    def _photo_at(self, position: int) -> Image.Image:
        """The photo at a position of the endless order; an undecodable one is replaced by the next."""
        for attempt in range(TRIES):
            epoch, number = divmod(position + attempt, len(self.images))
            order = _order(self.seed, epoch, len(self.images))
            photo = self._photo(int(order[number]))
            if photo is not None:
                return photo
        raise SettingsError(f"{TRIES} photos in a row cannot be decoded; check the shards with shard-images")

    def _decode(self, index: int) -> Image.Image | None:
        try:
            with Image.open(io.BytesIO(self.images.read(index))) as image:
                return image.convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # all that Pillow raises for bad files
            return None


class BatchSource(Protocol):
    """Returns a step's batch, a function of (step, rank, world)."""

    def batch(self, step: int, *, rank: int = 0, world: int = 1) -> Tensor: ...


def prefetch(
    source: BatchSource, steps: Iterable[int], *, rank: int = 0, world: int = 1, processes: int = 0
) -> Generator[Tensor]:
    """Yields the steps' batches in order, prepared ahead by a thread or by `processes`.

    The source must be picklable for processes. They end with the generator, also when it is closed early.
    """
    make: Callable[[int], Tensor] = partial(source.batch, rank=rank, world=world)
    pool: Executor
    if processes:
        spawn = torch.multiprocessing.get_context("spawn")  # fork would copy locks held by other threads
        pool = ProcessPoolExecutor(processes, spawn, _begin, (make,))
        ahead = 2 * BATCHES_AHEAD * processes
        make = _make  # the source is sent to each process once, not with each step
    else:
        pool = ThreadPoolExecutor(1, "batches")
        ahead = BATCHES_AHEAD
    coming: deque[Future[Tensor]] = deque()
    try:
        for step in steps:
            coming.append(pool.submit(make, step))
            if len(coming) > ahead:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


_made: dict[str, Callable[[int], Tensor]] = {}
"""The batch source of a loader process: an executor's tasks see only their arguments and globals."""


def _begin(make: Callable[[int], Tensor]) -> None:
    """Initializes a worker process: keeps the batch source, and exits when the parent does."""
    _made["batch"] = make
    torch.set_num_threads(1)  # there is a process for each core
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # handled by the parent
    Thread(target=_end_with, args=(cast(BaseProcess, parent_process()),), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)  # sys.exit would end this thread alone


def _make(step: int) -> Tensor:
    return _made["batch"](step)


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """The epoch's permutation of the photos."""
    return np.random.default_rng(np.random.SeedSequence([seed, epoch % 2**64, count])).permutation(count)


def _tars(source: Path) -> list[Path]:
    if source.is_dir():
        return sorted(source.rglob("*.tar"))
    if not source.is_file():
        raise SettingsError(f"{source} is neither a tar nor a folder of tars")
    return [source]


def _index(tar: Path) -> list[TarMember]:
    try:
        with tarfile.open(tar, "r:") as opened:
            members = [entry for entry in opened if entry.isfile()]
    except (tarfile.TarError, OSError) as error:
        raise SettingsError(f"{tar} is not a complete tar: {error}") from None
    photos = []
    for entry in members:
        extension = entry.name.rpartition(".")[2].lower()
        if extension in EXTENSIONS:
            photos.append(TarMember(tar, entry.name, entry.offset_data, entry.size))
    return photos
