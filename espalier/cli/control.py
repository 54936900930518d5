"""`espalier cancel`, `pause`, `resume` and `delete`."""

from __future__ import annotations

from typing import Annotated

import typer

from espalier.cli.console import URL, Url, connected, out

Job = Annotated[str, typer.Argument(help="The job's id.")]


def register(app: typer.Typer) -> None:
    @app.command()
    def cancel(job: Job, url: Url = URL) -> None:
        """End a job for good; of what it had found, the trials that it kept stay."""
        with connected(url) as client:
            out.print(f"job {job} is {client.cancel(job)['state']}")

    @app.command()
    def pause(job: Job, url: Url = URL) -> None:
        """Stop a job at its next checkpoint, to go on later."""
        with connected(url) as client:
            state = client.pause(job)["state"]
            out.print(f"job {job} is {state if state == 'paused' else 'about to pause'}")

    @app.command()
    def resume(job: Job, url: Url = URL) -> None:
        """Let a paused job go on."""
        with connected(url) as client:
            out.print(f"job {job} is {client.resume(job)['state']}")

    @app.command()
    def delete(job: Job, url: Url = URL) -> None:
        """Delete a job that has ended, with its results."""
        with connected(url) as client:
            client.delete(job)
            out.print(f"job {job} is deleted")
