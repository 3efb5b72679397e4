"""What is known of each template: where it is from, whether it is locked and built, and what it serves.

Read by the `templates` command, `doctor` and the choice of a template; looks at the disk, makes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..conda.engine import current_platform
from ..conda.lockfile import read_lock
from ..errors import CondaRunError
from ..models import Environment
from ..settings import Settings
from .store import Store, environment_key
from .template_locks import Fitness, fitness_of, locked_platforms, lying_locks, serving_lock
from .templates import AUTO, DEFAULT, Kind, Template, find_template, known_templates, shipped_templates


@dataclass(frozen=True, slots=True)
class TemplateState:
    """A template as it is on this machine.

    Attributes:
        name: what it is called; for a path that is configured, the path.
        path: its file.
        origin: `shipped`, `yours` or `configured`.
        template: what it says; None if it cannot be used.
        problem: why it cannot be used; empty if it can.
        lock: the lock that serves it; None if that has to be made first.
        platforms: those that it is locked for.
        stale: locks beside it that no longer fit it.
        environment: its environment, if that is ready.
    """

    name: str
    path: Path
    origin: str
    template: Template | None = None
    problem: str = ""
    lock: Path | None = None
    platforms: tuple[str, ...] = ()
    stale: tuple[Path, ...] = ()
    environment: Environment | None = None

    @property
    def imports(self) -> tuple[str, ...]:
        """Return the modules that it says it serves; of a finished one that says nothing, its top-level modules."""
        if self.template is not None and self.template.imports:
            return self.template.imports
        if self.environment is None:
            return ()
        return tuple(sorted({name.split(".")[0] for name in self.environment.modules if not name.startswith("_")}))

    @property
    def description(self) -> str:
        """Return the file's first line, if that is a comment."""
        try:
            with self.path.open(encoding="utf-8", errors="replace") as file:
                first = file.readline(400)
        except OSError:
            return ""
        is_remark = first.startswith("#") and self.template is not None and not self.template.is_lock
        return first.lstrip("# ").strip() if is_remark else ""


def template_states(settings: Settings, store: Store) -> list[TemplateState]:
    """Return what is known of every template: those with a name, and the configured one."""
    known = known_templates(settings.templates_dir)
    names = list(known)
    configured = settings.template
    if configured not in {AUTO, *known}:
        names.append(configured)
    return [template_state(name, settings, store) for name in names]


def template_state(name: str, settings: Settings, store: Store) -> TemplateState:
    """Return what is known of one template; one that cannot be used says why."""
    known = known_templates(settings.templates_dir)
    path = known.get(name, Path(name))
    origin = "shipped" if name in shipped_templates() else "yours" if name in known else "configured"
    try:
        template = find_template(name, settings.channels, settings.templates_dir)
    except CondaRunError as error:
        return TemplateState(name, path, origin, problem=error.message)
    try:
        return _locked(TemplateState(name, template.path, origin, template), template, settings, store)
    except CondaRunError as error:
        stale = _stale(template, store, settings) if error.code == "lock-stale" else ()
        return TemplateState(name, template.path, origin, template, problem=error.message, stale=stale)


def _locked(state: TemplateState, template: Template, settings: Settings, store: Store) -> TemplateState:
    platform = current_platform()
    serving = serving_lock(template, store, settings, platform)
    stale = _stale(template, store, settings)
    if not serving.path.is_file():
        return TemplateState(state.name, state.path, state.origin, template, stale=stale)
    environment = store.load(environment_key(read_lock(serving.path, platform)))
    return TemplateState(
        state.name,
        state.path,
        state.origin,
        template,
        lock=serving.path,
        platforms=locked_platforms(serving.path),
        stale=stale,
        environment=environment,
    )


def _stale(template: Template, store: Store, settings: Settings) -> tuple[Path, ...]:
    if template.kind is not Kind.ENVIRONMENT:
        return ()
    platform, cutoff = current_platform(), settings.exclude_newer
    lying = lying_locks(template, store)
    return tuple(path for path in lying if fitness_of(path, template, platform, cutoff) is Fitness.STALE)


def default_name(settings: Settings) -> str:
    """Return the name of the template that a run has if it asks for none and nothing is to be chosen."""
    return DEFAULT if settings.template == AUTO else settings.template
