"""python -m flows.shard_images SOURCE DATASET: packs photos into WebDataset tars with a manifest."""

from functools import partial
from typing import Any

from prefect import flow

from codec.support.terminal import say
from flows import command, direct, mapping, outcome, run_record
from flows.parameters import Count, ShardBytes, ShardImages
from flows.progress import followed
from tasks.dataset import ShardingSettings, failures, pack


@flow(name="shard-images", flow_run_name="shard {source} into {dataset}", persist_result=False)
def shard_images(
    source: str,
    dataset: str,
    max_images_per_shard: ShardImages = 1000,
    max_shard_bytes: ShardBytes = 500_000_000,
    exclude: list[str] | None = None,
    workers: Count = 0,
) -> dict[str, Any]:
    """Pack the original bytes of photos for training; decodes each once to detect damage. Resumes if interrupted.

    Args:
        source: Folder or URL of photos, or a Parquet or CSV file or S3 Inventory that lists them.
        dataset: Folder or URL for the tars and the manifest.
        max_images_per_shard: Maximum number of photos in a tar.
        max_shard_bytes: Maximum bytes in a tar.
        exclude: A pattern of keys to exclude, such as test-*. Repeatable.
        workers: Shards packed at a time; 0: one per processor.
    """
    source = command.resolved(source)
    dataset = command.resolved(dataset)
    settings = ShardingSettings(max_images_per_shard, max_shard_bytes, tuple(exclude or ()))
    count = mapping.workers(workers, 1)  # packing computes on one thread a shard
    logger = direct.logger()
    logger.info("packing %s into %s", source, dataset)
    with followed("sharding") as progress:
        dataset_map = mapping.on_threads(mapping.dataset_map, count)
        mapped = partial(dataset_map, workers=count, progress=progress)
        totals = pack(source, dataset, settings, shard_map=mapped, progress=progress)
    run_record.asset(dataset, "a dataset of photos in tars", totals, upstream=[source])
    direct.table([totals], key="shard-images", description=f"{source} into {dataset}")
    failed = failures(dataset)
    logger.info("done: %d photos in %d tars, %d failed", totals["photos"], totals["tars"], totals["failed"])
    errors = [(failure["key"], failure["error"]) for failure in failed]
    return outcome.rows(totals | {"errors": errors}, failed, len(failed))


def show(row: dict[str, Any]) -> int:
    """Prints the totals and the failed files; the exit status is 2 if there are any."""
    errors = row.pop("errors")
    command.show_table("shard-images", row)
    for key, error in errors:
        say(f"{key}: {error}")
    return command.FAILED_ROWS if row["failed"] else command.DONE


if __name__ == "__main__":
    command.run(shard_images, show)
