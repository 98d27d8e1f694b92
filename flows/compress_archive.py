"""python -m flows.compress_archive SOURCE ARCHIVE: a folder of pictures into a verified archive with a report."""

from functools import partial
from typing import Any

from prefect import flow
from prefect.artifacts import create_table_artifact

from flows import command, mapping
from tasks import report
from tasks.archive import compress
from tasks.manifest import Settings
from tasks.models import Models
from tasks.storage import Store


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
    threads: int = 2,
    bundle: str = "",
    backbone: str = "",
    device: str = "cpu",
    workers: int = 0,
    resume: int | None = None,
    engine: mapping.Engine = "threads",
    dask_address: str = "",
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
        threads: Computing threads of a worker; part of the run's plan, since they change the last bits.
        bundle: Folder of a trained codec; the embedded one if empty.
        backbone: Where the bundle's backbone is, if it is not embedded in it.
        device: cpu, cuda or cuda:N.
        workers: Shards encoded at a time; 0 for as many as there are processors for their threads.
        resume: Finish this run and do nothing else; refused when its settings are not those given.
        engine: threads of this process, or dask for other processes. The archive is the same.
        dask_address: A Dask scheduler on the loopback interface or at tls://; local processes if empty.
    """
    limits = (max_images_per_shard, max_shard_bytes, image_timeout, max_failed_fraction)
    settings = Settings(quality, target_bpp, *limits, verify=verify, metrics=metrics, threads=threads)
    source, archive = command.place(source), command.place(archive)
    models = Models(bundle, device, backbone)
    shards = mapping.engine(engine, mapping.workers(workers, threads), address=dask_address, device=device)
    with command.bar("compressing") as bar, shards as (count, runner):
        mapped = partial(mapping.shard_map.with_options(task_runner=runner), workers=count, progress=bar)
        outcome = compress(source, archive, settings, models=models, resume=resume, shard_map=mapped, progress=bar)
    row = {"runs": str(outcome.runs), **outcome.totals, **report.means(Store(archive), outcome.runs)}
    create_table_artifact([row], key="compress-archive", description=f"{source} into {archive}")
    return row


def show(row: dict[str, Any]) -> int:
    """Print the totals; the exit status says whether rows failed."""
    command.show_table("compress-archive" if row["images"] else "nothing is new", row)
    return command.FAILED_ROWS if row["failed"] else command.DONE


if __name__ == "__main__":
    command.run(compress_archive, show)
