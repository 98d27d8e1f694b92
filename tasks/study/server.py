"""The web server of the two pages. No name in a request becomes a path: pictures are requested by number or ID."""

import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict, Field

from codec.containers.writing import encode_png
from codec.errors import FdcError
from codec.images import Picture
from tasks.study.gallery import Gallery
from tasks.study.study import AlreadyAnswered, Choice, ForgedComparison, Study, UnknownParticipant

PAGE = Path(__file__).parent / "page"
# pages load nothing from elsewhere, and names of pictures, which strangers chose, cannot become scripts
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'"
HEADERS = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
STATUS: dict[type[Exception], int] = {UnknownParticipant: 403, ForgedComparison: 403, AlreadyAnswered: 409}
FOUND = 50
"""Most names that a search returns."""


class Participant(BaseModel):
    """The participant of a request."""

    model_config = ConfigDict(extra="forbid")

    participant: Annotated[str, Field(min_length=1, max_length=100)]


class Answer(Participant):
    """Which side is closer to the original."""

    comparison: Annotated[str, Field(max_length=100)]
    choice: Choice
    seconds: Annotated[float, Field(ge=0, lt=1e6)]


def study_app(study: Study) -> FastAPI:
    """Creates the study: one page, its pictures, and answers that are stored before the response is sent."""
    app = _app("study.html")

    @app.post("/api/session")
    def session(asking: Participant) -> dict[str, Any]:
        return vars(study.state(asking.participant.strip()))

    @app.post("/api/answers")
    def answers(given: Answer) -> dict[str, Any]:
        return vars(study.answer(given.participant.strip(), given.comparison, given.choice, given.seconds))

    @app.get("/comparisons/{comparison}/{side}.png")
    def picture(comparison: str, side: Choice | Literal["original"]) -> FileResponse:
        return FileResponse(study.crop(comparison, side), media_type="image/png")

    return app


def viewer_app(gallery: Gallery) -> FastAPI:
    """Creates the viewer of a gallery, which numbers images and methods by position."""
    app = _app("viewer.html")
    edition = secrets.token_hex(4)  # in URLs of pictures, so that browsers cache none of an earlier gallery
    numbers = {image: number for number, image in enumerate(gallery.images)}

    @app.get("/api/gallery")
    def about() -> dict[str, Any]:
        return {"images": len(gallery.images), "methods": gallery.methods, "edition": edition}

    @app.get("/api/images")
    def search(find: str = "") -> list[dict[str, Any]]:
        found = [find] if find in numbers else []  # an exact name comes first
        for image in gallery.images:
            if len(found) == FOUND:
                break
            if image != find and find.lower() in image.lower():
                found.append(image)
        return [{"number": numbers[image], "name": image} for image in found]

    @app.get("/api/images/{number}")
    def image(number: int) -> dict[str, Any]:
        name = _at(gallery.images, number)
        return {"name": name, "figures": [gallery.figures(name, method) for method in gallery.methods]}

    @app.get("/pictures/{number}/original.png")
    def original(number: int) -> Response:
        return _png(gallery.original(_at(gallery.images, number)))

    @app.get("/pictures/{number}/{method}.png")
    def reconstruction(number: int, method: int) -> Response:
        name = _at(gallery.images, number)
        chosen = _at(gallery.methods, method)
        if gallery.figures(name, chosen) is None:
            raise HTTPException(404, f"{chosen} has no reconstruction of {name}")
        return _png(gallery.reconstruction(name, chosen))

    return app


def _app(page: str) -> FastAPI:
    app = FastAPI(title="fdcodec", docs_url=None, redoc_url=None, openapi_url=None)
    app.mount("/page", StaticFiles(directory=PAGE))

    @app.get("/")
    def start() -> FileResponse:
        return FileResponse(PAGE / page)

    @app.exception_handler(FdcError)
    async def refused(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, STATUS.get(type(error), 404))

    @app.middleware("http")
    async def guarded(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call(request)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)  # pictures of the viewer may be cached
        return response

    return app


def _at(names: list[str], number: int) -> str:
    if not 0 <= number < len(names):
        raise HTTPException(404, f"number {number} does not exist")
    return names[number]


def _png(picture: Picture) -> Response:
    """Encodes a PNG response that may be cached, since its URL names the gallery's edition."""
    headers = {"Cache-Control": "private, max-age=3600"}
    return Response(encode_png(picture.pixels), media_type="image/png", headers=headers)
