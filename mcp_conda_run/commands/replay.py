"""`runs` and `replay`: which runs are on record, and the same run again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import RequestError
from .shared import (
    IsolationOption,
    JsonOption,
    MountOption,
    OfflineOption,
    PathOption,
    asyncio_run,
    display,
    mount_settings,
    settings_from,
)

if TYPE_CHECKING:
    from ..records.record import RunRecord
    from ..records.replay import Replayed
    from ..settings import Settings

RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's id or its beginning, or a file of `export --format record`.")
]
EXIT_OTHER = 1
"""The replay went through, and something else came out."""


def find_run(run: str, settings: Settings) -> RunRecord:
    """Return the record that a command's argument names.

    Raises:
        RequestError: there is none.
    """
    from ..records.record import read_record
    from ..records.writing import records_shelf

    if "/" in run or Path(run).is_file():
        return read_record(Path(run))
    return records_shelf(settings.cache_dir).find(run)


def runs(
    *,
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="How many, the latest first.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List the runs on record, the latest first."""
    from ..records.writing import records_shelf

    records = list(records_shelf(settings_from().cache_dir).latest(number))
    if as_json:
        typer.echo(json.dumps([record.model_dump(mode="json", exclude={"packages"}) for record in records], indent=2))
        return
    for record in records:
        typer.echo(line(record))
    if not records:
        typer.echo("No run is on record.", err=True)


def line(record: RunRecord) -> str:
    """Return a run as a row of the table: id, local time, status, how long it took, what it was."""
    what = record.code.relative or " ".join((record.code.text or f"sha256 {record.code.sha256[:12]}").split())
    added = ",".join(package.name for package in record.plan)
    row = f"{record.run_id}  {record.at.astimezone():%Y-%m-%d %H:%M:%S}  {record.outcome.status:<13}"
    return f"{row}  {record.took_ms / 1000:7.2f} s  {what[:50]}{f'  (+{added})' if added else ''}"


def replay(
    run: RunArgument,
    *,
    path: PathOption = None,
    mount: MountOption = None,
    isolation: IsolationOption = None,
    offline: OfflineOption = None,
    store: Annotated[
        Path | None, typer.Option("--store", help="Another cache directory to make the environment in.")
    ] = None,
    code_file: Annotated[
        Path | None, typer.Option("--code-file", help="The code, if only its hash is on record.")
    ] = None,
    globals_: Annotated[
        list[str] | None, typer.Option("--global", help="A global variable not on record, as NAME=JSON; repeatable.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Have a run again: the same code in an environment of the very same packages; say what is different.

    The exit code is 0 if status and value are the recorded ones, and 1 if something else came out.
    """
    from ..records.replay import replay as replay_record

    record = find_run(run, settings_from())
    settings = settings_from(
        path=path, **mount_settings(mount), isolation=isolation, offline=offline, cache_dir=store, pool_mb=0
    )
    code, variables = _code(code_file), _variables(globals_ or [])
    with display() as progress:
        replayed = asyncio_run(replay_record(record, settings, code=code, variables=variables, progress=progress))
    if as_json:
        typer.echo(json.dumps(_document(record, replayed), indent=2))
    else:
        _show(record, replayed)
    raise typer.Exit(0 if replayed.same else EXIT_OTHER)


def _code(path: Path | None) -> str | None:
    try:
        return None if path is None else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"The code {path} cannot be read: {error}.", code="bad-file") from None


def _variables(options: list[str]) -> dict[str, Any]:
    found = {}
    for option in options:
        name, _, value = option.partition("=")
        try:
            found[name] = json.loads(value)
        except ValueError:
            raise RequestError(f"The value of {name!r} is not JSON.", hint='Write NAME="text" or NAME=3.') from None
    return found


def _document(record: RunRecord, replayed: Replayed) -> dict[str, Any]:
    from ..serialize import result_document

    return {
        "replayed": record.run_id,
        "same": replayed.same,
        "same_output": replayed.same_output,
        "differences": list(replayed.differences),
        "result": result_document(replayed.result),
    }


def _show(record: RunRecord, replayed: Replayed) -> None:
    result = replayed.result
    typer.echo(result.stdout, nl=False)
    typer.echo(result.stderr, nl=False, err=True)
    if result.value is not None:
        typer.echo(result.value.text)
    if result.error is not None:
        typer.echo(result.error.traceback or f"{result.error.type}: {result.error.message}", err=True)
    for difference in replayed.differences:
        typer.echo(f"different: {difference}", err=True)
    what = "the same value" if record.outcome.value else "no value, as then"
    verdict = what if replayed.same else "something else came out"
    output = "" if replayed.same_output else "; it printed something else"
    typer.echo(f"replayed {record.run_id}: {result.status}, {verdict}{output}", err=True)
