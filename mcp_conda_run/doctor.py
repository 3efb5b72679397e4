"""The `doctor` command: what this machine and this configuration can do, and what to do about what they cannot.

Every line is looked up or tried, never assumed.
"""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from . import __version__
from .conda.choose import choose_engine
from .conda.engine import current_platform
from .conda.redact import redact
from .conda.world import known_world
from .environments.disk import file_system
from .environments.store import Store
from .environments.template_listing import default_name, template_states
from .environments.templates import AUTO, find_template, shipped_templates
from .environments.verify import repair, verify
from .errors import CondaRunError
from .portability import long_paths_fail
from .sandbox.advice import advice
from .sandbox.choose import limits_rest_on, make_tier
from .sandbox.probe import probe
from .settings import Settings, config_file
from .terminal import size

LITTLE_SPACE_BYTES = 5e9
LONG_PATHS = (
    "As an administrator: `reg add HKLM\\SYSTEM\\CurrentControlSet\\Control\\FileSystem /v LongPathsEnabled"
    " /t REG_DWORD /d 1 /f`; or set MCP_CONDA_RUN_CACHE_DIR to a short path, such as C:\\mcr."
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: such as `engine`.
        text: what was found.
        hint: what to do about it; empty if it is well.
        is_problem: whether runs cannot work like this.
    """

    topic: str
    text: str
    hint: str = ""
    is_problem: bool = False

    def as_line(self) -> str:
        """Return the finding for a person."""
        mark = "FAIL" if self.is_problem else "note" if self.hint else "ok"
        return f"{mark:4} {self.topic}: {self.text}" + (f"\n     {self.hint}" if self.hint else "")

    def as_document(self) -> dict[str, object]:
        """Return the finding for a machine."""
        return asdict(self)


def examine(settings: Settings) -> list[Finding]:
    """Look at everything; a part that fails becomes a finding, not an exception."""
    return list(_findings(settings))


def verify_store(settings: Settings, *, mend: bool) -> Iterator[Finding]:
    """Check every file of every environment; with `mend`, remove what is damaged, so that it is made again."""
    store = Store(settings.cache_dir)
    store.open()
    try:
        for environment in store.environments():
            found = verify(environment)
            topic = f"environment {environment.key}"
            if not found.damages:
                yield Finding(topic, f"{found.files} files are as they were installed")
                continue
            first = ", ".join(f"{damage.path} {damage.what}" for damage in found.damages[:3])
            text = f"{len(found.damages)} of {found.files} files are damaged: {first}"
            if not mend:
                yield Finding(topic, text, "Run `mcp-conda-run doctor --verify --repair`.", is_problem=True)
            elif repair(store, found):
                yield Finding(topic, f"{text}. It was removed, and is made again when it is wanted.")
            else:
                yield Finding(topic, text, "It is in use: stop the servers that use it first.", is_problem=True)
    finally:
        store.close()


def _findings(settings: Settings) -> Iterator[Finding]:
    yield Finding("version", f"mcp-conda-run {__version__}, Python {platform.python_version()} on {sys.platform}")
    used = "read" if config_file().exists() else "absent"
    yield Finding("settings", f"{config_file()} ({used})")
    for look in (_platform, _engine, _isolation, _templates, _cache):
        try:
            yield from look(settings)
        except CondaRunError as error:
            yield Finding(look.__name__.strip("_"), error.message, error.hint, is_problem=True)


def _platform(_: Settings) -> Iterator[Finding]:
    yield Finding("platform", current_platform())


def _engine(settings: Settings) -> Iterator[Finding]:
    settings, access = known_world(settings)
    choice = choose_engine(settings, access)
    yield Finding("engine", f"{choice.engine.name} {choice.engine.version()} ({choice.reason})")


def _isolation(settings: Settings) -> Iterator[Finding]:
    tier, reason = make_tier(settings)
    tier.close()
    chosen_less = "Runs are not confined; leave out `--isolation none` to have that."
    hint = chosen_less if settings.isolation == "none" else advice(probe(settings.cache_dir.absolute()))
    yield Finding("isolation", f"tier {tier.name} ({reason})", hint)
    for limit, basis in limits_rest_on(tier, settings.limits()).items():
        yield Finding(f"isolation/{limit}", basis)


def _templates(settings: Settings) -> Iterator[Finding]:
    states = template_states(settings, Store(settings.cache_dir))
    ready = [state.name for state in states if state.environment is not None]
    listed = ", ".join(state.name for state in states)
    yield Finding("templates", f"{listed}; ready: {', '.join(ready) or 'none'}", is_problem=not shipped_templates())
    for state in states:
        if state.problem and state.origin != "configured":
            yield Finding(f"template/{state.name}", state.problem, "Mend it, or `mcp-conda-run templates remove` it.")
        for lock in state.stale:
            hint = f"Run `mcp-conda-run lock {state.name}`; until then the setting stale_lock says what happens."
            yield Finding(f"template/{state.name}", f"its lock {lock} is stale", hint)
    template = find_template(default_name(settings), settings.channels, settings.templates_dir)
    asked = "chosen by what the code imports, else " if settings.template == AUTO else ""
    channels = redact(", ".join(template.channels)) or "those of its packages"
    yield Finding("template", f"{asked}{template.name} ({template.path}), channels {channels}")


def _cache(settings: Settings) -> Iterator[Finding]:
    store = Store(settings.cache_dir)
    store.open()
    try:
        usage = store.usage()
        environments = store.environments()
    finally:
        store.close()
    total = sum(part.size_bytes for part in usage.values())
    yield Finding("cache", f"{store.root}: {size(total)}, {len(environments)} environment(s) ready")
    for name, part in usage.items():
        yield Finding(f"cache/{name}", f"{part.files} files, {size(part.size_bytes)}")
    free = shutil.disk_usage(store.root).free
    hint = "Free some space, or run `mcp-conda-run clean --all`." if free < LITTLE_SPACE_BYTES else ""
    where = file_system(store.root)
    shared = "; other machines may use it too, if their locks reach this one" if where.is_network else ""
    if long_paths_fail():
        text = "paths of more than 260 characters are refused here, and some packages have files that deep"
        yield Finding("paths", text, LONG_PATHS)
    yield Finding("disk", f"{size(free)} free ({where.type or 'unknown file system'}{shared})", hint)
