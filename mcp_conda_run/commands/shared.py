"""What all commands share: their options, the settings these make, and how work of the rooms is run and shown.

Used by `cli.py` and the modules beside this one; imports nothing heavy before a command wants it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from ..errors import RequestError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from ..settings import Settings
    from ..terminal import Display

T = TypeVar("T")

PathOption = Annotated[Path | None, typer.Option("--path", help="Host directory that runs see at --mount.")]
MountOption = Annotated[
    list[str] | None,
    typer.Option(
        "--mount",
        help="Where runs see --path [default: /working]; or SOURCE:TARGET[:ro], a further directory; repeatable.",
    ),
]
TemplateOption = Annotated[
    str | None, typer.Option("--template", help="A template's name, an environment.yml or a lock, or auto.")
]
WithOption = Annotated[
    list[str] | None, typer.Option("--with", help="A further package, as a match spec (gdal>=3.8); repeatable.")
]
PythonOption = Annotated[str | None, typer.Option("--python", help="A Python version, such as 3.12.")]
CodeOption = Annotated[str | None, typer.Option("-c", "--code", help="Python code to run.")]
FileArgument = Annotated[str | None, typer.Argument(help="A Python file; - for standard input.", metavar="FILE")]
ArgsArgument = Annotated[list[str] | None, typer.Argument(help="Arguments of the file.", metavar="ARGS")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the whole result as JSON.")]
TimeoutOption = Annotated[float | None, typer.Option("--timeout", help="Wall time of the run, in seconds.")]
NetworkOption = Annotated[str | None, typer.Option("--network", help="full, none, or host[:port],...")]
IsolationOption = Annotated[str | None, typer.Option("--isolation", help="auto, strict or none.")]
OfflineOption = Annotated[bool | None, typer.Option("--offline", help="Never fetch anything.")]
PrefixOption = Annotated[
    Path | None, typer.Option("--prefix", help="An environment that you have; runs get copies of it.")
]
NameOption = Annotated[str | None, typer.Option("--name", help="The same by its name, as conda finds it.")]
EngineOption = Annotated[str | None, typer.Option("--engine", help="auto, micromamba or rattler.")]
MicromambaOption = Annotated[Path | None, typer.Option("--micromamba", help="The micromamba to use.")]
CondarcOption = Annotated[bool | None, typer.Option("--use-condarc", help="Follow your .condarc and .mambarc.")]
HostOption = Annotated[str, typer.Option("--host", help="Address to listen on.")]
PortOption = Annotated[int, typer.Option("--port", help="Port to listen on.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Any setting, as NAME=VALUE; repeatable. The README lists them.")
]
_everywhere: dict[str, object] = {}
"""What `--set` said, which all commands share; a process runs one command."""


def set_everywhere(options: list[str] | None) -> None:
    """Take note of what `--set` said."""
    _everywhere.update(_assignments(options))


def settings_from(**command_line: object) -> Settings:
    """Return the settings with what the command's own options say; None counts as not given.

    Raises:
        RequestError: two options exclude each other.
    """
    from ..settings import load_settings

    given = {name: value for name, value in command_line.items() if value is not None}
    if {"prefix", "template"} <= given.keys():
        raise RequestError("Runs start from an environment or from a template.", hint="Leave out one of the options.")
    return load_settings(**{**_everywhere, **given})


def mount_settings(options: list[str] | None) -> dict[str, object]:
    """Return the settings that the values of `--mount` stand for: a target alone, or whole mounts."""
    targets = [option for option in options or () if ":" not in option]
    further = tuple(option for option in options or () if ":" in option)
    return {"mount": targets[-1] if targets else None, "mounts": further or None}


def conda_settings(
    engine: str | None, micromamba: Path | None, use_condarc: bool | None, prefix: Path | None, name: str | None
) -> dict[str, object]:
    """Return the settings that the options for the conda world stand for; who names a micromamba wants it used.

    Raises:
        RequestError: an environment is asked for in two ways.
    """
    if prefix is not None and name is not None:
        raise RequestError("--prefix and --name ask for the same thing.", hint="Give one of them.")
    where = name if prefix is None else str(prefix.expanduser().absolute())
    engine = engine or ("micromamba" if micromamba is not None else None)
    return {"engine": engine, "micromamba": micromamba, "use_condarc": use_condarc, "prefix": where}


def _assignments(options: list[str] | None) -> dict[str, str]:
    """Return the settings that the values of `--set` name."""
    pairs = [option.partition("=") for option in options or ()]
    for name, equals, _ in pairs:
        if not (name and equals):
            raise SettingsError(f"{name!r} is no setting with a value.", hint="Write --set NAME=VALUE.")
        if name == "token":
            raise SettingsError(
                "The token is not taken from the command line, where everybody on this machine can read it.",
                hint="Set MCP_CONDA_RUN_TOKEN or MCP_CONDA_RUN_TOKEN_FILE.",
            )
    return {name.replace("-", "_"): value for name, _, value in pairs}


def asyncio_run(work: Coroutine[object, object, T]) -> T:
    """Run work of the rooms to its end."""
    import asyncio

    return asyncio.run(work)


def display() -> Display:
    """Return what shows progress: a bar in a terminal, lines elsewhere."""
    from ..terminal import progress_display

    return progress_display()
