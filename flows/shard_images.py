"""python -m flows.shard_images SOURCE DATASET: photos into WebDataset tars and a manifest."""

from functools import partial
from typing import Any

from prefect import flow

from flows import command, direct, mapping, outcome
from flows.progress import followed
from tasks.dataset import ShardingSettings, failures, pack


@flow(name="shard-images", persist_result=False)
def shard_images(
    source: str,
    dataset: str,
    max_images_per_shard: int = 1000,
    max_shard_bytes: int = 500_000_000,
    exclude: list[str] | None = None,
    workers: int = 0,
) -> dict[str, Any]:
    """Pack photos for training: original bytes, each decoded once to find damage; called again, it goes on.

    Args:
        source: Folder or URL of photos, or a Parquet or CSV file or S3 Inventory that lists them.
        dataset: Folder or URL for the tars and the manifest.
        max_images_per_shard: Photos in a tar.
        max_shard_bytes: Bytes in a tar.
        exclude: A pattern of keys to leave out, such as test-*; may be given again.
        workers: Shards packed at a time; 0 for as many as there are processors.
    """
    source, dataset = command.resolved(source), command.resolved(dataset)
    settings = ShardingSettings(max_images_per_shard, max_shard_bytes, tuple(exclude or ()))
    count = mapping.workers(workers, 1)
    logger = direct.logger()
    logger.info("packing %s into %s", source, dataset)
    with followed("sharding") as progress:
        dataset_map = mapping.on_threads(mapping.dataset_map, count)
        mapped = partial(dataset_map, workers=count, progress=progress)
        totals = pack(source, dataset, settings, shard_map=mapped, progress=progress)
    direct.table([totals], key="shard-images", description=f"{source} into {dataset}")
    failed = failures(dataset)
    logger.info("done: %d photos in %d tars, %d failed", totals["photos"], totals["tars"], totals["failed"])
    errors = [(failure["key"], failure["error"]) for failure in failed]
    return outcome.rows(totals | {"errors": errors}, failed, len(failed))


def show(row: dict[str, Any]) -> int:
    """Print the totals, and why files are no photos; the exit status says whether there were any."""
    errors = row.pop("errors")
    command.show_table("shard-images", row)
    for key, error in errors:
        print(f"{key}: {error}")
    return command.FAILED_ROWS if row["failed"] else command.DONE


if __name__ == "__main__":
    command.run(shard_images, show)
