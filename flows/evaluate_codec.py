"""python -m flows.evaluate_codec PICTURES OUTPUT: compares this codec with others and runs the experiments."""

from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from codec.evaluation.baselines.ours import NAME, QUALITIES
from codec.evaluation.experiments import EXPERIMENTS, run
from codec.evaluation.report import write_report
from codec.evaluation.runner import RATES, Evaluation
from codec.evaluation.spec import ALL, EvaluationConfig
from codec.support.terminal import say
from flows import command, direct, mapping, run_record
from flows.parameters import BitsPerPixel, Count, Device, ImageTimeout, Lambda
from tasks.evaluation import as_folders, measure

measure_task = task(name="measure", cache_policy=NO_CACHE, persist_result=False)(measure)
report_task = task(name="report", cache_policy=NO_CACHE, persist_result=False)(write_report)
experiment_task = task(name="experiment", task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)(run)


@flow(name="evaluate-codec", flow_run_name="evaluate {pictures}", persist_result=False)
def evaluate_codec(
    pictures: str,
    output: str,
    codec: list[str] | None = None,
    bpp: list[BitsPerPixel] | None = None,
    quality: list[Lambda] | None = None,
    commands: str = "",
    bundle: str = "",
    backbone: str = "",
    device: Device = "cpu",
    experiments: bool = True,
    workers: Count = 0,
    image_timeout: ImageTimeout = 1800.0,
) -> dict[str, Any]:
    """Measure codecs on pictures and repeat the method's experiments; resumes after an interruption.

    Args:
        pictures: Folder or URL of pictures; from a URL, at most 10,000 are copied to this machine.
        output: Folder or URL for rows, report, figures and reconstructions; existing rows are not measured again.
        codec: fdcodec, autoencoder, another codec's name, or all, the default. Repeatable.
        bpp: A rate at which other codecs are measured. Repeatable.
        quality: A lambda at which this codec is measured. Repeatable.
        commands: TOML file of external codecs: a table [NAME] with encode, decode, settings each.
        bundle: Folder of a trained codec; the embedded one if empty.
        backbone: Folder or URL of the bundle's backbone, if it is not embedded.
        device: cpu, cuda or cuda:N.
        experiments: Also repeat the experiments of the method's supplement, if this codec is measured.
        workers: Pictures measured at a time, one process each; 0: one per processor.
        image_timeout: Time limit of a codec per picture in seconds.
    """
    pictures = command.resolved(pictures)
    output = command.resolved(output)
    with as_folders(pictures, output) as (originals, folder, changed), command.bar("measuring") as bar:
        config = EvaluationConfig(
            pictures=str(originals),
            output=str(folder),
            codecs=tuple(codec or [ALL]),
            rates=tuple(bpp or RATES),
            qualities=tuple(quality or QUALITIES),
            commands=commands,
            bundle=bundle,
            backbone=backbone,
            device=device,
        )
        codecs, missing = config.open()
        count = mapping.workers(workers, 1)
        reporting = changed.telling(bar)
        measured = direct.plain(measure_task)(config, codecs, workers=count, seconds=image_timeout, progress=reporting)
        # The experiments look into this codec's own steps, so they need it among those measured.
        if experiments and (ALL in config.codecs or NAME in config.codecs):
            for name in EXPERIMENTS:
                direct.plain(experiment_task)(name, config)
                changed()
        text = direct.plain(report_task)(folder, [each.name for each in codecs], missing)
        rows = Evaluation(folder).rows()
        failed = len([row for row in rows if row["status"] == "failed"])
    direct.markdown(text, key="evaluate-codec", description=f"{pictures} in {output}")
    page = f"{output.rstrip('/')}/index.html"
    totals = {"measured": measured, "failed": failed, "unavailable": len(missing)}
    run_record.asset(page, "a comparison of codecs", totals, upstream=[pictures, bundle] if bundle else [pictures])
    return totals | {"page": page}


def show(row: dict[str, Any]) -> int:
    """Prints the counts and the path of the page; the exit status is 2 if rows failed."""
    page = row.pop("page")
    command.show_table("evaluate-codec", row)
    say(f"page: {page}")
    return command.FAILED_ROWS if row["failed"] else command.DONE


if __name__ == "__main__":
    command.run(evaluate_codec, show)
