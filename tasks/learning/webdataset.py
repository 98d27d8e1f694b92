"""A decoder for WebDataset, so that an archive's own tars feed a loader."""

from pathlib import Path
from typing import Any

from torch import Tensor

from tasks.learning.reader import Kind, PictureReader


class FdcDecoder:
    """Decodes the `.fdc` members of an archive's tars: `WebDataset(tars).decode(FdcDecoder("s3://bucket/archive"))`.

    The archive holds the bundles. Members with other suffixes are left to the decoders behind it, such as "torchrgb".
    """

    def __init__(
        self, archive: str | Path, *, kind: Kind = "pixels", device: str = "cpu", backbone: str | None = None
    ) -> None:
        self.reader = PictureReader(str(archive), kind, None, device, backbone)

    def __call__(self, suffix: str, data: bytes) -> Tensor | Any:
        """The tensor of a member, as of PictureReader.read; None for other members, as WebDataset expects."""
        if suffix.rpartition(".")[2] != "fdc":
            return None
        return self.reader.decoded(data)
