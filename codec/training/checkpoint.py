"""Checkpoints of a stage: tensors in pieces of limited size, and an index that is put in place last."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

PIECE_BYTES = 12 * 2**20
"""Upper bound on one piece in bytes, unless a single tensor is larger."""


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoint of one stage in a folder: <stage>.json names the pieces <stage>-<step>-<number>.safetensors.

    A new checkpoint replaces the old one atomically with its index; a killed writer leaves the old one.
    """

    folder: Path
    stage: str

    @property
    def index(self) -> Path:
        return self.folder / f"{self.stage}.json"

    def save(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Replaces the checkpoint. One of the same step is left alone, since it has the same tensors."""
        if self.index.exists() and json.loads(self.index.read_text())["step"] == step:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        pieces = []
        for number, piece in enumerate(_pieces(tensors)):
            pieces.append(f"{self.stage}-{step:08d}-{number:03d}.safetensors")
            save_file(piece, self.folder / pieces[-1])
        spool = self.index.with_suffix(".spool")
        spool.write_text(json.dumps({"step": step, "pieces": pieces}) + "\n")
        os.replace(spool, self.index)  # noqa: PTH105
        # only now: until then, the index in place names the old pieces
        for path in self.folder.glob(f"{self.stage}-*.safetensors"):
            if path.name not in pieces:
                path.unlink()

    def load(self) -> tuple[int, dict[str, Tensor]] | None:
        """The step and the tensors; None if there is no checkpoint."""
        if not self.index.exists():
            return None
        index = json.loads(self.index.read_text())
        tensors: dict[str, Tensor] = {}
        for piece in index["pieces"]:
            tensors |= load_file(self.folder / piece)
        return index["step"], tensors


def _pieces(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    piece: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors.items():
        if piece and size + tensor.nbytes > PIECE_BYTES:
            yield piece
            piece = {}
            size = 0
        piece[name] = tensor.contiguous().cpu()
        size += tensor.nbytes
    yield piece
