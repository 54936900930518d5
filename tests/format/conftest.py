"""A sound package, taken apart."""

from __future__ import annotations

import pytest

from tests.format.handmade import small


@pytest.fixture(scope="session")
def members(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Its members by name."""
    return small(tmp_path_factory.mktemp("small"))
