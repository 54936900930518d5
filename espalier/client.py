"""The service from Python: upload, submit, watch, download.

    client = Client("http://127.0.0.1:8765")
    network = client.upload_network("net.espalier")
    dataset = client.upload_dataset("digits.npz")
    spec = {"network": network["id"], "dataset": dataset["id"], "budget": {"macs": "50%"}}
    job = client.submit(spec)
    client.wait(job["id"])
    client.download(job["id"], "results")

What the service tells comes as the JSON objects that its /docs describe. Calls are repeated over
connection errors and the service's own errors (5xx, 429), and nothing can happen twice by that:
uploads are known by their digest, and a submit carries an `Idempotency-Key`. Imports no torch.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar
from urllib.parse import quote

import httpx

from espalier.errors import ApiError, DownloadCorrupt, NotReady, Unreachable

__all__ = ["ApiError", "Client", "DownloadCorrupt", "NotReady", "Unreachable"]

DEFAULT_URL = "http://127.0.0.1:8765"
_CHUNK = 1 << 20
_POLL_S = 25.0  # below the idle timeouts of common proxies (60 s)
_AGAIN = frozenset({429, 500, 502, 503, 504})

T = TypeVar("T")
Json = dict[str, Any]
Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""


class Client:
    """A connection to the service; a context manager, safe to share between threads.

    Args:
        url: of the service; `ESPALIER_URL` or `DEFAULT_URL` if left out.
        timeout_s: how long to wait for an answer that is not a long poll.
        attempts: how often a call is tried before the last error is raised.
        transport: instead of the network (tests).
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        timeout_s: float = 30.0,
        attempts: int = 6,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = (url or os.environ.get("ESPALIER_URL") or DEFAULT_URL).rstrip("/")
        self._attempts = attempts
        self._timeout_s = timeout_s
        self._http = httpx.Client(base_url=self.url, timeout=timeout_s, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # --- networks and datasets -------------------------------------------------------------------

    def upload_network(
        self, path: str | Path, *, name: str | None = None, progress: Progress | None = None
    ) -> Json:
        """Send a package made by `espalier.pack`; the same bytes give the same network."""
        return self._upload("/v1/networks", path, name, progress)

    def upload_dataset(
        self, path: str | Path, *, name: str | None = None, progress: Progress | None = None
    ) -> Json:
        """Send an .npz file, an archive of image folders, or safetensors."""
        return self._upload("/v1/datasets", path, name, progress)

    def network(self, network: str) -> Json:
        return self._get(_url("networks", network))

    def dataset(self, dataset: str) -> Json:
        return self._get(_url("datasets", dataset))

    def networks(self) -> Iterator[Json]:
        return self._pages("/v1/networks")

    def datasets(self) -> Iterator[Json]:
        return self._pages("/v1/datasets")

    # --- jobs ------------------------------------------------------------------------------------

    def validate(self, spec: Mapping[str, Any]) -> Json:
        """Check a specification without starting anything; raises `ApiError` if it is refused."""
        return self._json("POST", "/v1/jobs/validate", json=dict(spec))

    def submit(self, spec: Mapping[str, Any], *, idempotency_key: str | None = None) -> Json:
        """Start a job, once, however often the connection breaks meanwhile."""
        key = idempotency_key or str(uuid.uuid4())
        return self._json("POST", "/v1/jobs", json=dict(spec), headers={"Idempotency-Key": key})

    def job(self, job: str) -> Json:
        return self._get(_url("jobs", job))

    def jobs(
        self,
        *,
        state: str | None = None,
        network: str | None = None,
        strategy: str | None = None,
        name: str | None = None,
    ) -> Iterator[Json]:
        """Jobs, the newest first."""
        filters = {"state": state, "network": network, "strategy": strategy, "name": name}
        return self._pages("/v1/jobs", filters)

    def trials(self, job: str) -> Iterator[Json]:
        return self._pages(_url("jobs", job, "trials"))

    def events(self, job: str, *, after: int = 0) -> list[Json]:
        """What happened after the event of that number, up to now."""
        found: list[Json] = []
        while True:
            page = self._get(_url("jobs", job, "events"), {"after": after})["items"]
            if not page:
                return found
            found += page
            after = found[-1]["number"]

    def watch(self, job: str, *, timeout: float | None = None) -> Iterator[Json]:
        """The job as it is, and again whenever it changed; ends at any terminal state.

        Raises:
            TimeoutError: the job is not terminal after `timeout` seconds.
        """
        end = None if timeout is None else time.monotonic() + timeout
        view = self.job(job)
        yield view
        while not view["terminal"]:
            left = _POLL_S if end is None else end - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"job {job} is still {view['state']} after {timeout:g} s")
            wait = min(_POLL_S, left)
            response = self._call(
                "GET",
                _url("jobs", job),
                params={"wait": f"{wait:.3f}"},
                headers={"If-None-Match": f'"{view["version"]}"'},
                timeout=wait + self._timeout_s,
            )
            if response.status_code == httpx.codes.NOT_MODIFIED:
                continue
            view = response.json()
            yield view

    def wait(self, job: str, *, timeout: float | None = None) -> Json:
        """The job in its terminal state: `succeeded`, `failed` or `canceled`.

        Raises:
            TimeoutError: it is not terminal after `timeout` seconds.
        """
        *_, last = self.watch(job, timeout=timeout)
        return last

    def cancel(self, job: str) -> Json:
        return self._act(job, "cancel")

    def pause(self, job: str) -> Json:
        return self._act(job, "pause")

    def resume(self, job: str) -> Json:
        return self._act(job, "resume")

    # --- results ---------------------------------------------------------------------------------

    def artifacts(self, job: str) -> list[Json]:
        """The result files; empty until the job succeeded."""
        found = self._get(_url("jobs", job, "artifacts"))["items"]
        return list(found)

    def download(
        self, job: str, folder: str | Path = ".", *, progress: Progress | None = None
    ) -> list[Path]:
        """Fetch every result file into `folder`, checked against its SHA-256.

        A file appears under its name only when it is whole; what was fetched of it before is in
        `NAME.part`, where the next download goes on. Files that are there already are kept.

        Raises:
            NotReady: the job has no results (yet).
            DownloadCorrupt: the bytes do not match the digest, twice.
        """
        found = self.artifacts(job)
        if not found:
            raise NotReady(self.job(job))
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        total, done = sum(item["size_bytes"] for item in found), 0
        paths = []
        for item in found:

            def report(size: int, before: int = done) -> None:
                if progress is not None:
                    progress(before + size, total)

            paths.append(self._fetch(job, item, target, report))
            done += item["size_bytes"]
        return paths

    def _fetch(self, job: str, item: Json, folder: Path, report: Callable[[int], None]) -> Path:
        name: str = item["name"]
        digest: str = item["sha256"]
        if Path(name).name != name or name in ("", ".", ".."):
            raise DownloadCorrupt(f"the service names a result file {name!r}: refused")
        path, part = folder / name, folder / f"{name}.part"
        if path.is_file() and _sha256(path) == digest:
            report(item["size_bytes"])
            return path
        for _ in range(2):  # what an earlier download left may be of another file: once more
            self._complete(job, item, part, report)
            if _sha256(part) == digest:
                part.replace(path)
                return path
            part.unlink()
        raise DownloadCorrupt(
            f"{name} of job {job} does not match its SHA-256 {digest}: "
            "the stored file is damaged; run the job again"
        )

    def _complete(self, job: str, item: Json, part: Path, report: Callable[[int], None]) -> None:
        """Bring `part` to the file's full size; attempts count only while nothing arrives."""
        have = -1
        while True:
            try:
                return self._retried(lambda: self._continue(job, item, part, report))
            except Unreachable:
                before, have = have, part.stat().st_size
                if have <= before:
                    raise

    def _continue(self, job: str, item: Json, part: Path, report: Callable[[int], None]) -> None:
        """Fetch what `part` lacks, over one connection."""
        size, url = item["size_bytes"], _url("jobs", job, "artifacts", item["name"])
        with part.open("ab") as file:
            have = file.tell()
            if have > size:
                have = file.truncate(0)
            headers = {}
            if have:
                headers = {"Range": f"bytes={have}-", "If-Range": f'"{item["sha256"]}"'}
            if have < size:
                with self._http.stream("GET", url, headers=headers) as response:
                    if response.is_error:
                        response.read()
                        raise ApiError.from_response(response)
                    if response.status_code != httpx.codes.PARTIAL_CONTENT:
                        have = file.truncate(0)
                    for chunk in response.iter_raw():
                        have += file.write(chunk)
                        report(have)
        if have != size:
            raise httpx.RemoteProtocolError(f"{item['name']} ended at byte {have} of {size}")
        report(have)

    # --- calls -----------------------------------------------------------------------------------

    def _act(self, job: str, action: str) -> Json:
        return self._json("POST", _url("jobs", job, action))

    def _get(self, path: str, params: Mapping[str, Any] | None = None) -> Json:
        return self._json("GET", path, params=params)

    def _json(self, method: str, path: str, **options: Any) -> Json:
        found: Json = self._call(method, path, **options).json()
        return found

    def _pages(self, path: str, filters: Mapping[str, str | None] | None = None) -> Iterator[Json]:
        params = {key: value for key, value in (filters or {}).items() if value is not None}
        while True:
            page = self._get(path, params)
            yield from page["items"]
            if page["next_cursor"] is None:
                return
            params["cursor"] = page["next_cursor"]

    def _upload(
        self, url: str, path: str | Path, name: str | None, progress: Progress | None
    ) -> Json:
        path = Path(path)
        digest, size = _sha256(path), path.stat().st_size

        def send() -> httpx.Response:
            with path.open("rb") as file:
                return self._http.post(
                    url,
                    params={"sha256": digest, "name": name or path.name},
                    content=_pieces(file, size, progress),
                    headers={
                        "Content-Type": "application/octet-stream",
                        "Content-Length": str(size),
                    },
                    timeout=httpx.Timeout(self._timeout_s, read=600.0),  # it is analysed first
                )

        found: Json = self._retried(lambda: _checked(send())).json()
        return found

    def _call(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self._retried(lambda: _checked(self._http.request(method, path, **options)))

    def _retried(self, call: Callable[[], T]) -> T:
        """Try `call` over connection errors, 5xx and 429, with growing pauses."""
        for attempt in range(1, self._attempts + 1):
            pause = min(8.0, 0.1 * 2**attempt) * random.uniform(0.5, 1.0)  # noqa: S311  (jitter)
            try:
                return call()
            except httpx.TransportError as error:
                if attempt == self._attempts:
                    raise Unreachable(self.url, error) from error
            except ApiError as error:
                if attempt == self._attempts or error.status not in _AGAIN:
                    raise
                pause = max(pause, error.retry_after_s)
            time.sleep(pause)
        raise AssertionError("unreachable: the last attempt returns or raises")


def _url(*parts: str) -> str:
    """A path below /v1, each part of it one segment."""
    return "/".join(["/v1", *(quote(part, safe="") for part in parts)])


def _checked(response: httpx.Response) -> httpx.Response:
    if response.is_error:
        raise ApiError.from_response(response)
    return response


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pieces(file: BinaryIO, size: int, progress: Progress | None) -> Iterator[bytes]:
    done = 0
    while piece := file.read(_CHUNK):
        done += len(piece)
        yield piece
        if progress is not None:
            progress(done, size)
