"""Fixtures of the tests of the client and the command line."""

from tests.api.fixtures import files, http, running, spec, uploads

__all__ = ["files", "http", "running", "spec", "uploads"]
