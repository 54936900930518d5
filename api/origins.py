"""Which requests come from where they may: the names of this service, and its own pages.

The service has no log-in, so that any page in a browser on the same machine could use it. Two rules
keep pages out, and let programs pass:

- A request names the service in `Host`: a loopback name or address, or one of `ESPALIER_HOSTS`. A
  page whose own name was made to resolve to this machine (DNS rebinding) still sends that name.
- What may change something is refused when the browser says that another origin asks for it, in
  `Sec-Fetch-Site` (Fetch Metadata, W3C) or `Origin` (RFC 6454). Programs send neither.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from ipaddress import ip_address

from starlette.datastructures import Headers

from api.problems import Problem

_AUTHORITY = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^:\[\]@/\s]+)(?::[0-9]{1,5})?")
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})  # RFC 9110, section 9.2.1


def _host(authority: str) -> str | None:
    """The name or address in `NAME:PORT`, in lower case; `None` if it is malformed."""
    found = _AUTHORITY.fullmatch(authority)
    return None if found is None else found["host"].strip("[]").lower()


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_host(headers: Headers, hosts: Collection[str]) -> None:
    """Refuse requests for other names than this service's.

    Args:
        hosts: names and addresses beside loopback's, in lower case.
    Raises:
        Problem: 400 for none or several, 421 for another service's.
    """
    given = headers.getlist("host")
    host = _host(given[0]) if len(given) == 1 else None
    if host is None:
        raise Problem(400, "request.host", "a request needs one header Host, as NAME or NAME:PORT")
    if not _is_loopback(host) and host not in hosts:
        raise Problem(
            421,
            "request.host",
            f"{host[:100]!r} is no name of this service: use localhost or 127.0.0.1, or have its "
            "operator add the name to ESPALIER_HOSTS",
        )


def check_origin(method: str, headers: Headers) -> None:
    """Refuse what may change something, where a page of another origin asks for it.

    Raises:
        Problem: 403.
    """
    if method in _SAFE:
        return
    site = headers.get("sec-fetch-site", "none")
    origin = headers.get("origin")
    own = origin is None or origin.partition("://")[2].lower() == headers["host"].lower()
    if site not in ("same-origin", "none") or not own:
        raise Problem(
            403,
            "request.cross_site",
            "a page of another origin must not change anything here: use the service's own pages, "
            "or a program that is no browser; a proxy has to pass on the Host that browsers send",
        )
