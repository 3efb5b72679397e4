"""`export`: a recorded run as a file that other tools read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import HostError
from .replay import RunArgument, find_run
from .shared import settings_from

FORMATS = "script, environment.yml, conda-lock, explicit, pixi, pixi-lock, dockerfile or record"


def export(
    run: RunArgument,
    *,
    form: Annotated[str, typer.Option("--format", "-f", help=f"{FORMATS}.")] = "script",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The file to write [default: stdout].")] = None,
) -> None:
    """Write a run as a script that says what it needs, or its environment as other tools read it."""
    from ..records.export_code import export as make

    exported = make(find_run(run, settings_from()), form)
    if output is None:
        typer.echo(exported.text, nl=False)
    else:
        try:
            output.write_text(exported.text, encoding="utf-8")
        except OSError as error:
            raise HostError(f"{output} cannot be written: {error.strerror}.") from None
    for note in exported.notes:
        typer.echo(f"note: {note}", err=True)
