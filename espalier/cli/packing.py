"""`espalier pack`: a network from the user's own Python code into a package file."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.markup import escape

from espalier.cli.console import err, errors_as_lines, fail, out, size
from espalier.format.manifest import Preprocessing, malformed

_EXAMPLE = """\
The function returns the network and an example input (a tensor, or a tuple of them):

    # mynet.py
    def trained():
        network = MyNet()
        network.load_state_dict(torch.load("weights.pt"))
        return network, torch.zeros(1, 3, 32, 32)

    espalier pack mynet.py:trained -o net.espalier

It runs here, on your machine, as any Python program of yours; the service never runs it.
"""


def _function(source: str) -> Callable[[], Any]:
    """The callable that `FILE.py:function` or `package.module:function` names."""
    where, _, name = source.rpartition(":")
    if not where or not name:
        fail(f"{source}: say FILE.py:function or module:function", code=2)
    if where.endswith(".py"):
        path = Path(where)
        if not path.is_file():
            fail(f"there is no file {where}: correct the path", code=2)
        sys.path.insert(0, str(path.resolve().parent))
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None:
            fail(f"{where} cannot be imported: correct the path", code=2)
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
    else:
        sys.path.insert(0, str(Path.cwd()))
        try:
            module = importlib.import_module(where)
        except ModuleNotFoundError as error:
            fail(f"cannot import {where}: {error}", code=2)
    function: Callable[[], Any] | None = getattr(module, name, None)
    if function is None or not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
        fail(f"{where} has no function {name}; it has {', '.join(known) or 'none'}", code=2)
    return function


def _numbers(text: str | None, option: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        fail(f"{option} {text}: give numbers separated by commas, one for each channel", code=2)


def register(app: typer.Typer) -> None:
    @app.command(epilog="Then: espalier submit net.espalier --data DATA --budget macs=50%")
    def pack(
        source: Annotated[str, typer.Argument(help="FILE.py:function or module:function")],
        output: Annotated[Path, typer.Option("--output", "-o", help="The package to write.")],
        name: Annotated[str | None, typer.Option(help="Shown in lists.")] = None,
        classes: Annotated[
            str | None, typer.Option(help="Names of the classes, separated by commas.")
        ] = None,
        scale: Annotated[
            float, typer.Option(help="Raw inputs are multiplied by this first (1/255: 0.00392157).")
        ] = 1.0,
        mean: Annotated[
            str | None, typer.Option(help="Then this is subtracted, for each channel.")
        ] = None,
        std: Annotated[
            str | None, typer.Option(help="Then they are divided by this, for each channel.")
        ] = None,
    ) -> None:
        """Put a trained network of yours into a package file."""
        if not output.absolute().parent.is_dir():
            fail(f"there is no folder {output.parent}: make it first", code=2)
        with errors_as_lines():
            try:
                preprocessing = Preprocessing(
                    scale=scale, mean=_numbers(mean, "--mean"), std=_numbers(std, "--std")
                )
            except ValidationError as error:
                raise malformed("preprocessing", error) from None
            try:
                made = _function(source)()
            except (typer.Exit, KeyboardInterrupt):
                raise
            except Exception as error:
                last = error.__traceback__
                while last is not None and last.tb_next is not None:
                    last = last.tb_next
                where = f" at {last.tb_frame.f_code.co_filename}:{last.tb_lineno}" if last else ""
                fail(f"{source} raised {type(error).__name__}{where}: {error}")
            if not isinstance(made, tuple) or len(made) != 2:
                err.print(escape(_EXAMPLE))
                fail(f"{source} returned {type(made).__name__}, not (network, example)", code=2)
            network, example = made
            # torch: only when needed
            from espalier.format.lift import PackingWarning
            from espalier.format.lift import pack as write

            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always", PackingWarning)
                path = write(
                    network,
                    example,
                    output,
                    preprocessing=preprocessing,
                    classes=tuple(part.strip() for part in classes.split(",")) if classes else (),
                    name=name,
                )
            for item in told:
                if issubclass(item.category, PackingWarning):
                    err.print(f"[yellow]warning:[/] {escape(str(item.message))}")
                else:
                    warnings.warn_explicit(item.message, item.category, item.filename, item.lineno)
            out.print(f"wrote {escape(str(path))} ({size(path.stat().st_size)})")
