"""The models of child processes: what they load, how they are told, and the processes from their parent's side."""

import argparse
import hashlib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from codec.errors import BitstreamError
from codec.metrics.names import NONE
from tasks.processes.child import Child, ChildDied, Frame
from tasks.processes.requests import Request, Verify, VerifyMany

if TYPE_CHECKING:
    from codec.format.content import Content
    from codec.images import Picture

CODEC = "codec.codec:Codec"


class Asked(Protocol):
    """A child process, or what stands for one."""

    def ask(self, request: Request, payload: bytes = b"", *, seconds: float) -> Frame: ...


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

    def begin_many(
        self, pictures: Mapping[int, "Picture"], count: int, *, quality: float
    ) -> Callable[[], dict[int, Any]]: ...

    def reconstruct_many(
        self, files: Mapping[int, tuple[bytes, NDArray[np.int32]]], count: int
    ) -> dict[int, NDArray[np.uint8]]: ...

    def contents(self, files: Sequence[bytes]) -> "Sequence[Content | BitstreamError]": ...

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


def verifier(models: Models, *, on_card: bool = False) -> Child:
    """The process that decodes again, verify_worker. It computes on the CPU, whatever encoded, or `on_card` there too.

    Wherever that is, it has computed its bundle's known answer there before it takes a file.
    """
    arguments = (models if on_card else replace(models, device="cpu")).arguments()
    return Child("tasks.processes.verify_worker", arguments, models.threads, models.memory, models.child_env)


@dataclass(frozen=True)
class Claim:
    """A file, the hash of its symbols or pixels and, of an .fdc file, the fingerprint of all they are shown with."""

    data: bytes
    content: str
    fingerprint: str | None = None


def decodes(child: Asked, data: bytes, content: str, *, seconds: float) -> bool:
    """Whether the verifier decodes a file, in time and without ending, to the content of this hash.

    What ends its process is asked once more in a fresh one: a process that was killed while it was idle says nothing of
    the file.
    """
    return decodes_claim(child, Claim(data, content), seconds=seconds)


def decodes_claim(child: Asked, claim: Claim, *, seconds: float) -> bool:
    """`decodes` where the fingerprint is claimed too."""
    for _ in range(2):
        try:
            answer, _ = child.ask(Verify(), claim.data, seconds=seconds)
        except ChildDied:
            continue
        return _agrees(claim, answer)
    return False


def decodes_each(child: Asked, claims: Sequence[Claim], *, seconds: float) -> list[bool]:
    """`decodes` of each of several files, asked together; where the process ends, each is asked by itself."""
    if not claims:
        return []
    request = VerifyMany([len(claim.data) for claim in claims])
    try:
        answer, _ = child.ask(request, b"".join(claim.data for claim in claims), seconds=seconds * len(claims))
    except ChildDied:
        return [decodes_claim(child, claim, seconds=seconds) for claim in claims]
    return [_agrees(claim, one) for claim, one in zip(claims, answer["answers"], strict=True)]


def _agrees(claim: Claim, answer: dict[str, Any]) -> bool:
    return answer.get("content") == claim.content and claim.fingerprint in (None, answer.get("fingerprint"))


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
