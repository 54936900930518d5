"""`python -m migrations`: bring the database to this code's schema, or say in a line why not."""

from __future__ import annotations

from pydantic import ValidationError
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

import migrations
from models import private
from models.blobs import BlobStore
from models.settings import Settings


def main() -> None:
    private.begin()
    try:
        settings = Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(("ESPALIER", *(str(part).upper() for part in first["loc"])))
        message = first["msg"].removeprefix("Value error, ")
        raise SystemExit(f"{name}: {message}" if first["loc"] else message) from None
    try:
        BlobStore.open(settings.blob_url)
        shown = make_url(settings.database).render_as_string(hide_password=True)
    except (ValueError, ArgumentError, OSError) as error:
        raise SystemExit(str(error)) from None
    private.tighten(settings)
    try:
        migrations.upgrade(settings.database)
    except SQLAlchemyError as error:
        reason = str(error).splitlines()[0]
        raise SystemExit(
            f"the database {shown} cannot be brought up to date ({reason}): see that it runs, and "
            "that ESPALIER_DATABASE_URL names it"
        ) from None


if __name__ == "__main__":
    main()
