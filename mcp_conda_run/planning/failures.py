"""What a failed run says that it was missing: names in its exceptions, their messages, and programs.

Called by the planner after a run that ended with an exception. The texts come from foreign code: names found here go
through the same resolver and policy as imports, and nothing is believed beyond that. Patterns are data (`hints.toml`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from ..models import Environment, FoundImport, ImportContext, PlannedPackage, RunError
from .imports import MODULE, find_imports
from .tables import names, read

MAX_TEXT = 20_000
MAX_NAMES = 8
WORD = re.compile(r"[A-Za-z][\w.-]*")
GDAL_PLUGIN = re.compile(r"\blibgdal-[a-z0-9-]+\b")
UNKNOWN_LOCATION = re.compile(r"cannot import name ['\"](\w+)['\"] from ['\"]([\w.]+)['\"] \(unknown location\)")


@dataclass(frozen=True, slots=True)
class Message:
    """One pattern of an error's text, and what it means; see `hints.toml`."""

    pattern: re.Pattern[str]
    needs: tuple[str, ...]
    why_not: str
    only_imports: bool


@dataclass(frozen=True)
class Patterns:
    """All patterns, in the order in which they are tried."""

    messages: tuple[Message, ...]
    programs: tuple[re.Pattern[str], ...]
    executables: dict[str, str]


@dataclass(slots=True)
class Missing:
    """What a failure names: modules, conda packages, and words for the user where nothing can be done."""

    imports: list[FoundImport] = field(default_factory=list)
    packages: list[PlannedPackage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add_module(self, module: str, why: str, taken: tuple[str, ...] = ()) -> None:
        """Add a module, or a project's name that may be one."""
        module = module.replace("-", "_")
        if len(self.imports) < MAX_NAMES and MODULE.fullmatch(module):
            self.imports.append(FoundImport(module, taken, ImportContext.DYNAMIC, why=why))

    def add_package(self, name: str, why: str) -> None:
        """Add a conda package."""
        self.packages.append(PlannedPackage(name, name, "conda", "", "runtime", why, 0.8))


@cache
def load_patterns() -> Patterns:
    """Read the patterns once."""
    document = read("hints.toml")
    return Patterns(
        tuple(read_message(row) for row in document["message"]),
        tuple(re.compile(row["pattern"], re.MULTILINE) for row in document["program"]),
        document["executables"],
    )


def read_message(row: dict[str, Any]) -> Message:
    """Read one pattern."""
    return Message(
        re.compile(row["pattern"], re.MULTILINE),
        names(row.get("needs", ())),
        row.get("why_not", ""),
        row.get("only_imports", False),
    )


def read_failure(error: RunError, missing: Sequence[str], stderr: str, environment: Environment) -> Missing:
    """Say what a failure names as missing.

    Args:
        error: the exception that ended the run.
        missing: the module names that ImportErrors in its chain carry.
        stderr: the end of what the run wrote there; only programs and GDAL's plugins are looked for in it.
        environment: the environment that the run had.
    """
    found = Missing()
    named = list(dict.fromkeys(name for name in (*missing, error.missing_module) if name))
    for module in named:
        for whole, taken in modules_of_source(module, error.traceback) or [(module, ())]:
            found.add_module(whole, f"the run ended with {error.type}, which names it", taken)
    texts = messages_of(error)
    if not found.imports:
        read_messages(texts, found, of_import=error.type.endswith(("ImportError", "ModuleNotFoundError")))
    for match in UNKNOWN_LOCATION.finditer(texts):
        found.add_module(f"{match[2]}.{match[1]}", "the run could not import it")
    read_programs(texts, stderr[-MAX_TEXT:], found)
    found.imports = [item for item in found.imports if may_be_missing(item.module, environment)]
    return found


def messages_of(error: RunError) -> str:
    """Return the texts of all exceptions of the chain: what a traceback has at the left margin."""
    lines = error.traceback[-MAX_TEXT:].split("\n")
    said = [
        line for line in lines if line and not line.startswith((" ", "Traceback (", "During handling", "The above"))
    ]
    return "\n".join([error.message[:MAX_TEXT], *said])


def modules_of_source(module: str, traceback: str) -> list[tuple[str, tuple[str, ...]]]:
    """Re-read the failing import from the traceback's last source line: of a shared root, exceptions name the root."""
    for line in reversed(traceback[-MAX_TEXT:].split("\n")):
        text = line.strip()
        if text.startswith(("import ", "from ")):
            found = find_imports(text).imports
            return [(i.module, i.names) for i in found if f"{i.module}.".startswith(f"{module}.")]
    return []


def read_messages(texts: str, found: Missing, *, of_import: bool) -> None:
    """Apply the patterns; the first that matches decides."""
    for message in load_patterns().messages:
        match = None if message.only_imports and not of_import else message.pattern.search(texts)
        if match is None:
            continue
        said = f"the error says {match[0][:80]!r}"
        if message.why_not:
            found.notes.append(message.why_not)
        groups = match.groupdict()
        for module in message.needs or names_in(groups.get("name") or "", groups.get("line") or ""):
            if module.startswith("libgdal"):
                found.add_package(module, said)
            else:
                found.add_module(module, said)
        return


def names_in(name: str, line: str) -> tuple[str, ...]:
    """Return the names of a pattern: one, or the arguments of an install command without its options."""
    if name:
        return (name,)
    words = iter(re.sub(r"""['"`]""", " ", line).split())
    found: list[str] = []
    for word in words:
        if word in {"-c", "--channel"}:
            next(words, None)
        elif not word.startswith("-") and (match := WORD.match(word)):
            found.append(match[0].rstrip(".-"))
    return tuple(found[:MAX_NAMES])


def read_programs(texts: str, stderr: str, found: Missing) -> None:
    """Look for programs that could not be found, and for GDAL's plugins, which only its own output names."""
    patterns = load_patterns()
    for text in (texts, stderr):
        for pattern in patterns.programs:
            for match in pattern.finditer(text):
                if package := patterns.executables.get(match["program"]):
                    found.add_package(package, f"the program {match['program']} was not found")
        if "conda install" in text:
            for name in dict.fromkeys(GDAL_PLUGIN.findall(text)):
                found.add_package(name, "GDAL says that this plugin is missing")


def may_be_missing(module: str, environment: Environment) -> bool:
    """Say whether a module can be missing at all: parts of an installed package are wrong names, not missing ones."""
    parts = module.split(".")
    heads: Collection[str] = [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
    return parts[0] not in environment.stdlib and not any(head in environment.modules for head in heads)
