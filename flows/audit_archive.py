"""python -m flows.audit_archive ARCHIVE: checks that an archive is complete, undamaged and decodable."""

from collections.abc import Mapping
from typing import Any

from prefect import flow

from codec.support.terminal import say
from flows import command, direct, outcome, run_record
from flows.parameters import AtLeastOne, Device, Fraction
from flows.progress import followed
from tasks.archive import layout
from tasks.maintenance.audit import audit
from tasks.processes.codec_process import Models

SHOWN = 100


@flow(name="audit-archive", flow_run_name="audit {archive}", persist_result=False)
def audit_archive(
    archive: str,
    sample: Fraction = 1.0,
    seed: int | None = None,
    repair_from: str = "",
    backbone: str = "",
    device: Device = "cpu",
    threads: AtLeastOne = 1,
) -> dict[str, Any]:
    """Check every object of an archive, and the bytes and symbols of all pictures or a sample.

    Args:
        archive: Folder or URL of the archive; findings are written to its folder audits.
        sample: Fraction of the pictures to read and decode.
        seed: Seed of the sample; random if not given.
        repair_from: Folder or URL of a mirror; its objects, once checked, replace missing and damaged ones.
        backbone: Folder or URL of the backbone, if the archive's bundle does not embed it.
        device: cpu, cuda or cuda:N.
        threads: Computing threads.
    """
    archive = command.resolved(archive)
    mirror = command.resolved(repair_from) if repair_from else ""
    models = Models("", device, backbone, threads)
    logger = direct.logger()
    logger.info("auditing %s, %g of its pictures", archive, sample)
    with followed("auditing") as progress:
        found = audit(archive, sample=sample, seed=seed, repair_from=mirror, models=models, progress=progress)
    row: dict[str, Any] = {
        "objects": found.objects,
        "pictures": found.pictures,
        "problems": found.found,
        "repaired": found.repaired,
        "findings": found.findings,
    }
    direct.table([row], key="audit-archive", description=archive)
    run_record.asset(f"{archive.rstrip('/')}/{layout.AUDITS}", "findings of audits", row, upstream=[archive])
    logger.info(
        "done: %d objects, %d pictures, %d problems, %d repaired",
        found.objects,
        found.pictures,
        found.found,
        found.repaired,
    )
    left = [problem for problem in found.problems if not problem["repaired"]]
    failures = [_failure(problem) for problem in left]
    # By the counts: an audit names only the first of very many problems.
    return outcome.damage(row | {"left": left[:SHOWN]}, failures, found.found - found.repaired, archive)


def _failure(problem: Mapping[str, Any]) -> outcome.Failure:
    return {
        "key": problem["key"] or problem["name"],
        "reason": problem["state"],
        "error": problem["detail"],
        "object": problem["name"],
    }


def show(row: dict[str, Any]) -> int:
    """Prints the totals and the remaining problems; the exit status is 2 if there are any."""
    left = row.pop("left")
    command.show_table("audit-archive", row)
    for problem in left:
        # An object such as a table belongs to no picture.
        picture = "" if problem["key"] is None else f" ({problem['key']})"
        say(f"{problem['state']}: {problem['name']}{picture}: {problem['detail']}")
    return command.FAILED_ROWS if row["problems"] > row["repaired"] else command.DONE


if __name__ == "__main__":
    command.run(audit_archive, show)
