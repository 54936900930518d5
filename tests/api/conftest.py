"""Fixtures of the tests of the API."""

from tests.api.fixtures import files, http, running, spec, uploads

__all__ = ["files", "http", "running", "spec", "uploads"]
