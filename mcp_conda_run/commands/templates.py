"""`templates`: what there is to start from, and the user's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import RequestError
from .shared import JsonOption, settings_from

if TYPE_CHECKING:
    from ..environments.template_listing import TemplateState

app = typer.Typer(
    help="List the templates that runs can start from; show, add and remove.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

NameArgument = Annotated[str, typer.Argument(help="A template's name.", metavar="NAME")]


@app.callback(invoke_without_command=True)
def templates(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """List the templates that runs can start from; show, add and remove."""
    if ctx.invoked_subcommand is not None:
        return
    from ..environments.store import Store
    from ..environments.template_listing import default_name, template_states

    settings = settings_from()
    store = Store(settings.cache_dir)
    states = template_states(settings, store)
    sizes = _sizes(store)
    if as_json:
        typer.echo(json.dumps([_document(state, sizes) for state in states], indent=2))
        return
    default = default_name(settings)
    for state in states:
        typer.echo(_line(state, sizes, is_default=state.name == default))
        if state.description:
            typer.echo(f"    {state.description}")
        for note in _notes(state):
            typer.echo(f"    note: {note}")


@app.command()
def show(name: NameArgument, as_json: JsonOption = False) -> None:
    """Show a template: its file, its locks, its environment, and what it serves."""
    from ..environments.store import Store
    from ..environments.template_listing import template_state
    from ..environments.templates import Kind

    settings = settings_from()
    store = Store(settings.cache_dir)
    state = template_state(name, settings, store)
    if state.problem and state.template is None:
        raise RequestError(state.problem, hint="`mcp-conda-run templates` lists those that there are.")
    sizes = _sizes(store)
    if as_json:
        typer.echo(json.dumps(_document(state, sizes), indent=2))
        return
    typer.echo(_line(state, sizes))
    typer.echo(f"    file: {state.path}")
    if state.lock is not None:
        typer.echo(f"    lock: {state.lock}, for {', '.join(state.platforms)}")
    if state.environment is not None:
        typer.echo(f"    environment: {state.environment.prefix}, Python {state.environment.python_version}")
    if state.imports:
        typer.echo(f"    imports: {', '.join(state.imports)}")
    for note in _notes(state):
        typer.echo(f"    note: {note}")
    if state.template is not None and state.template.kind is Kind.ENVIRONMENT:
        from ..conda.redact import redact

        typer.echo("")
        typer.echo(redact(state.path.read_text(encoding="utf-8")).rstrip())


@app.command()
def add(
    file: Annotated[
        Path, typer.Argument(help="An environment.yml, a conda-lock.yml, a pixi.lock or an explicit list.")
    ],
    name: Annotated[str, typer.Option("--name", help="What it is called [default: the file's name].")] = "",
) -> None:
    """Keep a copy of a file as a template of yours, to be used by its name."""
    from ..environments.template_files import add_template

    template = add_template(file, settings_from().templates_dir, name)
    typer.echo(f"{template.name}: {template.kind}, kept as {template.path}")


@app.command()
def remove(name: NameArgument) -> None:
    """Remove a template of yours, and the lock beside it. Its environment stays until the cache is cleaned."""
    from ..environments.template_files import remove_template

    for path in remove_template(name, settings_from().templates_dir):
        typer.echo(f"removed {path}")


# --- small steps ------------------------------------------------------------------------------------------------------


def _sizes(store: Any) -> dict[str, int]:
    from ..environments.care import listing

    return {item.environment.key: item.size_bytes for item in listing(store)}


def _line(state: TemplateState, sizes: dict[str, int], *, is_default: bool = False) -> str:
    """Return one template in one line."""
    from ..terminal import size

    built = "not built"
    if state.environment is not None:
        packages = len(state.environment.packages)
        built = f"ready, {packages} packages, {size(sizes.get(state.environment.key, 0))}"
    locked = f"locked for {', '.join(state.platforms)}" if state.lock is not None else "not locked"
    kind = state.template.kind if state.template is not None else "unusable"
    default = ", the default" if is_default else ""
    return f"{state.name} ({state.origin} {kind}{default}): {locked}; {built}"


def _notes(state: TemplateState) -> list[str]:
    """Return what the user should know of a template, each as a sentence."""
    stale = [f"The lock {path} is stale; `mcp-conda-run lock` makes it anew." for path in state.stale]
    needs = [f"It needs {', '.join(state.template.needs)}."] if state.template and state.template.needs else []
    return [*([state.problem] if state.problem else []), *stale, *needs]


def _document(state: TemplateState, sizes: dict[str, int]) -> dict[str, Any]:
    """Return one template for a machine."""
    template, environment = state.template, state.environment
    return {
        "name": state.name,
        "path": str(state.path),
        "origin": state.origin,
        "kind": template.kind if template is not None else None,
        "description": state.description,
        "channels": list(template.channels) if template is not None else [],
        "specs": list(template.specs) if template is not None else [],
        "pip": list(template.pip) if template is not None else [],
        "needs": list(template.needs) if template is not None else [],
        "imports": list(state.imports),
        "lock": str(state.lock) if state.lock is not None else None,
        "platforms": list(state.platforms),
        "stale": [str(path) for path in state.stale],
        "environment": environment.key if environment is not None else None,
        "python": environment.python_version if environment is not None else None,
        "size_bytes": sizes.get(environment.key) if environment is not None else None,
        "problem": state.problem,
    }
