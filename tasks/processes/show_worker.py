"""The child process that shows files without a codec: pictures kept whole, and previews. It does not load torch.

`python -m tasks.processes.show_worker` answers one request at a time.
"""

from typing import Any

from tasks.processes import requests
from tasks.processes.answers import answered
from tasks.processes.child import Child, Frame, Handler, serve
from tasks.processes.showing import show


def worker(memory: int | None = None) -> Child:
    """Creates the process, of one thread; `memory` is its limit in bytes."""
    return Child("tasks.processes.show_worker", [], 1, memory)


def _prepare() -> tuple[dict[str, Any], Handler]:
    def handle(header: dict[str, Any], payload: bytes) -> Frame:
        request = requests.read(header, requests.Show)
        return answered(lambda: show(request, payload))

    return {}, handle


if __name__ == "__main__":
    serve(_prepare)
