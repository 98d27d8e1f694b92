"""python -m flows.serve: runs every flow on demand and on schedule in this process, for the server at PREFECT_API_URL.

The deployments are named `served`, to differ from those of infra/prefect.yaml: compress-archive/served. Those of a
second archive have a suffix: served-WORD.
"""

from importlib import import_module
from typing import Annotated, cast

import typer
from prefect import Flow, serve
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Cron, Schedule
from prefect.settings import PREFECT_API_URL
from prefect.types.entrypoint import EntrypointType

from codec.errors import SettingsError
from codec.support.terminal import say
from flows import command

NAMES = (
    "shard-images",
    "train-codec",
    "compress-archive",
    "restore-archive",
    "audit-archive",
    "drill-archive",
    "evaluate-codec",
    "quality-report",
)
ONE_AT_A_TIME = ("train-codec", "compress-archive", "audit-archive")
NIGHTLY = Cron("0 2 * * *", timezone="UTC", slug="served-nightly")
MONTHLY = Cron("0 6 1 * *", timezone="UTC", slug="served-monthly")


def flow(name: str) -> Flow[..., object]:
    """Imports the flow of this name."""
    module = name.replace("-", "_")
    found: Flow[..., object] = getattr(import_module(f"flows.{module}"), module)
    return found


def deployments(source: str = "", archive: str = "", name: str = "") -> list[RunnerDeployment]:
    """Creates a deployment of each flow; with a source and an archive, those that update the archive have schedules.

    They are named `served`, or `served-NAME`. Raises SettingsError for a relative path, or a source without an archive.
    """
    if bool(source) != bool(archive):
        raise SettingsError("the schedules need both a source and an archive, or neither")
    for location in (source, archive):
        if location and location != command.resolved(location):
            raise SettingsError(
                f"{location!r} is relative, but a served flow can run in any folder: give a full path or a URL"
            )
    scheduled: dict[str, tuple[Schedule, dict[str, str]]] = {}
    if archive:
        scheduled["compress-archive"] = NIGHTLY, {"source": source, "archive": archive}
        scheduled["audit-archive"] = MONTHLY, {"archive": archive}
    # A run that takes longer than a day makes the next one wait: two would only compete for the processors.
    limit = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)
    found = []
    for each in NAMES:
        schedules: list[Schedule] | None = None
        parameters: dict[str, str] = {}
        if each in scheduled:
            schedule, parameters = scheduled[each]
            schedules = [schedule]
        deployment = flow(each).to_deployment(
            called(name),
            schedules=schedules,
            parameters=parameters,
            concurrency_limit=limit if each in ONE_AT_A_TIME else None,
            entrypoint_type=EntrypointType.MODULE_PATH,  # found from any working directory
        )
        found.append(cast(RunnerDeployment, deployment))
    return found


def called(name: str) -> str:
    """Returns the deployment name of an archive."""
    return f"served-{name}" if name else "served"


def refuse_others(archive: str, name: str) -> None:
    """Raises SettingsError if deployments of this name, with their schedules, belong to another archive."""
    with get_client(sync_client=True) as client:
        for each in ("compress-archive", "audit-archive"):
            try:
                deployment = client.read_deployment_by_name(f"{each}/{called(name)}")
            except ObjectNotFound:
                continue
            configured = deployment.parameters.get("archive", "")
            if configured and configured != archive:
                raise SettingsError(
                    f"{each}/{called(name)} is for {configured}: give --name to serve another archive beside it"
                )


def main(
    source: Annotated[str, typer.Option(help="Folder or URL of pictures for the nightly compress-archive.")] = "",
    archive: Annotated[str, typer.Option(help="Folder or URL of its archive, which audit-archive checks.")] = "",
    name: Annotated[str, typer.Option(help="Suffix of the deployments of a second archive: served-WORD.")] = "",
) -> None:
    """Serve every flow until interrupted; schedules run only with both a source and an archive."""
    try:
        if not PREFECT_API_URL.value():
            raise SettingsError("PREFECT_API_URL is empty: a temporary server does not run schedules")
        found = deployments(source, archive, name)
        refuse_others(archive, name)
    except SettingsError as error:
        say(f"error: {error}", err=True)
        raise typer.Exit(command.FATAL) from None
    serve(*found)


if __name__ == "__main__":
    typer.run(main)
