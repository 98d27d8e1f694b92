"""python -m flows.drill_archive ARCHIVE MIRROR: tests that a mirror alone is enough to restore pictures."""

import datetime
from typing import Any

from prefect import flow

from codec.support.terminal import say
from flows import command, direct, outcome, run_record
from flows.parameters import AtLeastOne
from flows.progress import followed
from tasks.maintenance.drill import drill


@flow(name="drill-archive", flow_run_name="drill {archive}", persist_result=False)
def drill_archive(archive: str, mirror: str, pictures: AtLeastOne = 20, seed: str = "") -> dict[str, Any]:
    """Restore some pictures from a mirror with the software stored in it and without an index, and compare them.

    Args:
        archive: Folder or URL of the archive, whose rows have the expected hashes.
        mirror: Folder or URL of a plain copy of it.
        pictures: Number of pictures, chosen by hash.
        seed: Seed of the choice; the current month if empty.
    """
    archive = command.resolved(archive)
    mirror = command.resolved(mirror)
    # Other pictures each month, and the same ones if a drill is repeated to look into a problem.
    seed = seed or f"{datetime.datetime.now(datetime.UTC):%Y-%m}"
    logger = direct.logger()
    logger.info("restoring %d pictures of %s with its own software, seed %s", pictures, mirror, seed)
    with followed("drilling") as progress:
        drilled = drill(archive, mirror, pictures=pictures, seed=seed, progress=progress)
    found = len(drilled.problems)
    row = {"pictures": drilled.pictures, "problems": found, "software": drilled.software, "seed": seed}
    direct.table([row], key="drill-archive", description=mirror)
    run_record.asset(mirror, "a mirror of an archive", row, upstream=[archive])
    logger.info("done: %d pictures, %d problems", drilled.pictures, found)
    return outcome.damage(row | {"left": drilled.problems}, drilled.problems, found, mirror)


def show(row: dict[str, Any]) -> int:
    """Prints the totals and the problems; the exit status is 2 if there are any."""
    left = row.pop("left")
    command.show_table("drill-archive", row)
    for problem in left:
        say(f"{problem['reason']}: {problem['key']}: {problem['error']}")
    return command.FAILED_ROWS if left else command.DONE


if __name__ == "__main__":
    command.run(drill_archive, show)
