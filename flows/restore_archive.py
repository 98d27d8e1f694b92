"""python -m flows.restore_archive ARCHIVE TARGET: the pictures of an archive as PNG files."""

from typing import Any

from prefect import flow

from flows import command, direct, mapping, outcome
from flows.progress import followed
from tasks.processes.codec_process import Models
from tasks.restore.restore import restore


@flow(name="restore-archive", persist_result=False)
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
    device: str = "cpu",
    threads: int = 1,
    workers: int = 0,
) -> dict[str, Any]:
    """Decode the whole archive, or some keys, into PNG files; what was kept as original bytes comes back as it was.

    Args:
        archive: Folder or URL of the archive.
        target: Folder or URL for the pictures; existing files of the same name are replaced.
        keys: A key to restore, as the report names it; may be given again. All keys if not given.
        as_of: A run; versions that later runs kept are left out. All that was kept until then comes back.
        as_of_source: A run; the source comes back as that run listed it, without what was deleted or renamed by then.
        as_: What pictures become: png, jpeg:QUALITY, webp:QUALITY, avif:QUALITY or jxl.
        groups: Keep one stem for pictures and their companions (IMG_1.jpg and IMG_1.mov).
        bagit: Make the target, an empty folder or a bag that was begun, a bag of RFC 8493 with the pictures in data.
        backbone: Where the backbone is, if the archive's bundle does not embed it.
        device: cpu, cuda or cuda:N.
        threads: Computing threads of a worker.
        workers: Tars decoded at a time; 0 for as many as there are processors for their threads.
    """
    archive, target = command.resolved(archive), command.resolved(target)
    count = mapping.workers(workers, threads)
    member_map = mapping.on_threads(mapping.member_map, count)
    logger = direct.logger()
    logger.info("restoring %s into %s", archive, target)
    with followed("restoring") as progress:
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
            job_map=lambda jobs: member_map(lambda: jobs, count, progress),
            progress=progress,
        )
    row = {"restored": restored.images, "failed": len(restored.failures)}
    direct.table([row], key="restore-archive", description=f"{archive} into {target}")
    logger.info("done: %d restored, %d failed", row["restored"], row["failed"])
    failures = [
        {"key": failure.key, "reason": "not_restored", "error": failure.error, "tar": failure.tar}
        for failure in restored.failures
    ]
    said = {"errors": restored.errors, "left_behind": restored.left_behind, "as": as_}
    return outcome.rows(row | said, failures, len(failures))


def show(row: dict[str, Any]) -> int:
    """Print how many came back, and why others did not."""
    errors, left_behind, kind = row.pop("errors"), row.pop("left_behind"), row.pop("as")
    command.show_table("restore-archive", row)
    for name, count in left_behind.items():
        print(f"{count} without their {name}, for which {kind.partition(':')[0]} has no place; the archive keeps it")
    for error in errors:
        print(error)
    return command.FAILED_ROWS if errors else command.DONE


if __name__ == "__main__":
    command.run(restore_archive, show)
