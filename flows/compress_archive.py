"""python -m flows.compress_archive SOURCE ARCHIVE: a folder of pictures into a verified archive with a report."""

from dataclasses import asdict
from functools import partial
from typing import Any, Literal

from prefect import flow

from flows import command, direct, mapping, outcome
from flows.progress import followed
from tasks.archive import report
from tasks.archive.manifest import RunSettings
from tasks.compress.dry_run import predict
from tasks.compress.runs import compress
from tasks.processes.codec_process import Models
from tasks.storage.store import Store


@flow(name="compress-archive", persist_result=False)
def compress_archive(
    source: str,
    archive: str,
    quality: float | None = None,
    target_bpp: float | None = None,
    min_psnr_db: float | None = None,
    max_lpips: float | None = None,
    metadata: Literal["all", "no-location", "none"] = "all",
    strict_metadata: bool = False,
    discard: list[str] | None = None,
    include: list[str] | None = None,
    exclude: list[str] | None = None,
    non_images: Literal["keep", "skip"] = "keep",
    max_images_per_shard: int = 2000,
    max_shard_bytes: int = 10**9,
    image_timeout: float = 1800.0,
    image_memory: int = 16 * 10**9,
    max_failed_fraction: float = 1.0,
    verify: bool = True,
    metrics: list[str] | None = None,
    metrics_sample: float = RunSettings.metrics_sample,
    processor_sample: float = RunSettings.processor_sample,
    threads: int = 1,
    batch: int = 1,
    bundle: str = "",
    backbone: str = "",
    device: str = "cpu",
    workers: int = 0,
    resume: int | None = None,
    retry_failed: bool = False,
    recheck: bool = False,
    allow_shrink: bool = False,
    single_writer: bool = False,
    child_env: list[str] | None = None,
    plan: bool = False,
    engine: mapping.Engine = "threads",
    dask_address: str = "",
) -> dict[str, Any]:
    """Finish the archive's open run, if any, then compress what is new or changed at the source.

    Args:
        source: Folder or URL of pictures, a Parquet or CSV file or S3 Inventory that lists them, or a sharded dataset.
        archive: Folder or URL of the archive, made if it is not there.
        quality: Lambda, larger is better and bigger. The codec's default if neither this nor target_bpp is given.
        target_bpp: Bits per pixel of the whole file, instead of quality.
        min_psnr_db: Least PSNR: lambda rises until it is met, else the picture is kept without loss.
        max_lpips: Bound on LPIPS (AlexNet), kept in the same way.
        metadata: What .fdc files carry: all, no-location (no GPS, no MakerNotes) or none. Files kept whole keep theirs.
        strict_metadata: Refuse a picture that is kept whole while metadata is not all.
        include: A pattern of keys to take, such as *.jpg or 2024/*; all where none is given. Repeatable.
        exclude: A pattern of keys to leave aside, beside what operating systems leave (.DS_Store, ...). Repeatable.
        non_images: Keep films, sidecars and documents as they are, or skip them by their names.
        discard: A part to leave out: preview (the default), gain-map, motion, trailer, content-credentials. Repeatable.
        max_images_per_shard: Pictures in a tar.
        max_shard_bytes: Bytes of sources in a tar.
        image_timeout: Seconds that one picture may take.
        image_memory: Bytes that the process of one picture may come to hold.
        max_failed_fraction: Stop, not committing a shard, when more of its pictures were read but could not be kept.
        verify: Decode every file again in a second process before it is kept.
        metrics: A metric to measure: psnr, ms-ssim and lpips where none is given; also lpips-vgg, dists, all, none.
            Repeatable.
        metrics_sample: Fraction of the pictures, by the hash of their keys, that lpips-vgg and dists are measured of.
        processor_sample: Fraction of the pictures, by the hash of their keys, that the processor decodes again where a
            GPU encodes and verifies; a difference stops the run.
        threads: Computing threads of a worker; part of the run's plan. Several workers use processors better.
        batch: Pictures of one size that are encoded together, for a GPU; part of the run's plan. 1 on a processor.
        bundle: Folder of a trained codec; the embedded one if empty.
        backbone: Where the bundle's backbone is, if it is not embedded in it.
        device: cpu, cuda or cuda:N.
        workers: Shards encoded at a time; 0 for as many as there are processors for their threads, 4 on a GPU.
        resume: Finish this run and do nothing else; refused when its settings are not those given.
        retry_failed: Take again what crashed, was killed, took too long or broke the encoder before.
        recheck: Take again what an earlier release kept and this one would judge otherwise.
        allow_shrink: Go on though the source lists nothing, or less than half of the pictures that are kept.
        single_writer: You vouch that no other writer runs, for a store that cannot keep two apart. It is remembered.
        child_env: An environment variable that the processes which decode pictures get too; may be given again.
        plan: Write nothing, but predict objects, requests, bytes and hours, from a sample of 20 pictures.
        engine: threads of this process, or dask for other processes. The archive is the same.
        dask_address: A Dask scheduler on the loopback interface or at tls://; local processes if empty.
    """
    settings = RunSettings(
        quality=quality,
        target_bpp=target_bpp,
        min_psnr_db=min_psnr_db,
        max_lpips=max_lpips,
        metadata=metadata,
        discard=RunSettings.discard if discard is None else tuple(discard),
        strict_metadata=strict_metadata,
        include=tuple(include or ()),
        exclude=(*RunSettings.exclude, *(exclude or ())),
        non_images=non_images,
        max_images_per_shard=max_images_per_shard,
        max_shard_bytes=max_shard_bytes,
        image_timeout=image_timeout,
        image_memory=image_memory,
        max_failed_fraction=max_failed_fraction,
        verify=verify,
        metrics=RunSettings.metrics if metrics is None else tuple(metrics),
        metrics_sample=metrics_sample,
        processor_sample=processor_sample,
        threads=threads,
        batch=batch,
    )
    source, archive = command.resolved(source), command.resolved(archive)
    models = Models(bundle, device, backbone, child_env=tuple(child_env or ()))
    count = mapping.workers(workers, threads, device)
    if plan:
        with command.bar("sampling") as bar:
            return asdict(
                predict(
                    source, archive, settings, models=models, workers=count, allow_shrink=allow_shrink, progress=bar
                )
            )
    logger = direct.logger()
    logger.info("compressing %s into %s with %d workers", source, archive, count)
    shards = mapping.engine(engine, count, address=dask_address, device=device)
    with followed("compressing") as progress, shards as (count, runner):
        mapped = partial(mapping.on(runner, mapping.shard_map), workers=count, progress=progress)
        run = partial(compress, source, archive, settings, models=models, shard_map=mapped, progress=progress)
        done = run(
            resume=resume,
            retry_failed=retry_failed,
            recheck=recheck,
            allow_shrink=allow_shrink,
            single_writer=single_writer,
        )
    row = {"runs": str(done.runs), **done.totals, **report.means(Store(archive), done.runs)}
    found, failures = report.failures(Store(archive), done.runs, outcome.KEPT)
    row["to_look_at"] = found
    logger.info("done: %d pictures in runs %s, %d to look at", row["images"], done.runs, found)
    direct.table([row], key="compress-archive", description=f"{source} into {archive}")
    return outcome.rows(row | {"left": failures[: outcome.LOGGED]}, failures, found)


def show(row: dict[str, Any]) -> int:
    """Print the totals and the first pictures to look at; the exit status says whether there are any."""
    if "hours" in row:
        kept_whole = row.pop("kept_whole")
        command.show_table("plan", row)
        for kept in kept_whole:
            line = (
                f"about {kept['pictures']:,} pictures of {kept['bytes']:,} bytes would be kept whole: {kept['reason']}"
            )
            if kept["discard"]:
                line += f"; --discard {kept['discard']} has them compressed"
            if kept["would_save_bytes"]:
                line += f" and saves about {kept['would_save_bytes']:,} bytes"
            print(line)
        return command.DONE
    left = row.pop("left", [])
    command.show_table("compress-archive" if row["images"] else "nothing is new", row)
    for failure in left:
        print(outcome.line(failure))
    return command.FAILED_ROWS if row["to_look_at"] else command.DONE


if __name__ == "__main__":
    command.run(compress_archive, show)
