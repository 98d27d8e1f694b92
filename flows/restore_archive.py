"""python -m flows.restore_archive ARCHIVE TARGET: the pictures of an archive as PNG files."""

import os
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ThreadPoolTaskRunner

from flows import command, windows
from tasks.restore import Job, Restored, restore, restore_members
from tasks.shard import Progress
from tasks.worker import Models

decode = task(
    restore_members,
    name="restore-members",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=2,
    retry_delay_seconds=5,
)


@flow(name="member-map", validate_parameters=False, persist_result=False)
def member_map(jobs: list[Job], workers: int, progress: Progress) -> list[Restored]:
    """Restore the members of every tar, on as many workers as the task runner has."""
    return list(windows.results(decode, ((job, progress) for job in jobs), workers))


@flow(name="restore-archive", persist_result=False)
def restore_archive(
    archive: str,
    target: str,
    keys: list[str] | None = None,
    backbone: str = "",
    device: str = "cpu",
    threads: int = 2,
    workers: int = 0,
) -> dict[str, Any]:
    """Decode the whole archive, or some keys, into PNG files; what was kept as original bytes comes back as it was.

    Args:
        archive: Folder or URL of the archive.
        target: Folder or URL for the pictures; existing files of the same name are replaced.
        keys: Keys to restore, as the report names them; all if not given.
        backbone: Where the backbone is, if the archive's bundle does not embed it.
        device: cpu, cuda or cuda:N.
        threads: Computing threads of a worker.
        workers: Tars decoded at a time; 0 for as many as there are processors for their threads.
    """
    count = workers or max(1, (os.cpu_count() or 1) // threads)
    mapped = member_map.with_options(task_runner=ThreadPoolTaskRunner(max_workers=count))
    archive, target = command.place(archive), command.place(target)
    with command.bar("restoring") as progress:
        restored = restore(
            archive,
            target,
            keys,
            models=Models("", device, backbone, threads),
            job_map=lambda jobs: mapped(list(jobs), count, progress),
            progress=progress,
        )
    row = {"restored": restored.images, "failed": len(restored.errors)}
    create_table_artifact([row], key="restore-archive", description=f"{archive} into {target}")
    return row | {"errors": restored.errors}


def show(row: dict[str, Any]) -> int:
    """Print how many came back and why others did not."""
    errors = row.pop("errors")
    command.show_table("restore-archive", row)
    for error in errors:
        print(error)
    return command.FAILED_ROWS if errors else 0


if __name__ == "__main__":
    command.run(restore_archive, show)
