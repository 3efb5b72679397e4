"""The command line: each command parses, calls one room, prints. Heavy imports stay inside the commands.

Standard output belongs to results (and, under `stdio`, to the protocol); everything else goes to standard error.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from . import __version__
from .commands.bundle import bundle, unbundle
from .commands.export import export
from .commands.get_micromamba import get_micromamba
from .commands.lock import lock
from .commands.replay import replay, runs
from .commands.shared import (
    ArgsArgument,
    CodeOption,
    CondarcOption,
    EngineOption,
    FileArgument,
    HostOption,
    IsolationOption,
    JsonOption,
    MicromambaOption,
    MountOption,
    NameOption,
    NetworkOption,
    OfflineOption,
    PathOption,
    PortOption,
    PrefixOption,
    PythonOption,
    SetOption,
    TemplateOption,
    TimeoutOption,
    WithOption,
    asyncio_run,
    conda_settings,
    display,
    mount_settings,
    set_everywhere,
    settings_from,
)
from .commands.store import clean, du
from .commands.templates import app as templates
from .errors import CondaRunError, InstallError, RequestError, SettingsError
from .logs import configure

if TYPE_CHECKING:
    from .models import Plan, RunRequest, RunResult
    from .settings import Settings

app = typer.Typer(
    name="mcp-conda-run",
    help="Run Python code for scientific agents, each run in its own ephemeral conda prefix.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

EXIT_REQUEST, EXIT_INSTALL, EXIT_HOST = 2, 3, 4
EXIT_TIMEOUT, EXIT_KILLED, EXIT_INTERRUPTED = 124, 137, 130


@app.callback(invoke_without_command=True)
def root(
    *,
    set_: SetOption = None,
    store_layer: Annotated[
        list[str] | None,
        typer.Option("--store-layer", help="Another cache, whose environments are used as they are; repeatable."),
    ] = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    log_level: Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")] = "warning",
    log_json: Annotated[bool, typer.Option("--log-json", help="Log JSON, one object a line.")] = False,
) -> None:
    """Set up what all commands share."""
    set_everywhere([*(set_ or ()), *([f"store_layers={','.join(store_layer)}"] if store_layer else ())])
    if version:
        typer.echo(__version__)
        raise typer.Exit
    level = logging.getLevelNamesMapping().get(log_level.upper())
    if level is None:
        raise typer.BadParameter(f"{log_level!r} is no log level", param_hint="--log-level")
    configure(level, as_json=log_json)


@app.command()
def run(
    file: FileArgument = None,
    args: ArgsArgument = None,
    *,
    code: CodeOption = None,
    with_: WithOption = None,
    python: PythonOption = None,
    template: TemplateOption = None,
    prefix: PrefixOption = None,
    name: NameOption = None,
    engine: EngineOption = None,
    micromamba: MicromambaOption = None,
    use_condarc: CondarcOption = None,
    path: PathOption = None,
    mount: MountOption = None,
    timeout: TimeoutOption = None,
    network: NetworkOption = None,
    isolation: IsolationOption = None,
    offline: OfflineOption = None,
    limit: Annotated[
        list[str] | None, typer.Option("--limit", help="A bound of the run, such as memory_mb=512; repeatable.")
    ] = None,
    figures: Annotated[Path | None, typer.Option("--figures", help="Directory to save open figures in.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a file or code in its own ephemeral prefix, then delete the prefix.

    The exit code is the code's own; 124 after the time-out, 137 when a limit ended it, 3 when packages could not be
    installed, 2 when the request is wrong, 4 when this machine cannot do it.
    """
    from .models import RunRequest

    settings = settings_from(
        path=_mounted(path, file),
        **mount_settings(mount),
        **conda_settings(engine, micromamba, use_condarc, prefix, name),
        template=template,
        isolation=isolation,
        offline=offline,
        pool_mb=0,  # one run: a warm interpreter would come too late
    )
    code, file = _what(code, file)
    request = RunRequest(
        code=code,
        file=file,
        args=tuple(args or ()),
        packages=tuple(with_ or ()),
        python=python,
        timeout_s=timeout,
        network=network,
        limits=_limits(limit),
    )
    result = _run(settings, request)
    if as_json:
        from .serialize import result_document

        typer.echo(json.dumps(result_document(result), indent=2))
    else:
        _show(result, figures)
    raise typer.Exit(_exit_code(result))


@app.command()
def plan(
    file: FileArgument = None,
    *,
    code: CodeOption = None,
    with_: WithOption = None,
    python: PythonOption = None,
    template: TemplateOption = None,
    prefix: PrefixOption = None,
    name: NameOption = None,
    engine: EngineOption = None,
    micromamba: MicromambaOption = None,
    use_condarc: CondarcOption = None,
    path: PathOption = None,
    offline: OfflineOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a run would install, and why; install nothing."""
    from .models import RunRequest
    from .terminal import about_unknown, size

    settings = settings_from(
        path=_mounted(path, file),
        **conda_settings(engine, micromamba, use_condarc, prefix, name),
        template=template,
        offline=offline,
    )
    code, file = _what(code, file)
    request = RunRequest(code=code, file=file, packages=tuple(with_ or ()), python=python)
    made = _plan(settings, request)
    if as_json:
        from .serialize import plan_document

        typer.echo(json.dumps(plan_document(made), indent=2))
        return
    if not made.packages and not made.unknown:
        typer.echo("Nothing to install: the template has all that the code imports.")
    for package in made.packages:
        have = made.solved(package)
        what = f"{have.name} {have.version} from {have.channel}" if have is not None else package.spec
        typer.echo(f"{what}  ({package.manager}, {package.decision}, {package.confidence:.0%}): {package.reason}")
    if made.solution:
        typer.echo(f"{len(made.solution)} packages with what they need, at most {size(made.download_bytes)} to fetch")
    for unknown in made.unknown:
        typer.echo(f"? {about_unknown(unknown)}")
    for note in made.notes:
        typer.echo(f"note: {note}")


@app.command()
def warmup(
    *,
    template: TemplateOption = None,
    prefix: PrefixOption = None,
    name: NameOption = None,
    engine: EngineOption = None,
    micromamba: MicromambaOption = None,
    use_condarc: CondarcOption = None,
    all_platforms: Annotated[
        bool, typer.Option("--all-platforms", help="Also lock for linux-64, osx-arm64 and win-64.")
    ] = False,
    download_only: Annotated[
        bool, typer.Option("--download-only", help="Fetch all that is needed, and make no environment.")
    ] = False,
    with_: WithOption = None,
    offline: OfflineOption = None,
) -> None:
    """Lock, install and check a template's environment, so that runs start at once."""
    from .warmup import fetch_only, warm_up

    if with_ and not download_only:
        raise RequestError("--with goes with --download-only.", hint="A run makes the environment that it needs.")
    settings = settings_from(
        template=template,
        offline=offline,
        pool_mb=0,
        **conda_settings(engine, micromamba, use_condarc, prefix, name),
    )
    with display() as progress:
        if download_only:
            report = asyncio_run(fetch_only(settings, with_ or (), progress))
        else:
            report = asyncio_run(warm_up(settings, all_platforms=all_platforms, progress=progress))
    for line in report:
        typer.echo(line)


@app.command()
def stdio(
    *,
    path: PathOption = None,
    mount: MountOption = None,
    template: TemplateOption = None,
    prefix: PrefixOption = None,
    name: NameOption = None,
    engine: EngineOption = None,
    micromamba: MicromambaOption = None,
    use_condarc: CondarcOption = None,
    isolation: IsolationOption = None,
    offline: OfflineOption = None,
) -> None:
    """Serve MCP on standard input and output."""
    settings = settings_from(
        path=path,
        **mount_settings(mount),
        **conda_settings(engine, micromamba, use_condarc, prefix, name),
        template=template,
        isolation=isolation,
        offline=offline,
    )
    from .server.stdio import serve

    raise typer.Exit(serve(settings))


@app.command("sse")
@app.command()
def http(
    *,
    host: HostOption = "127.0.0.1",
    port: PortOption = 3001,
    path: PathOption = None,
    mount: MountOption = None,
    template: TemplateOption = None,
    prefix: PrefixOption = None,
    name: NameOption = None,
    engine: EngineOption = None,
    micromamba: MicromambaOption = None,
    use_condarc: CondarcOption = None,
    isolation: IsolationOption = None,
    offline: OfflineOption = None,
) -> None:
    """Serve MCP over HTTP: server-sent events at /sse and streamable HTTP at /mcp."""
    settings = settings_from(
        path=path,
        **mount_settings(mount),
        **conda_settings(engine, micromamba, use_condarc, prefix, name),
        template=template,
        isolation=isolation,
        offline=offline,
    )
    _serve_http(settings, host, port)


@app.command()
def doctor(
    as_json: JsonOption = False,
    verify: Annotated[bool, typer.Option("--verify", help="Check every file of every environment.")] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="With --verify: remove damaged environments; they are made again.")
    ] = False,
) -> None:
    """Say what this machine and this configuration can do: engine, isolation, templates, cache."""
    from .doctor import examine, verify_store

    if repair and not verify:
        raise RequestError("--repair goes with --verify.", hint="Run `mcp-conda-run doctor --verify --repair`.")
    settings = settings_from()
    report = list(verify_store(settings, mend=repair)) if verify else examine(settings)
    if as_json:
        typer.echo(json.dumps([vars_of.as_document() for vars_of in report], indent=2))
    else:
        for finding in report:
            typer.echo(finding.as_line())
    raise typer.Exit(EXIT_HOST if any(finding.is_problem for finding in report) else 0)


app.command()(clean)
app.command()(du)
app.command()(get_micromamba)
app.command()(runs)
app.command()(replay)
app.command()(export)
app.command()(bundle)
app.command()(unbundle)
app.command()(lock)
app.add_typer(templates, name="templates")


# --- small steps ------------------------------------------------------------------------------------------------------


def _serve_http(settings: Settings, host: str, port: int) -> NoReturn:
    from .server.http import serve

    raise typer.Exit(serve(settings, host=host, port=port))


def _what(code: str | None, file: str | None) -> tuple[str | None, str | None]:
    """Return the request's code and file, of which one is None, reading standard input for `-`."""
    if (file is None) == (code is None):
        raise RequestError("Give a file, or code with -c.", hint="See `mcp-conda-run run --help`.", code="no-code")
    if file != "-":
        return code, file
    try:
        return sys.stdin.buffer.read().decode(), None
    except UnicodeDecodeError as error:
        raise RequestError(f"Standard input is not UTF-8: {error}.", code="bad-code") from None


def _mounted(path: Path | None, file: str | None) -> Path | None:
    """Return the directory to mount: the one given, else the file's own."""
    if path is not None or file is None or file == "-" or not Path(file).exists():
        return path
    return Path(file).absolute().parent


def _limits(options: list[str] | None) -> dict[str, float]:
    """Return the bounds that the values of `--limit` name."""
    limits = {}
    for option in options or ():
        name, _, number = option.partition("=")
        try:
            limits[name] = float(number)
        except ValueError:
            raise RequestError(
                f"{option!r} is no limit.", hint="Write NAME=NUMBER, such as memory_mb=512.", code="unknown-limit"
            ) from None
    return limits


def _run(settings: Settings, request: RunRequest) -> RunResult:
    from .runtime import Runtime

    async def go() -> RunResult:
        async with Runtime(settings) as runtime:
            return await runtime.run(request, progress)

    with display() as progress:
        return asyncio_run(go())


def _plan(settings: Settings, request: RunRequest) -> Plan:
    from .runtime import Runtime

    async def go() -> Plan:
        async with Runtime(settings) as runtime:
            return await runtime.plan(request, progress)

    with display() as progress:
        return asyncio_run(go())


def _show(result: RunResult, figures: Path | None) -> None:
    """Print a result as a script would have printed it; what is about the run goes to standard error."""
    from .terminal import about_unknown

    sys.stdout.write(result.stdout)
    sys.stdout.flush()
    sys.stderr.write(result.stderr)
    if result.value is not None:
        typer.echo(result.value.text)
    if result.error is not None:
        typer.echo(result.error.traceback or f"{result.error.type}: {result.error.message}", err=True)
        if result.error.hint:
            typer.echo(result.error.hint, err=True)
    for package in result.packages:
        typer.echo(f"added {package.name} {package.version} from {package.channel}: {package.reason}", err=True)
    for unknown in result.unknown_imports:
        typer.echo(f"unknown import {about_unknown(unknown)}", err=True)
    for note in result.notes:
        typer.echo(f"note: {note}", err=True)
    if figures is not None:
        figures.mkdir(parents=True, exist_ok=True)
        for number, figure in enumerate(result.figures, 1):
            target = figures / f"figure-{number}.{figure.mime_type.rpartition('/')[2]}"
            target.write_bytes(figure.data)
            typer.echo(f"saved {target}", err=True)
    elif result.figures:
        typer.echo(f"{len(result.figures)} open figure(s); save them with --figures DIR", err=True)


def _exit_code(result: RunResult) -> int:
    own = result.exit_code if result.exit_code is not None else 1
    return {
        "success": 0,
        "install-error": EXIT_INSTALL,
        "timeout": EXIT_TIMEOUT,
        "killed": EXIT_KILLED,
        "cancelled": EXIT_INTERRUPTED,
    }.get(result.status, own or 1)


def main() -> NoReturn:
    """Run the command line; every error of ours ends in one sentence with a hint."""
    try:
        app(standalone_mode=True)
    except CondaRunError as error:
        typer.echo(f"mcp-conda-run: {error}", err=True)
        sys.exit(EXIT_REQUEST if isinstance(error, RequestError | SettingsError) else _failure(error))
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(0)


def _failure(error: CondaRunError) -> int:
    return EXIT_INSTALL if isinstance(error, InstallError) else EXIT_HOST
