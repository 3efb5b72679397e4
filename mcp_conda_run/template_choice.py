"""Which template serves a piece of code, for `--template auto`: the smallest that has all that the code imports.

Called by `preparation.py` before the template's environment is looked for. A finished environment says itself what it
has; of the others, what their files say they serve counts. Plans and installs nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .environments.store import Store
from .environments.template_listing import TemplateState, template_state
from .environments.templates import DEFAULT, known_templates
from .errors import CondaRunError
from .models import ImportContext
from .planning.conditions import Target
from .planning.imports import imports_of, parse
from .planning.offers import is_local
from .settings import Settings

COUNTED = {ImportContext.PLAIN, ImportContext.LAZY, ImportContext.DYNAMIC}
ASSUMED_PYTHON = (3, 12)
"""What conditions in code are judged by before an environment is chosen."""

ASSUMED_MB = 30
"""What a package that a template names takes on disk with all that it needs, where nobody has built it yet."""

MAX_NAMED = 6


@dataclass(frozen=True, slots=True)
class Choice:
    """A template and why it was chosen, as a sentence."""

    name: str
    reason: str


class TemplateChooser:
    """Chooses templates; remembers what lies on disk until it changes."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._seen: dict[str, tuple[object, TemplateState, float]] = {}

    def choose(self, code: str, local_roots: Sequence[Path] = ()) -> Choice:
        """Return the smallest template that has all that the code imports, one that is ready first; else `base`."""
        needed = needed_modules(code, local_roots)
        if not needed:
            return Choice(DEFAULT, f"The template {DEFAULT} was chosen: the code imports nothing else.")
        listed = ", ".join(needed[:MAX_NAMED]) + (", ..." if len(needed) > MAX_NAMED else "")
        fitting = [(state, mb) for state, mb in self._candidates() if serves(state, needed)]
        if not fitting:
            return Choice(DEFAULT, f"The template {DEFAULT} was chosen: none has all of {listed}.")
        state, _ = min(fitting, key=lambda item: (item[0].environment is None, item[1], item[0].name))
        how = "of those that are ready, the smallest" if state.environment is not None else "the smallest"
        return Choice(state.name, f"The template {state.name} was chosen: {how} that serves {listed}.")

    def _candidates(self) -> Iterable[tuple[TemplateState, float]]:
        """Yield the templates that can be used on this machine as it is, with their sizes in MB."""
        for name, path in known_templates(self._settings.templates_dir).items():
            state, mb = self._look(name, path)
            needs = state.template.needs if state.template is not None else ()
            if not state.problem and (state.environment is not None or not needs):
                yield state, mb

    def _look(self, name: str, path: Path) -> tuple[TemplateState, float]:
        """Return what is known of a template; costs a few `stat`s where nothing changed."""
        seen = self._seen.get(name)
        if seen is not None and seen[0] == self._stamp(path, seen[1]):
            return seen[1], seen[2]
        try:
            state = template_state(name, self._settings, self._store)
        except CondaRunError as error:
            state = TemplateState(name, path, "", problem=error.message)
        mb = megabytes(state)
        self._seen[name] = (self._stamp(path, state), state, mb)
        return state, mb

    def _stamp(self, path: Path, state: TemplateState) -> object:
        """Return what changes when a template, its lock or its environment does."""
        environment = state.environment
        ready = self._store.description(environment.key) if environment is not None else None
        parts = (path, self._store.locks, path.parent, state.lock, ready or self._store.envs)
        return tuple(modified(part) for part in parts)


def needed_modules(code: str, local_roots: Sequence[Path]) -> tuple[str, ...]:
    """Return the modules that code imports in any case, but for the standard library's and the user's own."""
    found = imports_of(code, parse(code), Target(version=ASSUMED_PYTHON))
    modules = (item.module for item in found.imports if item.context in COUNTED)
    foreign = (name for name in modules if name.partition(".")[0] not in sys.stdlib_module_names)
    return tuple(dict.fromkeys(name for name in foreign if not is_local(name, local_roots, found.local)))


def serves(state: TemplateState, needed: Iterable[str]) -> bool:
    """Say whether a template has all of these modules."""
    if state.environment is not None:
        return all(state.environment.offers(module) for module in needed)
    served = frozenset(state.imports)
    return all(any(f"{module}.".startswith(f"{own}.") for own in served) for module in needed)


def megabytes(state: TemplateState) -> float:
    """Return how large a template is, roughly: by its files where it is built, else by what it names."""
    environment = state.environment
    if environment is None:
        return ASSUMED_MB * len(state.template.specs if state.template is not None else ())
    return sum(size_of(file) for file in environment.prefix.rglob("*")) / 1e6


def size_of(path: Path) -> int:
    """Return the size of a file in bytes; 0 if it has just gone."""
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def modified(path: Path | None) -> int:
    """Return when a path was changed, in nanoseconds; 0 if it is not there."""
    try:
        return path.stat().st_mtime_ns if path is not None else 0
    except OSError:
        return 0
