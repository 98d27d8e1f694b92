"""python -m flows.restore_archive ARCHIVE TARGET: the pictures of an archive as PNG files."""

from collections.abc import Iterable
from typing import Any

from prefect import flow

from codec.support.terminal import say
from flows import command, direct, mapping, outcome, run_record
from flows.parameters import AtLeastOne, Count, Device
from flows.progress import followed
from tasks.processes.codec_process import Models
from tasks.restore.restore import Restored, RestoreJob, restore


@flow(name="restore-archive", flow_run_name="restore {archive} into {target}", persist_result=False)
def restore_archive(
    archive: str,
    target: str,
    keys: list[str] | None = None,
    as_of: int | None = None,
    as_of_source: int | None = None,
    as_: str = "png",
    groups: bool = False,
    bagit: bool = False,
    backbone: str = "",
    device: Device = "cpu",
    threads: AtLeastOne = 1,
    workers: Count = 0,
) -> dict[str, Any]:
    """Decode the whole archive, or some keys, to PNG files; files stored as original bytes are restored unchanged.

    Args:
        archive: Folder or URL of the archive.
        target: Folder or URL for the pictures; existing files of the same name are replaced.
        keys: A key to restore, as in the report. Repeatable; all keys if not given.
        as_of: A run; restores all keys stored until then, without the versions of later runs.
        as_of_source: A run; restores the source as that run listed it, without files deleted or renamed by then.
        as_: Format of the pictures: png, jpeg:QUALITY, webp:QUALITY, avif:QUALITY or jxl.
        groups: Keep the stems of pictures and their companions equal (IMG_1.jpg and IMG_1.mov).
        bagit: Write a bag (RFC 8493) with the pictures in data; the target is an empty folder or an unfinished bag.
        backbone: Folder or URL of the backbone, if the archive's bundle does not embed it.
        device: cpu, cuda or cuda:N.
        threads: Computing threads of a worker.
        workers: Tars decoded at a time; 0: processors divided by threads.
    """
    archive = command.resolved(archive)
    target = command.resolved(target)
    count = mapping.workers(workers, threads)
    member_map = mapping.on_threads(mapping.member_map, count)
    logger = direct.logger()
    logger.info("restoring %s into %s", archive, target)
    with followed("restoring") as progress:

        def job_map(jobs: Iterable[RestoreJob]) -> list[Restored]:
            return member_map(lambda: jobs, count, progress)  # see member_map for why this is a function

        restored = restore(
            archive,
            target,
            keys or None,
            as_of=as_of,
            as_of_source=as_of_source,
            kind=None if as_ == "png" else as_,
            groups=groups,
            bagit=bagit,
            models=Models("", device, backbone, threads),
            job_map=job_map,
            progress=progress,
        )
    row = {"restored": restored.images, "failed": len(restored.failures)}
    direct.table([row], key="restore-archive", description=f"{archive} into {target}")
    run_record.asset(target, "restored pictures", row, upstream=[archive])
    logger.info("done: %d restored, %d failed", row["restored"], row["failed"])
    failures = [
        {"key": failure.key, "reason": "not_restored", "error": failure.error, "tar": failure.tar}
        for failure in restored.failures
    ]
    said = {"errors": restored.errors, "left_behind": restored.left_behind, "as": as_}
    return outcome.rows(row | said, failures, len(failures))


def show(row: dict[str, Any]) -> int:
    """Prints the number of restored pictures, and the failures."""
    errors = row.pop("errors")
    left_behind = row.pop("left_behind")
    kind = row.pop("as").partition(":")[0]
    command.show_table("restore-archive", row)
    for name, count in left_behind.items():
        print(f"{count} without their {name}, which {kind} cannot store; the archive keeps it")
    for error in errors:
        say(error)
    return command.FAILED_ROWS if errors else command.DONE


if __name__ == "__main__":
    command.run(restore_archive, show)
