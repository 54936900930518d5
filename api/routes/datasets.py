"""Datasets: upload, list, describe."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from api.dependencies import Cursor, Limit, Services
from api.problems import responses
from api.schemas import DatasetPage, dataset_view, shown
from api.storing import store
from api.uploads import DIGEST, FILE, NAME, answers, receive
from api.views import DatasetView
from models.dataset import Dataset
from models.uploads import get_dataset, list_datasets

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])


_ANSWERS = answers(DatasetView)


@router.post(
    "",
    operation_id="uploadDataset",
    status_code=201,
    response_model=DatasetView,
    responses=_ANSWERS,
    openapi_extra=FILE,
)
@router.put(
    "",
    operation_id="putDataset",
    status_code=201,
    response_model=DatasetView,
    responses=_ANSWERS,
    openapi_extra=FILE,
)
async def upload(
    request: Request,
    service: Services,
    name: NAME = None,
    sha256: DIGEST = None,
) -> Response:
    """Upload an .npz file without pickles, safetensors, or a zip or tar file of image folders.

    The same bytes give the same dataset, under the name that they had first: `name`, else that of
    the form's file.
    """
    limit = service.settings.max_upload_bytes
    async with receive(request, service, limit, name=name, sha256=sha256) as received:
        return await store(request, service, received, Dataset, dataset_view)


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
        return DatasetPage(items=shown(page.items, dataset_view), next_cursor=page.cursor)


@router.get("/{dataset}", operation_id="getDataset", responses=responses(404))
def get(dataset: str, service: Services) -> DatasetView:
    """A dataset: its splits, shapes, element types and classes."""
    with service.database.transaction(write=False) as session:
        return dataset_view(get_dataset(session, dataset))
