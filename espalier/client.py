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

import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from espalier.connection import DEFAULT_URL, Connection, Json, url_of
from espalier.errors import ApiError, DownloadCorrupt, NotReady, Unreachable
from espalier.transfers import Progress, fetch, fetch_made, upload

__all__ = ["DEFAULT_URL", "ApiError", "Client", "DownloadCorrupt", "NotReady", "Unreachable"]

_POLL_S = 25.0  # below the idle timeouts of common proxies (60 s)


class Client(Connection):
    """The service's calls; opened and closed as a `Connection`."""

    # --- networks and datasets -------------------------------------------------------------------

    def upload_network(
        self, path: str | Path, *, name: str | None = None, progress: Progress | None = None
    ) -> Json:
        """Send a package made by `espalier.pack`; the same bytes give the same network.

        Args:
            name: of what is new to the service, instead of the package's own.
        """
        return upload(self, "/v1/networks", Path(path), name, progress)

    def upload_dataset(
        self, path: str | Path, *, name: str | None = None, progress: Progress | None = None
    ) -> Json:
        """Send an .npz file, an archive of image folders, or safetensors; as `upload_network`.

        Args:
            name: of what is new to the service, instead of the file's.
        """
        return upload(self, "/v1/datasets", Path(path), name or Path(path).name, progress)

    def network(self, network: str) -> Json:
        return self.get(url_of("networks", network))

    def network_shares(self, network: str) -> Json:
        """Each channel group's share of the MACs, and of the time where it is known."""
        return self.get(f"{url_of('networks', network)}/shares")

    def dataset(self, dataset: str) -> Json:
        return self.get(url_of("datasets", dataset))

    def networks(self) -> Iterator[Json]:
        return self.pages("/v1/networks")

    def datasets(self) -> Iterator[Json]:
        return self.pages("/v1/datasets")

    def targets(self) -> list[Json]:
        """What networks can be run and timed on, those offered now first."""
        return list(self.get("/v1/targets")["items"])

    # --- jobs ------------------------------------------------------------------------------------

    def validate(self, spec: Mapping[str, Any]) -> Json:
        """Check a specification without starting anything; raises `ApiError` if it is refused."""
        return self.json("POST", "/v1/jobs/validate", json=dict(spec))

    def submit(self, spec: Mapping[str, Any], *, idempotency_key: str | None = None) -> Json:
        """Start a job, once, however often the connection breaks meanwhile."""
        key = idempotency_key or str(uuid.uuid4())
        return self.json("POST", "/v1/jobs", json=dict(spec), headers={"Idempotency-Key": key})

    def job(self, job: str) -> Json:
        return self.get(url_of("jobs", job))

    def jobs(
        self,
        *,
        state: str | None = None,
        network: str | None = None,
        dataset: str | None = None,
        strategy: str | None = None,
        name: str | None = None,
    ) -> Iterator[Json]:
        """Jobs, the newest first."""
        filters = {
            "state": state,
            "network": network,
            "dataset": dataset,
            "strategy": strategy,
            "name": name,
        }
        return self.pages("/v1/jobs", filters)

    def trials(self, job: str) -> Iterator[Json]:
        return self.pages(url_of("jobs", job, "trials"))

    def events(self, job: str, *, after: int = 0) -> list[Json]:
        """What happened after the event of that number, up to now."""
        found: list[Json] = []
        while True:
            page = self.get(url_of("jobs", job, "events"), {"after": after})["items"]
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
            response = self.call(
                "GET",
                url_of("jobs", job),
                params={"wait": f"{wait:.3f}"},
                headers={"If-None-Match": f'"{view["version"]}"'},
                timeout=wait + self.timeout_s,
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
        return self.json("POST", url_of("jobs", job, "cancel"))

    def delete(self, job: str) -> None:
        """Delete a job that has ended, with its results; network and dataset stay."""
        self.call("DELETE", url_of("jobs", job))

    def pause(self, job: str) -> Json:
        return self.json("POST", url_of("jobs", job, "pause"))

    def resume(self, job: str) -> Json:
        return self.json("POST", url_of("jobs", job, "resume"))

    # --- results ---------------------------------------------------------------------------------

    def artifacts(self, job: str) -> list[Json]:
        """The result files; empty until the job succeeded."""
        found = self.get(url_of("jobs", job, "artifacts"))["items"]
        return list(found)

    def sensitivity(self, job: str) -> Json:
        """What each channel group can lose, as measured by a job of the strategy `sensitivity`."""
        return self.get(url_of("jobs", job, "artifacts", "sensitivity.json"))

    def curve(self, job: str) -> Json:
        """The winner and the points of a job of `allocate` or `nsga2`: networks of other costs."""
        return self.get(url_of("jobs", job, "artifacts", "curve.json"))

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

            url = url_of("jobs", job, "artifacts", item["name"])
            paths.append(fetch(self, url, item, target, report))
            done += item["size_bytes"]
        return paths

    def download_trial(
        self,
        job: str,
        number: int,
        folder: str | Path = ".",
        *,
        progress: Progress | None = None,
    ) -> Path:
        """Fetch the network of a trial that is `kept`: not fine-tuned.

        A trial that was tuned, and a finalist or point of `allocate` or `nsga2`, comes with the
        weights that it was scored with. Any other is the original after the cut and nothing else.

        Raises:
            ApiError: there is no such trial, or (`trial.not_kept`) it failed or its weights are
                gone.
            DownloadCorrupt: the bytes do not match the digest that came with them.
        """
        url = url_of("jobs", job, "trials", str(number), "network")
        path = Path(folder) / f"{job}-trial-{number}.espalier"
        return fetch_made(self, url, path, progress)

    def download_study(
        self, job: str, path: str | Path, *, progress: Progress | None = None
    ) -> Path:
        """Fetch all trials so far as an Optuna study, for `optuna-dashboard sqlite:///PATH`.

        Raises:
            DownloadCorrupt: the bytes do not match the digest that came with them.
        """
        return fetch_made(self, url_of("jobs", job, "study"), Path(path), progress)
