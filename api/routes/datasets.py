"""Datasets: upload, list, describe."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from api.dependencies import Cursor, Limit, Service, Services
from api.problems import responses
from api.schemas import DatasetPage, dataset_view
from api.uploads import DIGEST, FILE, NAME, Received, receive
from api.views import DatasetView
from models.uploads import create_dataset, find_dataset, get_dataset, list_datasets
from search.evaluation.data import describe_dataset

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])


def _store(service: Service, received: Received) -> tuple[DatasetView, bool]:
    """The uploaded dataset, and whether it is new; the same bytes under the same name are one."""
    stored = received.stored
    with service.database.transaction(write=False) as session:
        name = received.name
        known = name and find_dataset(session, digest=stored.digest, name=name)
        if known:
            return dataset_view(known), False
    description = describe_dataset(received.path)
    name = name or f"dataset-{stored.digest[:8]}"
    received.keep()
    with service.database.transaction() as session:
        known = find_dataset(session, digest=stored.digest, name=name)
        row = known or create_dataset(
            session,
            name=name,
            digest=stored.digest,
            size_bytes=stored.size_bytes,
            description=description,
        )
        return dataset_view(row), known is None


_ANSWERS = responses(
    400,
    413,
    415,
    422,
    507,
    also={200: {"model": DatasetView, "description": "Already here"}},
)


@router.post(
    "",
    operation_id="uploadDataset",
    status_code=201,
    responses=_ANSWERS,
    openapi_extra=FILE,
)
@router.put("", operation_id="putDataset", status_code=201, responses=_ANSWERS, openapi_extra=FILE)
async def upload(
    request: Request,
    response: Response,
    service: Services,
    name: NAME = None,
    sha256: DIGEST = None,
) -> DatasetView:
    """Upload an .npz file without pickles, safetensors, or a zip or tar file of image folders.

    The same bytes under the same name give the same dataset.
    """
    limit = service.settings.max_upload_bytes
    async with receive(request, service.blobs, limit, name=name, sha256=sha256) as received:
        view, new = await asyncio.to_thread(_store, service, received)
    response.status_code = 201 if new else 200
    response.headers["Location"] = f"/v1/datasets/{view.id}"
    return view


@router.get("", operation_id="listDatasets", responses=responses(422))
def list_all(
    service: Services,
    limit: Limit = 50,
    cursor: Cursor = None,
    name: Annotated[str | None, Query(max_length=200)] = None,
) -> DatasetPage:
    """Datasets, the newest first."""
    with service.database.transaction(write=False) as session:
        page = list_datasets(session, limit=limit, cursor=cursor, name=name)
        return DatasetPage(items=[dataset_view(row) for row in page.items], next_cursor=page.cursor)


@router.get("/{dataset}", operation_id="getDataset", responses=responses(404))
def get(dataset: str, service: Services) -> DatasetView:
    """A dataset: its splits, shapes, element types and classes."""
    with service.database.transaction(write=False) as session:
        return dataset_view(get_dataset(session, dataset))
