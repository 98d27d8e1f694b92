"""python -m flows.prepare_server before KIND AUTOMATION [TEMPLATE] | after SCHEDULES: prepares deployments.

`before` creates the work pool fdcodec-KIND and the automation of a file such as infra/crashed.yaml if they are missing.
It checks that the Secret FDC_S3_BLOCK exists and that deployments of the same names belong to this archive. `after`
adds missing schedules. Prefect has commands for most of this, but each takes seconds to start. infra/deploy.sh calls
this module.
"""

import asyncio
import os
import sys
from pathlib import Path

import yaml
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.workers.utilities import get_default_base_job_template_for_infrastructure_type

from codec.errors import SettingsError
from flows.serve import NAMES


async def before(kind: str, crashed: str, template: str = "") -> None:
    """Creates missing objects; `crashed` is the automation's file, `template` the job template of a new pool.

    Raises SettingsError if the deployment would be harmful.
    """
    block = os.environ.get("FDC_S3_BLOCK", "")
    archive = os.environ.get("FDC_ARCHIVE", "")
    async with get_client() as client:
        # All checks first: a refusal must leave the server as it was.
        if block and not await _has_block(client, block):
            raise SettingsError(f"FDC_S3_BLOCK={block}: the server has no Secret block of this name")
        for name in NAMES:
            other = await _other(client, _deployment(name), f"fdcodec-{kind}", archive)
            if other:
                advice = "set FDC_NAME to deploy beside it, or delete it"
                raise SettingsError(f"{_deployment(name)} is deployed {other}: {advice}")
        await _pool(client, f"fdcodec-{kind}", kind, template)
        await _automation(client, crashed)


async def after(schedules: str) -> None:
    """Adds the schedules of a file to its deployments, except existing slugs; other schedules stay."""
    async with get_client() as client:
        for name, about in yaml.safe_load(Path(schedules).read_text()).items():
            deployment = await client.read_deployment_by_name(_deployment(name))
            if about["slug"] in {schedule.slug for schedule in deployment.schedules}:
                continue
            # Without a source and an archive, each scheduled run would fail.
            required = (deployment.parameter_openapi_schema or {}).get("required", [])
            if all(deployment.parameters.get(parameter) for parameter in required):
                cron = CronSchedule(cron=about["cron"], timezone=about["timezone"])
                schedule = DeploymentScheduleCreate(schedule=cron, slug=about["slug"], active=True)
                await client.create_deployment_schedules(deployment.id, [schedule])


def _deployment(flow: str) -> str:
    return f"{flow}/{flow}{os.environ.get('FDC_SUFFIX', '')}"


async def _other(client: PrefectClient, name: str, pool: str, archive: str) -> str:
    """Returns the other pool or archive of a deployment of this name; empty if it is this one."""
    try:
        deployment = await client.read_deployment_by_name(name)
    except ObjectNotFound:
        return ""
    if deployment.work_pool_name != pool:
        return f"on the work pool {deployment.work_pool_name}"
    configured = deployment.parameters.get("archive", archive)  # only some flows have this parameter
    if configured == archive:
        return ""
    return f"for {configured}"


async def _has_block(client: PrefectClient, name: str) -> bool:
    try:
        await client.read_block_document_by_name(name, "secret", False)
    except ObjectNotFound:
        return False
    return True


async def _pool(client: PrefectClient, name: str, kind: str, file: str) -> None:
    """Creates a missing pool, which would otherwise stop a deployment halfway."""
    try:
        await client.read_work_pool(name)
    except ObjectNotFound:
        if file:
            template = yaml.safe_load(Path(file).read_text())
        else:
            template = await get_default_base_job_template_for_infrastructure_type(kind)
        await client.create_work_pool(WorkPoolCreate(name=name, type=kind, base_job_template=template or {}))


async def _automation(client: PrefectClient, file: str) -> None:
    """Creates the automation of a file, or updates an existing one that waits for other events."""
    automation = AutomationCore.model_validate(yaml.safe_load(Path(file).read_text()))
    existing = await client.read_automations_by_name(automation.name)
    if not existing:  # a second one of this name would act too
        await client.create_automation(automation)
        return
    expected_now = getattr(existing[0].trigger, "expect", None)
    if expected_now != getattr(automation.trigger, "expect", None):
        await client.update_automation(existing[0].id, automation)


if __name__ == "__main__":
    step, *files = sys.argv[1:]
    try:
        if step == "before":
            asyncio.run(before(*files))
        else:
            asyncio.run(after(*files))
    except SettingsError as error:
        sys.exit(f"error: {error}")
