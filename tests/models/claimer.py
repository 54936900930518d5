"""`python claimer.py URL NAME`: claims until nothing waits; prints what it claimed.

Each claim is marked done or, every third, given back once and claimed again by someone.
"""

from __future__ import annotations

import sys

from models.claims import claim_next, complete, release
from models.database import Database
from models.events import append
from models.jobs import get_job


def main(url: str, name: str) -> None:
    database = Database(url)
    while True:
        with database.transaction() as session:
            claim = claim_next(session, name, 60.0)
            if claim is not None:
                append(session, get_job(session, claim.job_id), "progress", {"by": name})
        if claim is None:
            break
        with database.transaction() as session:
            if claim.work_id % 3 == 0 and claim.fence == 1:
                release(session, claim, reason="as it was told", max_attempts=5)
            else:
                complete(session, claim)
                print(claim.work_id, claim.fence)
    database.dispose()


if __name__ == "__main__":
    main(*sys.argv[1:])
