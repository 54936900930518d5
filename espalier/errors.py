"""What can go wrong between a client and the service."""

from __future__ import annotations

from typing import Any

import httpx

from espalier.format.errors import EspalierError


class Unreachable(EspalierError):
    """The service does not answer."""

    code = "client.unreachable"

    def __init__(self, url: str, cause: Exception) -> None:
        reason = str(cause) or type(cause).__name__
        super().__init__(
            f"no answer from {url} ({reason}): start it with `espalier serve`, "
            "or set ESPALIER_URL to where it runs"
        )


class ApiError(EspalierError):
    """The service refused; `code` is stable, the message is for people.

    Attributes:
        status: of the HTTP response.
        code: the problem's code, such as `budget.unreachable`.
        problem: the whole problem document (RFC 9457); empty if the answer was none.
        errors: the fields concerned, each with `field`, `message`, `limit` and `way_out`.
        retry_after_s: how long the service asks to wait; 0 if it does not say.
    """

    def __init__(
        self, status: int, code: str, detail: str, problem: dict[str, Any], retry_after_s: float
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.problem = problem
        self.errors: list[dict[str, Any]] = problem.get("errors") or []
        self.retry_after_s = retry_after_s

    @classmethod
    def from_response(cls, response: httpx.Response) -> ApiError:
        """From an answer whose body was read."""
        after = response.headers.get("retry-after", "")
        retry_after_s = float(after) if after.isdecimal() else 0.0
        status = response.status_code
        try:
            problem = response.json()
            return cls(status, problem["code"], problem["detail"], problem, retry_after_s)
        except (ValueError, KeyError, TypeError):
            return cls.foreign(response, retry_after_s)

    @classmethod
    def foreign(cls, response: httpx.Response, retry_after_s: float = 0.0) -> ApiError:
        """From an answer that is not ours: a proxy's page, another service."""
        status, url = response.status_code, response.request.url
        detail = f"{url} answered {status} {response.reason_phrase}, and not as Espalier does: "
        detail += "is ESPALIER_URL or --url the service's address?"
        return cls(status, f"http.{status}", detail, {}, retry_after_s)


class NotReady(EspalierError):
    """The job has no result files."""

    code = "job.not_ready"

    def __init__(self, job: dict[str, Any]) -> None:
        state, name = job["state"], job["id"]
        hint = "it will have none" if job["terminal"] else f"wait for it: espalier watch {name}"
        super().__init__(f"job {name} is {state} and has no results: {hint}")
        self.job = job


class DownloadCorrupt(EspalierError):
    """Bytes that are not those that were published."""

    code = "client.download_corrupt"
