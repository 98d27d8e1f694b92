"""What a run tells the server besides its progress: its name, and the assets that it made.

An asset is an archive, dataset, bundle or page by its URL, with figures as metadata and what it was made from as
upstream assets. Prefect records both as events; lineage is drawn by servers whose page has it.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx
from prefect.assets import Asset, AssetProperties, add_asset_metadata, materialize
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run

from flows import direct

Result = TypeVar("Result")
REFUSED = re.compile(r"[^A-Za-z0-9/._~:@!$()*+,;=-]")
"""Characters that a key of an asset cannot have."""
LONGEST_KEY = 512


def rename(name: str) -> None:
    """Gives the current run a name. A server that does not answer leaves the old one."""
    if direct.is_direct() or not flow_run.id:
        return
    try:
        with get_client(sync_client=True) as client:
            client.update_flow_run(flow_run.id, name=name)
    except httpx.HTTPError as error:
        direct.logger().debug("the run keeps its name: %s", type(error).__name__)


def numbered(mapping: Callable[..., Result], what: str) -> Callable[..., Result]:
    """A map over the shards of a job that first adds the job's run number to the name of the flow's run."""

    def named(job: Any, *arguments: Any, **options: Any) -> Result:
        rename(f"{what}, run {job.run}")
        return mapping(job, *arguments, **options)

    return named


def asset_key(location: str) -> str:
    """The key of a URL or a path, from this folder if it is relative.

    Characters that Prefect refuses become `_`, and a hash keeps such keys apart.

    >>> asset_key("/photos/my archive")
    'file:///photos/my_archive-4f1165f2'
    """
    url = location if "://" in location else f"file://{Path(location).absolute()}"
    if len(url) <= LONGEST_KEY and not REFUSED.search(url):
        return url
    return f"{REFUSED.sub('_', url)[: LONGEST_KEY - 9]}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"


def asset(location: str, description: str, metadata: Mapping[str, Any], upstream: Sequence[str] = ()) -> None:
    """Records that this run made or changed an asset, and from which others."""
    if direct.is_direct():
        return
    key = asset_key(location)
    made = Asset(key=key, properties=AssetProperties(name=location, description=description))

    def record() -> None:
        add_asset_metadata(key, dict(metadata))

    sources: list[str | Asset] = [Asset(key=asset_key(source)) for source in upstream]
    task = materialize(made, name="record-asset", asset_deps=sources, cache_policy=NO_CACHE, persist_result=False)
    try:
        task(record)()
    except (httpx.HTTPError, RuntimeError) as error:  # the work is done, whether the server hears of it or not
        direct.logger().warning("%s is not recorded as an asset: %s", location, type(error).__name__)
