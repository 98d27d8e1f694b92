"""python -m flows.quality_report ARCHIVE...: a page about savings, quality and failures of archives."""

from typing import Any

from prefect import flow

from flows import command, direct, run_record
from flows.parameters import AtLeastOne, Count, Device
from tasks.archive import layout
from tasks.processes.codec_process import Models
from tasks.quality import page
from tasks.storage.store import Store


@flow(name="quality-report", flow_run_name="quality of {archives}", persist_result=False)
def quality_report(
    archives: list[str],
    output: str = "",
    worst: Count = 50,
    backbone: str = "",
    device: Device = "cpu",
    threads: AtLeastOne = 1,
) -> dict[str, Any]:
    """Write a self-contained HTML file about one or more archives.

    Args:
        archives: Folders or URLs of archives.
        output: File or URL of the page to write or replace; reports/quality-report.html of the first archive if empty.
        worst: Number of worst pictures to decode and show next to their originals.
        backbone: Folder or URL of the backbone, if an archive's bundle does not embed it.
        device: cpu, cuda or cuda:N.
        threads: Computing threads of the decoder.
    """
    locations = [command.resolved(archive) for archive in archives]
    if not output:
        output = f"{locations[0].rstrip('/')}/{layout.QUALITY_REPORT}"
    output = command.resolved(output)
    with command.bar("decoding the worst") as bar:
        report = page.gather(locations, Models("", device, backbone, threads), worst=worst, progress=bar)
    folder, _, name = output.rpartition("/")
    # Replaced, unlike an archive's objects: a page is derived, and its readers want the newest under one name.
    Store(folder).replace(name, page.html(report).encode())
    direct.markdown(page.markdown(report, output), key="quality-report", description=", ".join(locations))
    run_record.asset(output, "a quality report", report.total, upstream=locations)
    unreadable = [pair for pair in report.worst if pair.stored.missing]
    return {**report.total, "unreadable": len(unreadable), "page": output}


def show(row: dict[str, Any]) -> int:
    """Prints the totals; a worst picture that cannot be restored is a failed row."""
    shown = {name: value for name, value in row.items() if name not in ("archive", "folder")}
    command.show_table("quality-report", shown)
    return command.FAILED_ROWS if row["unreadable"] else command.DONE


if __name__ == "__main__":
    command.run(quality_report, show)
