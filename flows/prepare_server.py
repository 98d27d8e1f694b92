"""python -m flows.prepare_server KIND AUTOMATION [BLOCK]: what deployments need on a server of Prefect's.

Made where it is missing: the work pool fdcodec-KIND, and the automation of a file such as infra/crashed.yaml; a Secret
BLOCK must be there. Prefect has commands for all of it, each in a process that takes seconds to start. infra/deploy.sh
calls this.
"""

import asyncio
import sys
from pathlib import Path

import yaml
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.workers.utilities import get_default_base_job_template_for_infrastructure_type


async def main(kind: str, crashed: str, block: str = "") -> None:
    """Make what is missing; `crashed` is the automation's file. Ends with one line where the block is missing."""
    async with get_client() as client:
        if block and not await _has_block(client, block):
            sys.exit(f"error: FDC_S3_BLOCK={block}: the server has no Secret block of this name")
        await _pool(client, f"fdcodec-{kind}", kind)
        automation = AutomationCore.model_validate(yaml.safe_load(Path(crashed).read_text()))
        if not await client.read_automations_by_name(automation.name):  # another of the same name would act as well
            await client.create_automation(automation)


async def _has_block(client: PrefectClient, name: str) -> bool:
    try:
        await client.read_block_document_by_name(name, "secret", False)
    except ObjectNotFound:
        return False
    return True


async def _pool(client: PrefectClient, name: str, kind: str) -> None:
    """A missing pool would stop a deployment half-way."""
    try:
        await client.read_work_pool(name)
    except ObjectNotFound:
        template = await get_default_base_job_template_for_infrastructure_type(kind)
        await client.create_work_pool(WorkPoolCreate(name=name, type=kind, base_job_template=template or {}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
