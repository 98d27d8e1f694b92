"""An archive as a dataset of Hugging Face `datasets`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.learning.pictures import ArchivePictures
from tasks.learning.selection import LOCATION

if TYPE_CHECKING:
    import datasets

IMAGE = "image"


def hugging_face(
    archive: str | Path, *, columns: Sequence[str] = ("key",), where: str = "true", whole: bool = False
) -> "datasets.Dataset":
    """Loads an archive as a `datasets.Dataset` of the report's columns and `image`, decoded on access as PIL images.

    Nothing is copied but the locations of pictures. Needs the package `datasets`. Raises ArchiveError, SettingsError.
    """
    import datasets  # an extra: it takes two seconds to import

    pictures = ArchivePictures(archive, columns=columns, where=where, whole=whole)
    table = datasets.Dataset(datasets.table.InMemoryTable(pictures.rows))
    table.set_transform(_Images(pictures))
    return table


class _Images:
    """Adds the decoded pictures to a batch of rows. It can be pickled."""

    def __init__(self, pictures: ArchivePictures) -> None:
        self.reader = pictures.reader
        self.columns = pictures.columns

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        from PIL import Image

        if not set(LOCATION) <= set(batch):  # one column alone was asked for
            return batch
        images = []
        for values in zip(*batch.values(), strict=True):
            tensor = self.reader.read(dict(zip(batch, values, strict=True)))
            images.append(Image.fromarray(tensor.permute(1, 2, 0).numpy()))
        return {name: batch[name] for name in self.columns} | {IMAGE: images}
