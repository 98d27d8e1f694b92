"""python -m flows.study serve PLACE...: shows pictures next to their originals; with --study, runs a study."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
import uvicorn

from codec.errors import SettingsError
from codec.evaluation import elo as ratings
from flows import one_line
from tasks.processes.codec_process import Models
from tasks.study import export as exports
from tasks.study.gallery import opened
from tasks.study.server import study_app, viewer_app
from tasks.study.study import DATABASE, Study

app = typer.Typer(help="Compare pictures, run a study, rate the methods.", add_completion=False, no_args_is_help=True)
Names = Annotated[list[str] | None, typer.Option(help="Repeatable; all if not given.")]


@app.command()
def serve(
    places: Annotated[list[str] | None, typer.Argument(help="An evaluation folder, or archives of one source.")] = None,
    originals: Annotated[Path | None, typer.Option(help="Folder of an evaluation's originals.")] = None,
    study: Annotated[Path | None, typer.Option(help="Folder of a study, created if missing.")] = None,
    participant: Annotated[list[str] | None, typer.Option(help="Name or code of a participant. Repeatable.")] = None,
    method: Names = None,
    image: Names = None,
    comparisons: Annotated[int | None, typer.Option(help="Comparisons per participant. [default: all]", min=1)] = None,
    host: Annotated[str, typer.Option(help="0.0.0.0 to allow access from other machines.")] = "127.0.0.1",
    port: int = 8321,
    backbone: Annotated[str, typer.Option(help="Folder or URL of the backbone, if a bundle does not embed it.")] = "",
    device: str = "cpu",
) -> None:
    """Serve the page until Ctrl-C. An existing study continues with its frozen pictures."""
    with ExitStack() as stack:  # ends the decoding processes of the gallery with the server
        if study is not None and (study / DATABASE).is_file():
            _refuse_ignored(study, places, originals, method, image, comparisons, backbone)
        gallery = None
        if places:
            gallery = opened(places, originals, Models("", device, backbone), stack)
        if study is not None:
            if gallery is not None and not (study / DATABASE).is_file():
                Study.create(study, gallery, methods=method or (), images=image or (), per_participant=comparisons)
            chosen = Study(study)
            chosen.invite(participant or ())
            participants = ", ".join(chosen.participants()) or "none; add some with --participant"
            typer.echo(f"participants: {participants}")
            application = study_app(chosen)
        elif gallery is not None:
            application = viewer_app(gallery)
        else:
            raise typer.BadParameter("name an evaluation folder or an archive")
        typer.echo(f"http://{host}:{port}/")
        uvicorn.run(application, host=host, port=port, log_level="warning")


def _refuse_ignored(study: Path, places: object, *options: object) -> None:
    """Raises SettingsError for options that an existing study would ignore."""
    names = ("PLACE", "--originals", "--method", "--image", "--comparisons", "--backbone")
    given = [name for name, value in zip(names, (places, *options), strict=True) if value]
    if given:
        raise SettingsError(f"{study}: an existing study, whose pictures are frozen; leave out {', '.join(given)}")


@app.command()
def export(study: Annotated[Path, typer.Argument(help="Folder of a study.")]) -> None:
    """Write the answers and the exact images and bit rates as Parquet to the study's folder."""
    for path in exports.export(Study(study)):
        typer.echo(path)


@app.command()
def elo(
    answers: Annotated[Path, typer.Argument(help="Folder of a study, or its answers.parquet.")],
    output: Annotated[list[Path] | None, typer.Option(help="Figure. Repeatable. [default: elo.svg]")] = None,
    k: Annotated[float, typer.Option(help="Maximum change of a rating per game.")] = 32.0,
    group_k: Annotated[float | None, typer.Option(help="K of aggregated updates. [default: k, or less]")] = None,
    start: Annotated[float, typer.Option(help="Initial rating of all methods.")] = 1500.0,
    orders: Annotated[int, typer.Option(help="Number of random orders.")] = 10_000,
    seed: int = 0,
) -> None:
    """Rate the methods by three aggregations: a table, and box plots."""
    settings = ratings.EloSettings(k, group_k, start, orders, seed)
    games = exports.games(answers)
    results = [ratings.rate(games, aggregation, settings) for aggregation in ratings.AGGREGATIONS]
    typer.echo(ratings.markdown(games, results, settings))
    ratings.draw(results, output or [Path("elo.svg")])


def main() -> None:
    """Runs a command."""
    one_line.run(app)


if __name__ == "__main__":
    main()
