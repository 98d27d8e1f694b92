"""python -m flows.compress_archive SOURCE ARCHIVE: a folder of pictures into a verified archive with a quality report."""

import os
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ThreadPoolTaskRunner

from flows import command, windows
from tasks import report
from tasks.archive import compress
from tasks.manifest import Settings
from tasks.shard import Job, Progress, encode_shard
from tasks.storage import StorageError, Store
from tasks.worker import Models

encode = task(
    encode_shard,
    name="encode-shard",
    task_run_name="run {job.run} shard {shard}",
    retries=3,
    retry_delay_seconds=[1, 10, 60],
    retry_condition_fn=lambda task, run, state: isinstance(state.data, StorageError),
    cache_policy=NO_CACHE,
    persist_result=False,
)


@flow(name="shard-map", validate_parameters=False, persist_result=False)
def shard_map(job: Job, shards: int, workers: int, progress: Progress) -> list[report.Totals]:
    """Encode every shard of a run, on as many workers as the task runner has."""
    return list(windows.results(encode, ((job, shard, progress) for shard in range(shards)), workers))


@flow(name="compress-archive", persist_result=False)
def compress_archive(
    source: str,
    archive: str,
    quality: float | None = None,
    target_bpp: float | None = None,
    max_images_per_shard: int = 2000,
    max_shard_bytes: int = 10**9,
    image_timeout: float = 1800.0,
    max_failed_fraction: float = 1.0,
    verify: bool = True,
    metrics: bool = True,
    lpips_net: str = "alex",
    threads: int = 2,
    bundle: str = "",
    backbone: str = "",
    device: str = "cpu",
    workers: int = 0,
    resume: int | None = None,
) -> dict[str, Any]:
    """Finish the archive's open run, if any, then compress what is new or changed at the source.

    Args:
        source: Folder or URL of pictures.
        archive: Folder or URL of the archive, made if it is not there.
        quality: Lambda, larger is better and bigger. The codec's default if neither this nor target_bpp is given.
        target_bpp: Bits per pixel of the whole file, instead of quality.
        max_images_per_shard: Pictures in a tar.
        max_shard_bytes: Bytes of sources in a tar.
        image_timeout: Seconds that one picture may take.
        max_failed_fraction: Stop, instead of committing a shard, when more of its pictures fail.
        verify: Decode every file again in a second process before it is kept.
        metrics: Measure PSNR, MS-SSIM, LPIPS and DISTS of every picture.
        lpips_net: Network behind LPIPS, alex or vgg.
        threads: Computing threads of a worker; part of the run's plan, since they change the last bits.
        bundle: Folder of a trained codec; the embedded one if empty.
        backbone: Where the bundle's backbone is, if it is not embedded in it.
        device: cpu, cuda or cuda:N.
        workers: Shards encoded at a time; 0 for as many as there are processors for their threads.
        resume: Finish this run and do nothing else; refused when its settings are not those given.
    """
    settings = Settings(
        quality, target_bpp, max_images_per_shard, max_shard_bytes, image_timeout, max_failed_fraction,
        verify, metrics, lpips_net, threads,
    )  # fmt: skip
    count = workers or max(1, (os.cpu_count() or 1) // threads)
    mapped = shard_map.with_options(task_runner=ThreadPoolTaskRunner(max_workers=count))
    source, archive = command.place(source), command.place(archive)
    with command.bar("compressing") as progress:
        outcome = compress(
            source,
            archive,
            settings,
            models=Models(bundle, device, backbone),
            resume=resume,
            shard_map=lambda job, shards: mapped(job, shards, count, progress),
            progress=progress,
        )
    row = {"runs": ", ".join(map(str, outcome.runs)), **outcome.totals, **report.means(Store(archive), outcome.runs)}
    create_table_artifact([row], key="compress-archive", description=f"{source} into {archive}")
    return row


def show(row: dict[str, Any]) -> int:
    """Print the totals; the exit status says whether rows failed."""
    if row["runs"]:
        command.show_table("compress-archive", row)
    else:
        print("nothing is new")
    return command.FAILED_ROWS if row["failed"] else 0


if __name__ == "__main__":
    command.run(compress_archive, show)
