"""A map-style dataset over an archive."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from codec.errors import SettingsError
from tasks.archive.opening import existing
from tasks.learning import selection
from tasks.learning.reader import Kind, PictureReader

Sample = tuple[Any, dict[str, Any]]
"""A tensor, transformed if asked, and the wanted columns of its row by name."""


class ArchivePictures(Dataset[Sample]):
    """Pictures of an archive (a path or a URL), each in its last version, as (tensor, columns).

    `kind` is pixels, uint8 (3, H, W), or latents, float32 (4, h, w): these skip U-Net and decoder, most of the
    time. `where` is SQL over the report's columns. `columns` of the report come with each sample, as labels. `cache`
    is a folder for latents, by hash of the stored file: later epochs only read. `transform` is called with each tensor.
    `whole` includes pictures that are kept whole, as pixels.

    Workers of a DataLoader open the archive and load the codec for themselves, however they are started. The table of
    locations is in memory: some 200 bytes a picture. Raises ArchiveError, SettingsError.
    """

    def __init__(
        self,
        archive: str | Path,
        *,
        kind: Kind = "pixels",
        columns: Sequence[str] = (),
        where: str = "true",
        transform: Callable[[Tensor], Any] | None = None,
        cache: str | Path | None = None,
        whole: bool = False,
        device: str = "cpu",
        backbone: str | None = None,
    ) -> None:
        if whole and kind == "latents":
            raise SettingsError("pictures that are kept whole have no latent; leave out whole, or read pixels")
        store = existing(str(archive))
        self.reader = PictureReader(store.url, kind, cache, device, backbone)
        self.columns = tuple(columns)
        self.transform = transform
        self.rows = selection.pictures(store, self.columns, where, whole=whole)

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{index}: the dataset has {len(self)} pictures")
        [row] = self.rows.slice(index % len(self), 1).to_pylist()
        tensor = self.reader.read(row)
        labels = {name: row[name] for name in self.columns}
        return tensor if self.transform is None else self.transform(tensor), labels
