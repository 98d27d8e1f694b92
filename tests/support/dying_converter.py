"""A converter of files whose process dies of some; a module of its own, so that a new process starts at once."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

from codec.cli.plan import Planned
from codec.cli.rows import WRITTEN, FileRow


@dataclass(frozen=True)
class Dying:
    """Settings of a converter that a picture named die kills, and one named raise makes fail."""

    def open(self) -> Callable[[Planned], FileRow]:
        """The converter."""
        return self._convert

    def _convert(self, own: Planned) -> FileRow:
        if own.source == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if own.source == "raise":
            raise MemoryError("too large")
        return FileRow(own.source, f"{own.output} {os.getpid()} {os.environ['OMP_NUM_THREADS']}", WRITTEN)
