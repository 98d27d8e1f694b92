"""Reads pictures of an archive as tensors, with codecs that each process loads for itself."""

import hashlib
import logging
import os
import tempfile
import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from codec import Codec
from codec.containers.writing import upright
from codec.errors import ArchiveError, BitstreamError, ImageError, SettingsError
from codec.format.bitstream import parse
from codec.images import Picture, read_image
from tasks.archive import escrow, layout
from tasks.archive.opening import existing
from tasks.storage.store import Store

LOGGER = logging.getLogger(__name__)
Kind = Literal["pixels", "latents"]
OF_PARENTS: list[ExitStack] = []
"""What processes that forked this one have opened."""


class PictureReader:
    """Tensors of stored pictures. It can be pickled and forked: connections and networks belong to one process."""

    _process: int
    _store: Store | None
    _bundles: list[str]
    _codecs: dict[str, Codec]
    _copies: ExitStack

    def __init__(self, archive: str, kind: Kind, cache: str | Path | None, device: str, backbone: str | None) -> None:
        if kind not in ("pixels", "latents"):
            raise SettingsError(f"{kind!r} cannot be read from an archive; choose pixels or latents")
        if cache is not None and kind == "pixels":
            raise SettingsError("cache is for latents; decoded pixels would take more space than the archive")
        self.archive = archive
        self.kind = kind
        self.cache = None if cache is None else Path(cache)
        self.device = device
        self.backbone = backbone
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs, without anything that this one has opened."""
        state = dict(self.__dict__)
        for name in ("_process", "_store", "_bundles", "_codecs", "_copies"):
            del state[name]
        return state

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def read(self, row: Mapping[str, Any]) -> Tensor:
        """The tensor of a row of selection.pictures: pixels uint8 (3, H, W) in RGB as displayed, or the latent.

        A latent is float32 (4, ceil(H / 8), ceil(W / 8)) as stored: dequantized, in deviations of each channel, before
        the U-Net. Raises ArchiveError for a damaged picture, and for one that cannot be read as a tensor.
        """
        self._check_process()
        if self.kind == "latents":
            return self._latent(row)
        data = self._bytes(row)
        try:
            if row["codec"] == "fdc":
                picture = self._codec(row["bundle_id"]).decode_picture(data)
            else:
                picture = read_image(data)
        except (BitstreamError, ImageError) as error:
            raise ArchiveError(f"{self._place(row)}: cannot be read as a tensor: {error}") from error
        return _pixels(picture)

    def decoded(self, data: bytes) -> Tensor:
        """The tensor of an .fdc file with a bundle of this archive, as `read` gives it. Raises ArchiveError."""
        self._check_process()
        try:
            codec = self._codec(self._whole_id(parse(data).bundle_id))
            return codec.latent(data) if self.kind == "latents" else _pixels(codec.decode_picture(data))
        except BitstreamError as error:
            raise ArchiveError(f"an .fdc file cannot be read as a tensor: {error}") from error

    def _whole_id(self, prefix: str) -> str:
        """The id of the bundle that a file names by its first digits. Raises ArchiveError."""
        # listed once: a listing for each file of a remote archive would take longer than decoding
        if not any(name.startswith(prefix) for name in self._bundles):
            self._bundles = self._opened().children(layout.ESCROW)
        for name in self._bundles:
            if name.startswith(prefix):
                return name
        raise ArchiveError(f"{self.archive}: the archive has no bundle {prefix}, with which the file was made")

    def _latent(self, row: Mapping[str, Any]) -> Tensor:
        path = self._cached(row["sha256"])
        if path is not None and path.exists():
            try:
                return load_file(path)["latent"]
            except (SafetensorError, KeyError):
                path.unlink(missing_ok=True)  # cut short by a machine that lost power: it is computed again
        try:
            latent = self._codec(row["bundle_id"]).latent(self._bytes(row))
        except BitstreamError as error:
            raise ArchiveError(f"{self._place(row)}: cannot be read as a tensor: {error}") from error
        if path is not None:
            try:
                _write(path, save({"latent": latent.contiguous().cpu()}))
            except OSError as error:  # a full disk costs the later epochs time, and not this one its sample
                LOGGER.warning("%s: a latent is not cached: %s", self.cache, error.strerror)
        return latent

    def _cached(self, sha256: str) -> Path | None:
        """Where the latent of a stored file is kept: by its content, so that archives may share a folder."""
        return None if self.cache is None else self.cache / sha256[:2] / f"{sha256}.safetensors"

    def _bytes(self, row: Mapping[str, Any]) -> bytes:
        data = self._opened().read_range(row["tar"], row["offset"], row["length"])
        if hashlib.sha256(data).hexdigest() != row["sha256"]:
            raise ArchiveError(f"{self._place(row)}: damaged; restore it from a mirror")
        return data

    def _place(self, row: Mapping[str, Any]) -> str:
        return f"{self.archive}/{row['tar']} at byte {row['offset']}"

    def _codec(self, bundle_id: str) -> Codec:
        """The codec of the archive's own copy of a bundle."""
        if bundle_id not in self._codecs:
            copy = escrow.bundle(self._opened(), bundle_id, with_backbone=self.backbone is None)
            bundle = self._copies.enter_context(copy)
            codec = Codec.load(bundle, device=self.device, backbone=self.backbone)
            if codec.bundle.id != bundle_id:
                raise ArchiveError(f"{self.archive}: the copy of bundle {bundle_id[:16]} has a different id")
            self._codecs[bundle_id] = codec
        return self._codecs[bundle_id]

    def _opened(self) -> Store:
        if self._store is None:
            self._store = existing(self.archive)
        return self._store

    def _check_process(self) -> None:
        """After a fork, forgets what the parent opened: its sockets and threads do not work here."""
        if self._process != os.getpid():
            OF_PARENTS.append(self._copies)  # kept, since to collect it would delete the parent's copies
            self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._store = None
        self._bundles = []
        self._codecs = {}
        self._copies = ExitStack()
        weakref.finalize(self, _close, self._copies, self._process)


def _close(copies: ExitStack, process: int) -> None:
    """Removes copies of bundles in the process that made them."""
    if process == os.getpid():
        copies.close()


def _pixels(picture: Picture) -> Tensor:
    return torch.from_numpy(upright(picture).pixels.copy()).permute(2, 0, 1)


def _write(path: Path, content: bytes) -> None:
    """Writes a whole file or none; several processes may write the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        spool = Path(file.name)
        try:
            file.write(content)
            file.flush()
            spool.replace(path)
        except OSError:
            spool.unlink(missing_ok=True)
            raise
