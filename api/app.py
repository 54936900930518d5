"""The application; `python -m api` serves it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse

from api import handlers, problems
from api.analysis import Analyses
from api.dependencies import Service
from api.edge import Edge
from api.examining import Examinations
from api.late_bell import LateBell
from api.routes import artifacts, datasets, events, health, jobs, networks, targets, trials
from api.watching import Watch
from models import private
from models.blobs import BlobStore
from models.database import Database
from models.settings import Settings

_PATIENCE_S = 5.0  # for a connection or a lock; then 503, which clients try again

_ABOUT = """\
Makes trained neural networks smaller and faster, to a budget: upload a network and a dataset,
create a job with a budget, wait for it, download the results.

Errors are problem documents (RFC 9457) with a stable `code`.
"""

_LANDING = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Espalier</title>
<style>
  body { font: 1.1rem/1.5 system-ui, sans-serif; max-width: 42rem; margin: 4rem auto }
  pre { background: #8882; padding: 1rem; overflow-x: auto; border-radius: .4rem }
</style>
<h1>Espalier</h1>
<p>Makes trained neural networks smaller and faster, to a budget.</p>
<pre>espalier submit net.espalier --data digits.npz --budget macs=50%
espalier watch JOB
espalier download JOB</pre>
<p>The REST interface: <a href="/docs">documentation</a>, <a href="/openapi.json">OpenAPI</a>.
For operators: <a href="/readyz">readiness</a>, <a href="/metrics">metrics</a>.</p>
</html>
"""


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document, with our problem for every error in the place of its own."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        components = document.setdefault("components", {}).setdefault("schemas", {})
        for model in (problems.ProblemDocument, problems.FieldProblem):
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schema.pop("$defs", None)
            components[model.__name__] = schema
        components.pop("HTTPValidationError", None)
        components.pop("ValidationError", None)
        for path in document["paths"].values():
            for operation in path.values():
                answers = operation["responses"]
                if "422" in answers:
                    answers["422"] = problems.responses(422)[422]
                answers["default"] = problems.responses(500)[500] | {"description": "Any error"}
        app.openapi_schema = document
    return app.openapi_schema


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application.

    Args:
        settings: from the environment if left out.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        own = settings or Settings()
        private.tighten(own)
        database = Database.of(own, bell=LateBell(own), patience_s=_PATIENCE_S)
        watch = Watch(database)
        blobs = BlobStore.open(own.blob_url)
        app.state.service = Service(own, database, blobs, Analyses(), Examinations(own), watch)
        yield
        watch.close()
        database.dispose()

    app = FastAPI(
        title="Espalier",
        version=version("espalier"),
        description=_ABOUT,
        lifespan=lifespan,
        redoc_url=None,
        separate_input_output_schemas=False,
    )
    app.add_middleware(Edge, uploads=frozenset({"/v1/networks", "/v1/datasets"}))
    handlers.install(app)
    for routes in (networks, datasets, jobs, trials, events, artifacts, targets, health):
        app.include_router(routes.router)

    @app.get("/", include_in_schema=False)
    async def landing() -> HTMLResponse:
        return HTMLResponse(_LANDING)

    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]  # FastAPI's documented way
    return app


app = create_app()
