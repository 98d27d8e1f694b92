"""python -m flows.compress_archive SOURCE ARCHIVE: compresses a folder of pictures to a verified archive."""

from dataclasses import asdict
from functools import partial
from typing import Any, Literal

from prefect import flow

from codec.support.terminal import say
from flows import command, direct, mapping, outcome, run_record
from flows.parameters import (
    AtLeastOne,
    BitsPerPixel,
    Count,
    Decibels,
    Device,
    Discards,
    Effort,
    Fraction,
    ImageMemory,
    ImageTimeout,
    Lambda,
    Lpips,
    Metrics,
    PreviewSide,
    ShardBytes,
    ShardImages,
)
from flows.progress import followed
from tasks.archive import report
from tasks.archive.manifest import RunSettings
from tasks.compress.dry_run import predict
from tasks.compress.runs import compress
from tasks.processes.codec_process import Models
from tasks.storage.store import Store


@flow(name="compress-archive", flow_run_name="compress {archive}", persist_result=False)
def compress_archive(
    source: str,
    archive: str,
    quality: Lambda | None = None,
    target_bpp: BitsPerPixel | None = None,
    min_psnr_db: Decibels | None = None,
    max_lpips: Lpips | None = None,
    metadata: Literal["all", "no-location", "none"] = "all",
    strict_metadata: bool = False,
    discard: Discards | None = None,
    include: list[str] | None = None,
    exclude: list[str] | None = None,
    non_images: Literal["keep", "skip"] = "keep",
    max_images_per_shard: ShardImages = 2000,
    max_shard_bytes: ShardBytes = 10**9,
    image_timeout: ImageTimeout = 1800.0,
    image_memory: ImageMemory = 16 * 10**9,
    max_failed_fraction: Fraction = 1.0,
    verify: bool = True,
    metrics: Metrics | None = None,
    metrics_sample: Fraction = RunSettings.metrics_sample,
    processor_sample: Fraction = RunSettings.processor_sample,
    threads: AtLeastOne = 1,
    batch: AtLeastOne = 1,
    effort: Effort = 0,
    preview: PreviewSide = RunSettings.preview,
    bundle: str = "",
    backbone: str = "",
    device: Device = "cpu",
    workers: Count = 0,
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
    """Finish the archive's open run, if any, then compress new and changed pictures of the source.

    Args:
        source: Folder or URL of pictures, a Parquet or CSV file or S3 Inventory that lists them, or a sharded dataset.
        archive: Folder or URL of the archive, created if missing.
        quality: Lambda: larger values give better and larger files. The codec's default if target_bpp is not given.
        target_bpp: Bits per pixel of the whole file, instead of quality.
        min_psnr_db: Minimum PSNR: lambda is raised until it is met, else the picture is kept losslessly.
        max_lpips: Maximum LPIPS (AlexNet), met in the same way.
        metadata: What .fdc files carry: all, no-location (no GPS, no MakerNotes) or none. Files kept whole keep all.
        strict_metadata: Refuse pictures that would be kept whole, with their metadata, unless metadata is all.
        include: A pattern of keys to include, such as *.jpg or 2024/*; all if not given. Repeatable.
        exclude: A pattern of keys to exclude, in addition to files of operating systems (.DS_Store, ...). Repeatable.
        non_images: Keep videos, sidecars and documents unchanged, or skip them by name.
        discard: A part to leave out: preview (the default), gain-map, motion, trailer, content-credentials. Repeatable.
        max_images_per_shard: Maximum number of pictures in a tar.
        max_shard_bytes: Maximum bytes of sources in a tar.
        image_timeout: Time limit per picture in seconds.
        image_memory: Memory limit of the process of a picture in bytes.
        max_failed_fraction: Stop, without committing the shard, if a larger fraction of read pictures failed.
        verify: Decode every file again in a second process before it is kept.
        metrics: A metric to measure: psnr, ms-ssim and lpips if not given; also lpips-vgg, dists, all, none.
            Repeatable.
        metrics_sample: Fraction of the pictures, by the hash of their keys, for which lpips-vgg and dists are measured.
        processor_sample: Fraction of the pictures, by the hash of their keys, that the CPU decodes again if a GPU
            encodes and verifies; a difference stops the run.
        threads: Computing threads of a worker; part of the run's plan. More workers use processors better.
        batch: Pictures of one size that a GPU encodes together; part of the run's plan. 1 on a CPU.
        effort: 1 or 2 refines each picture's latent for fewer bytes at equal quality: about 5 or 40 times the time, and
            10 or 100 times image_timeout. Needs batch 1; part of the run's plan.
        preview: Longer side in pixels of the preview in each .fdc file, for listings and the gateway: a WebP picture of
            at most 6,000 bytes; 0: none. Part of the run's plan.
        bundle: Folder of a trained codec; the embedded one if empty.
        backbone: Folder or URL of the bundle's backbone, if it is not embedded.
        device: cpu, cuda or cuda:N.
        workers: Shards encoded at a time; 0: processors divided by threads, at most 4 on a GPU.
        resume: Only finish this run; refused if its settings differ from those given.
        retry_failed: Retry pictures that crashed, were killed, took too long or failed in the encoder.
        recheck: Retry pictures that an earlier release stored and this one would judge differently.
        allow_shrink: Continue even if the source lists nothing, or less than half of the stored pictures.
        single_writer: You guarantee that no other writer runs, for a store without exclusive creation. Remembered.
        child_env: An environment variable passed to the processes that decode pictures. Repeatable.
        plan: Write nothing; predict objects, requests, bytes and hours from a sample of 20 pictures.
        engine: threads (in this process) or dask (in other processes). The archive is the same.
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
        effort=effort,
        preview=preview,
    )
    source = command.resolved(source)
    archive = command.resolved(archive)
    models = Models(bundle, device, backbone, child_env=tuple(child_env or ()))
    count = mapping.workers(workers, threads, device)
    if plan:
        with command.bar("sampling") as bar:
            predicted = predict(
                source, archive, settings, models=models, workers=count, allow_shrink=allow_shrink, progress=bar
            )
        return asdict(predicted)
    logger = direct.logger()
    logger.info("compressing %s into %s with %d workers", source, archive, count)
    shards = mapping.engine(engine, count, address=dask_address, device=device)
    with followed("compressing") as progress, shards as (count, runner):
        mapped = partial(mapping.on(runner, mapping.shard_map), workers=count, progress=progress)
        done = compress(
            source,
            archive,
            settings,
            models=models,
            resume=resume,
            retry_failed=retry_failed,
            recheck=recheck,
            allow_shrink=allow_shrink,
            single_writer=single_writer,
            shard_map=run_record.numbered(mapped, f"compress {archive}"),
            progress=progress,
        )
    row = {"runs": str(done.runs), **done.totals, **report.means(Store(archive), done.runs)}
    # Of the runs of this call alone: failures of earlier runs were reported by their own.
    found, failures = report.failures(Store(archive), done.runs, outcome.KEPT)
    row["to_look_at"] = found
    logger.info("done: %d pictures in runs %s, %d to look at", row["images"], done.runs, found)
    direct.table([row], key="compress-archive", description=f"{source} into {archive}")
    if done.runs:
        run_record.asset(archive, "an fdcodec archive", row, upstream=[source, bundle] if bundle else [source])
    return outcome.rows(row | {"left": failures[: outcome.LOGGED]}, failures, found)


def show(row: dict[str, Any]) -> int:
    """Prints the totals and the first pictures that need attention; the exit status is 2 if there are any."""
    if "hours" in row:  # a prediction
        _show_plan(row)
        return command.DONE
    left = row.pop("left", [])
    command.show_table("compress-archive" if row["images"] else "nothing is new", row)
    for failure in left:
        say(outcome.line(failure))
    return command.FAILED_ROWS if row["to_look_at"] else command.DONE


def _show_plan(row: dict[str, Any]) -> None:
    kept_whole = row.pop("kept_whole")
    command.show_table("plan", row)
    for kept in kept_whole:
        line = f"about {kept['pictures']:,} pictures of {kept['bytes']:,} bytes would be kept whole: {kept['reason']}"
        if kept["discard"]:
            line += f"; --discard {kept['discard']} has them compressed"
        if kept["would_save_bytes"]:
            line += f" and saves about {kept['would_save_bytes']:,} bytes"
        say(line)


if __name__ == "__main__":
    command.run(compress_archive, show)
