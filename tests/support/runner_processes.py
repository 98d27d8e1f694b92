"""Runners of an archive as processes of their own, started by a server that has everything imported already."""

import multiprocessing
import os
import sys
import traceback
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from codec.errors import FdcError
from tasks.archive.manifest import RunSettings
from tasks.storage import uploads
from tests.support import archive_builder, kill_points

# A fork server imports everything once: a fresh Python would take seconds for each runner, and a fork of pytest would
# copy its threads' locks without the threads.
CONTEXT = multiprocessing.get_context("forkserver")
PRELOADED = ["tests.support.runner_processes", "s3fs"]
CONTEXT.set_forkserver_preload(PRELOADED)


def start(
    source: str | Path,
    archive: str | Path,
    bundle: Path,
    *,
    point: str = "",
    environment: dict[str, str] | None = None,
    in_parts: bool = False,
    settings: RunSettings = archive_builder.SMALL,
) -> BaseProcess:
    """Start compressing in a process, which is killed at a point of tests.support.kill_points if one is given.

    Its status is 1 after an FdcError. `in_parts` uploads tars in parts, as large files on S3, however small they are.
    """
    arguments = (str(source), str(archive), bundle, point, environment or {}, in_parts, settings)
    process = CONTEXT.Process(target=_run, args=arguments)
    process.start()
    return process


def end(process: BaseProcess) -> int | None:
    """The exit status of a runner, negative if a signal ended it."""
    process.join(300)
    status = process.exitcode
    process.close()
    return status


def _run(
    source: str,
    archive: str,
    bundle: Path,
    point: str,
    environment: dict[str, str],
    in_parts: bool,
    settings: RunSettings,
) -> None:
    os.environ.update(environment)
    if in_parts:
        _send_tars_in_parts()
    if point:
        kill_points.arm(*kill_points.POINTS[point])
    try:
        archive_builder.pack(source, archive, bundle, settings)
    except FdcError:
        traceback.print_exc()
        sys.exit(1)


def _send_tars_in_parts() -> None:
    put = uploads.put

    def in_parts(fs: Any, path: str, content: bytes | Path, *, create: bool, largest_put: int) -> None:
        put(fs, path, content, create=create, largest_put=0 if path.endswith(".tar") else largest_put)

    uploads.put = in_parts
    uploads.PART = 1024
