"""python -m tests.support.gated_flow SOURCE ARCHIVE: compress-archive whose second shard waits at a gate.

The codec is the fake one. GATE names a folder: at the gate, the flow makes the file `reached` in it, and waits until
there is a file `open`. A deployment names this module too, so that a worker's process waits in the same way.
"""

import functools
import os
import time
from functools import partial
from pathlib import Path

from tasks.archive import report
from tasks.compress import shard as shards
from tasks.compress.shard import CompressionJob
from tasks.processes.codec_process import Models
from tasks.progress import SILENT, Progress
from tests.support.fake_codec import FAKE

_encode_shard = shards.encode_shard


@functools.wraps(_encode_shard)
def _gated(job: CompressionJob, shard: int, progress: Progress = SILENT) -> report.Totals:
    gate = Path(os.environ["GATE"])
    if shard == 1:
        (gate / "reached").touch()
        while not (gate / "open").exists():
            time.sleep(0.05)
    return _encode_shard(job, shard, progress)


shards.encode_shard = _gated

from flows import command, compress_archive as module  # noqa: E402, I001  # its task takes the function as it is now

module.Models = partial(Models, codec=FAKE)  # type: ignore[misc,assignment]
compress_archive = module.compress_archive

if __name__ == "__main__":
    command.run(compress_archive, module.show)
