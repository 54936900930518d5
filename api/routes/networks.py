"""Networks: upload, list, describe."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from api.dependencies import Cursor, Limit, Services
from api.kept_widths import kept_shares
from api.problems import responses
from api.schemas import NetworkPage, network_view, shown
from api.storing import store
from api.uploads import DIGEST, FILE, NAME, answers, receive
from api.views import NetworkView, SharesView
from models.network import Network
from models.uploads import get_network, list_networks
from search.spec import TargetSpec

router = APIRouter(prefix="/v1/networks", tags=["networks"])


_ANSWERS = answers(NetworkView)


@router.post(
    "",
    operation_id="uploadNetwork",
    status_code=201,
    response_model=NetworkView,
    responses=_ANSWERS,
    openapi_extra=FILE,
)
@router.put(
    "",
    operation_id="putNetwork",
    status_code=201,
    response_model=NetworkView,
    responses=_ANSWERS,
    openapi_extra=FILE,
)
async def upload(
    request: Request,
    service: Services,
    name: NAME = None,
    sha256: DIGEST = None,
) -> Response:
    """Upload a package made by `espalier pack`; it is checked and described at once.

    Nothing in the file is executed. The same bytes give the same network,
    under the name that they had first: `name`, else the package's own.
    """
    limit = service.settings.max_upload_bytes
    async with receive(request, service, limit, name=name, sha256=sha256) as received:
        return await store(request, service, received, Network, network_view)


@router.get("", operation_id="listNetworks", responses=responses(422))
def list_all(
    service: Services,
    limit: Limit = 50,
    cursor: Cursor = None,
    name: Annotated[str | None, Query(max_length=200)] = None,
) -> NetworkPage:
    """Networks, the newest first."""
    with service.database.transaction(write=False) as session:
        page = list_networks(session, limit=limit, cursor=cursor, name=name)
        return NetworkPage(items=shown(page.items, network_view), next_cursor=page.cursor)


@router.get("/{network}", operation_id="getNetwork", responses=responses(404))
def get(network: str, service: Services) -> NetworkView:
    """A network: its inputs, its costs, what can be pruned, and what cannot and why."""
    with service.database.transaction(write=False) as session:
        return network_view(get_network(session, network))


@router.get("/{network}/shares", operation_id="getNetworkShares", responses=responses(404, 422))
def shares(network: str, service: Services, target: Annotated[TargetSpec, Query()]) -> SharesView:
    """Each channel group's share of the MACs, and of the time where the layers' times are known.

    Nothing is measured: the times are those that jobs have left on the target.
    """
    with service.database.transaction(write=False) as session:
        digest = get_network(session, network).digest
    analysis = service.analysis(digest)
    with service.database.transaction(write=False) as session:
        return kept_shares(session, target, analysis)
