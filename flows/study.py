"""python -m flows.study serve PLACE...: pictures beside their originals; with --study, a study of which is closer."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
import uvicorn

from codec.errors import FdcError, SettingsError
from codec.evaluation import elo as ratings
from tasks.processes.codec_process import Models
from tasks.study import export as exports
from tasks.study.gallery import opened
from tasks.study.server import study_app, viewer_app
from tasks.study.study import DATABASE, Study

app = typer.Typer(help="Look at pictures, hold a study, rate the methods.", add_completion=False, no_args_is_help=True)
Names = Annotated[list[str] | None, typer.Option(help="May be repeated; all if not given.")]


@app.command()
def serve(
    places: Annotated[list[str] | None, typer.Argument(help="An evaluation folder, or archives of one source.")] = None,
    originals: Annotated[Path | None, typer.Option(help="Folder of an evaluation's originals.")] = None,
    study: Annotated[Path | None, typer.Option(help="Folder of a study, made if it is not there.")] = None,
    participant: Annotated[list[str] | None, typer.Option(help="A name or code to let in; may be repeated.")] = None,
    method: Names = None,
    image: Names = None,
    comparisons: Annotated[int | None, typer.Option(help="Drawn for each participant. [default: all]", min=1)] = None,
    host: Annotated[str, typer.Option(help="0.0.0.0 to be reached from other machines.")] = "127.0.0.1",
    port: int = 8321,
    backbone: Annotated[str, typer.Option(help="Where the backbone is, if a bundle does not embed it.")] = "",
    device: str = "cpu",
) -> None:
    """Start the page, and stop it with Ctrl-C. A study that is there goes on; its pictures are frozen in it."""
    with ExitStack() as stack:
        if study is not None and (study / DATABASE).is_file():
            _refuse_ignored(study, places, originals, method, image, comparisons, backbone)
        gallery = opened(places, originals, Models("", device, backbone), stack) if places else None
        if study is not None:
            if gallery is not None and not (study / DATABASE).is_file():
                Study.create(study, gallery, methods=method or (), images=image or (), per_participant=comparisons)
            chosen = Study(study)
            chosen.invite(participant or ())
            typer.echo(f"participants: {', '.join(chosen.participants()) or 'none; let some in with --participant'}")
            application = study_app(chosen)
        elif gallery is not None:
            application = viewer_app(gallery)
        else:
            raise typer.BadParameter("name an evaluation folder or an archive")
        typer.echo(f"http://{host}:{port}/")
        uvicorn.run(application, host=host, port=port, log_level="warning")


def _refuse_ignored(study: Path, places: object, *options: object) -> None:
    """Raise SettingsError for what a study that is there would not heed."""
    names = ("PLACE", "--originals", "--method", "--image", "--comparisons", "--backbone")
    if given := [name for name, value in zip(names, (places, *options), strict=True) if value]:
        raise SettingsError(f"{study}: a study whose pictures are frozen; leave out {', '.join(given)}")


@app.command()
def export(study: Annotated[Path, typer.Argument(help="Folder of a study.")]) -> None:
    """Write the answers and the exact images and bitrates as Parquet into the study's folder."""
    for path in exports.export(Study(study)):
        typer.echo(path)


@app.command()
def elo(
    answers: Annotated[Path, typer.Argument(help="Folder of a study, or its answers.parquet.")],
    output: Annotated[list[Path] | None, typer.Option(help="Figure; may be repeated. [default: elo.svg]")] = None,
    k: Annotated[float, typer.Option(help="Most points that one game moves.")] = 32.0,
    group_k: Annotated[float | None, typer.Option(help="K of aggregated updates. [default: k, or less]")] = None,
    start: Annotated[float, typer.Option(help="Rating of everybody before the first game.")] = 1500.0,
    orders: Annotated[int, typer.Option(help="Monte Carlo orders.")] = 10_000,
    seed: int = 0,
) -> None:
    """Rate the methods by three aggregations: a table, and box plots."""
    settings = ratings.EloSettings(k, group_k, start, orders, seed)
    games = exports.games(answers)
    results = [ratings.rate(games, aggregation, settings) for aggregation in ratings.AGGREGATIONS]
    typer.echo(ratings.markdown(games, results, settings))
    ratings.draw(results, output or [Path("elo.svg")])


def main() -> None:
    """Run a command; an FdcError is one line and exit status 1."""
    try:
        app()
    except FdcError as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
