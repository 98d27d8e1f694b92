"""python -m flows.train_codec SHARDS OUTPUT --settings mini: trains a bundle on tars of photos."""

from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from codec.support.terminal import say
from flows import command, direct, run_record
from tasks.storage.store import Store
from tasks.training.process import Training, evaluation, settings_file, train


@task(name="train", tags=["fdcodec-train"], cache_policy=NO_CACHE, persist_result=False)
def train_task(training: Training) -> str:
    """Trains in a subprocess; its output goes to this run's log and its steps to a progress artifact."""
    logger = direct.logger()
    shown = direct.progress("train-codec-progress", "steps of the current stage")
    with command.bar("training") as bar:
        done: dict[str, int] = {}

        def progress(record: dict[str, Any]) -> None:
            if "held_out" in record:  # a measurement between the steps, which advances nothing
                figures = ", ".join(f"{name} {value:.4f}" for name, value in record["held_out"].items())
                logger.info("%s %d on held-out photos: %s", record["stage"], record["step"], figures)
                return
            stage = record["stage"]
            step = record["step"]
            steps = record["steps"]
            if stage not in done:
                bar.begin(steps)
            bar.advance(step - done.get(stage, 0))  # not every step is reported
            done[stage] = step
            shown(100 * step / steps)
            logger.info("%s %d/%d loss %.4f", stage, step, steps, record["loss"])

        return train(training, logger.info, progress)


@flow(name="train-codec", flow_run_name="train {output}", persist_result=False)
def train_codec(
    shards: list[str],
    output: str,
    settings: str = "mini",
    held_out: list[str] | None = None,
    stage: list[str] | None = None,
    override: list[str] | None = None,
    accelerate: str = "",
) -> dict[str, Any]:
    """Train a codec with accelerate from the output's last checkpoint, and measure it on held-out photos.

    Args:
        shards: A dataset folder or tar of shard-images. Repeatable.
        output: Folder or URL for checkpoints, logs and the bundle.
        settings: A TOML or JSON file, or the name of a shipped one: mini, demo, sd21.
        held_out: Tars of photos to measure on. Repeatable; the last photos of the shards if not given.
        stage: Run only this stage. Repeatable.
        override: NAME=VALUE of a setting. Repeatable.
        accelerate: A settings file of accelerate, as in infra/accelerate; one process if empty.
    """
    data = [command.resolved(path) for path in shards]
    measured_on = [command.resolved(path) for path in held_out or []]
    output = command.resolved(output)
    settings = str(Path(settings_file(settings)).absolute())
    training = Training(data, settings, output, measured_on, stage or (), override or (), accelerate)
    bundle = direct.plain(train_task)(training)
    table = evaluation(output)  # written by the training; read from a URL too
    direct.table(table, key="train-codec", description="held-out photos, whole files, means")
    run_record.asset(bundle, "a trained codec", {"lambdas": len(table)}, upstream=data)
    direct.markdown(Store(bundle).read("CARD.md").decode(), "train-codec-card", output)
    return {"bundle": bundle, "evaluation": table}


def show(result: dict[str, Any]) -> int:
    """Prints the path of the bundle and its measurements."""
    for row in result["evaluation"]:
        command.show_table(f"lambda {row.pop('quality'):g}", row)
    say(f"bundle: {result['bundle']}")
    return command.DONE


if __name__ == "__main__":
    command.run(train_codec, show, logs=True)
