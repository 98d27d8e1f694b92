"""The models of child processes: what they load, how they are told, and the processes from their parent's side."""

import argparse
import hashlib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from codec.metrics.names import NONE
from tasks.processes.child import Child, ChildDied

if TYPE_CHECKING:
    from codec.format.content import Content
    from codec.images import Picture

CODEC = "codec.codec:Codec"


class Coder(Protocol):
    """What this process needs of codec.Codec."""

    bundle: Any
    backbone: Any

    def encode(self, picture: "Picture", *, quality: float) -> Any: ...

    def encode_to_bpp(self, picture: "Picture", bits_per_pixel: float) -> Any: ...

    def encode_to_quality(
        self,
        picture: "Picture",
        *,
        min_psnr_db: float | None,
        max_lpips: float | None,
        above: float,
    ) -> Any: ...

    def decode(self, data: bytes) -> NDArray[np.uint8]: ...

    def reconstruct(self, data: bytes, symbols: NDArray[np.int32]) -> NDArray[np.uint8]: ...

    def decode_picture(self, data: bytes) -> "Picture": ...

    def content(self, data: bytes) -> "Content": ...


@dataclass(frozen=True)
class Models:
    """What a child process loads. An empty bundle means the embedded default; `codec` is the class as module:name.

    `memory` is how many bytes the process may come to hold, None meaning any. `child_env` names environment variables
    that it gets beside those that every one gets.
    """

    bundle: str
    device: str = "cpu"
    backbone: str = ""
    threads: int = 1
    codec: str = CODEC
    memory: int | None = None
    child_env: tuple[str, ...] = ()

    def arguments(self) -> list[str]:
        """The command line that `parser` reads."""
        return [self.bundle, "--device", self.device, "--backbone", self.backbone, "--codec", self.codec]


def worker(models: Models, metrics: Sequence[str] = ()) -> Child:
    """The process that encodes, measures and decodes: encode_worker. `metrics` are those it can be asked for."""
    arguments = [*models.arguments(), "--metrics", *(metrics or [NONE])]
    return Child("tasks.processes.encode_worker", arguments, models.threads, models.memory, models.child_env)


def verifier(models: Models) -> Child:
    """The process that decodes again, verify_worker. It computes on the CPU, whatever encoded."""
    arguments = replace(models, device="cpu").arguments()
    return Child("tasks.processes.verify_worker", arguments, models.threads, models.memory, models.child_env)


def decodes(child: Child, data: bytes, content: str, *, seconds: float, fingerprint: str | None = None) -> bool:
    """Whether the verifier decodes a file, in time and without ending, to the content of this hash.

    With a `fingerprint`, an .fdc file's header must say too what the encoder meant: codec.format.content.

    What ends its process is asked once more in a fresh one: a process that was killed while it was idle says nothing of
    the file.
    """
    for _ in range(2):
        try:
            answer, _ = child.ask({}, data, seconds=seconds)
        except ChildDied:
            continue
        return answer.get("content") == content and fingerprint in (None, answer.get("fingerprint"))
    return False


def parser(description: str | None) -> argparse.ArgumentParser:
    """The command line of every process that loads a codec."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("bundle")
    options.add_argument("--device", default="cpu")
    options.add_argument("--backbone", default="")
    options.add_argument("--codec", default=CODEC)
    return options


def load(arguments: argparse.Namespace) -> Coder:
    """The codec that a command line names."""
    module, _, name = arguments.codec.partition(":")
    kind = getattr(importlib.import_module(module), name)
    codec = kind.load(arguments.bundle or None, device=arguments.device, backbone=arguments.backbone or None)
    return cast(Coder, codec)


def digest(symbols: NDArray[np.int32]) -> str:
    """The SHA-256 of symbols (channel, row, column) as little-endian 32-bit integers."""
    return hashlib.sha256(np.ascontiguousarray(symbols, dtype="<i4").tobytes()).hexdigest()


def greeting(codec: Coder, arguments: argparse.Namespace) -> dict[str, Any]:
    """What a process with a codec says of itself."""
    embedded = codec.bundle.config.backbone_source == "embedded"
    home = importlib.import_module(arguments.codec.partition(":")[0])
    return {
        "bundle_id": codec.bundle.id,
        "bundle_path": str(codec.bundle.path),
        "backbone": None if embedded else str(codec.bundle.config.backbone_hash),
        "default_quality": float(home.DEFAULT_QUALITY),
    }
