"""`python -m worker.health`: exits with 0 if the database and the broker answer."""

from __future__ import annotations

from sqlalchemy import text

from models.bell import BrokerBell
from models.database import Database
from models.settings import Settings


def main() -> None:
    settings = Settings()
    with Database.of(settings).transaction(write=False) as session:
        session.execute(text("SELECT 1"))
    if BrokerBell(settings).waiting() is None:
        raise SystemExit(f"the broker {settings.broker} does not answer: is Redis running?")


if __name__ == "__main__":
    main()
