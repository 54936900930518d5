"""`python -m worker.health`: exits with 0 if the database and the broker answer."""

from __future__ import annotations

import redis
from sqlalchemy import text

from models.session import create_engine_for
from models.settings import Settings


def main() -> None:
    settings = Settings()
    with create_engine_for(settings.database_url).connect() as connection:
        connection.execute(text("SELECT 1"))
    redis.Redis.from_url(settings.redis_url, socket_timeout=5).ping()


if __name__ == "__main__":
    main()
