"""`python -m espalier` is the command line."""

from espalier.cli import app

app()
