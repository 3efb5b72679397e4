"""What code declares about itself: PEP 723 blocks with pixi's and conda's tables, and `conda-script` blocks.

Called by the planner before anything else; where a block is found, it is the only truth. The text is hostile: sizes are
bounded, scanning is linear, and everything that would weaken the policy (URLs, paths, other indexes) is refused.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from packaging.markers import Marker, UndefinedComparison, UndefinedEnvironmentName, default_environment
from packaging.requirements import Requirement

from ..errors import RequestError
from ..models import PlannedPackage
from .specs import Spec, parse_requirement, parse_spec

MAX_BLOCK = 64 * 1024
MAX_PACKAGES = 500
MAX_CHANNELS = 20
BEGIN_CONDA = "/// conda-script"
END_CONDA = "/// end-conda-script"
COMMENTS = ("#", "//", "--")


@dataclass(slots=True)
class Declared:
    """What was asked for by name.

    Attributes:
        packages: the packages; those of PyPI with decision `declared` are looked for in the channels first.
        python: constraints on Python, as written.
        channels: names of channels.
        only: whether a metadata block was found, so that imports do not count.
        notes: what was left out, and why.
    """

    packages: list[PlannedPackage] = field(default_factory=list)
    python: list[str] = field(default_factory=list)
    channels: list[str] = field(default_factory=list)
    only: bool = False
    notes: list[str] = field(default_factory=list)

    def add_spec(self, spec: Spec, decision: str, reason: str) -> None:
        """Add a conda package; asking for Python itself asks for a version of it."""
        if spec.name == "python":
            self.python += [spec.version] if spec.version not in {"", "*"} else []
            return
        self._add(PlannedPackage(str(spec), spec.name, "conda", "", decision, reason, 1.0, spec.channel))

    def add_requirement(self, requirement: Requirement, decision: str, reason: str, python: str) -> None:
        """Add a project of PyPI, unless its marker says that it is not for this machine."""
        if requirement.marker and not holds(requirement.marker, python):
            self.notes.append(f"{requirement.name} is left out: {requirement.marker} does not hold here.")
            return
        extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
        spec = f"{requirement.name}{extras}{requirement.specifier}"
        self._add(PlannedPackage(spec, requirement.name, "pypi", "", decision, reason, 1.0))

    def add_channel(self, name: Any) -> None:
        """Add a channel by name."""
        spec = parse_spec(f"{name}::x") if isinstance(name, str) else None
        if spec is None or not spec.channel or len(self.channels) >= MAX_CHANNELS:
            raise bad_block(f"{str(name)[:80]!a} is no channel's name")
        if spec.channel not in {*self.channels, "nodefaults"}:
            self.channels.append(spec.channel)

    def _add(self, package: PlannedPackage) -> None:
        if len(self.packages) >= MAX_PACKAGES:
            raise RequestError(f"More than {MAX_PACKAGES} packages are asked for.", code="too-many-packages")
        self.packages.append(package)


def holds(marker: Marker, python: str) -> bool:
    """Evaluate an environment marker for this machine and the Python that will run."""
    facts = {**default_environment(), "python_version": ".".join(python.split(".")[:2]), "python_full_version": python}
    try:
        return marker.evaluate({key: str(value) for key, value in facts.items()} | {"extra": ""})
    except (UndefinedComparison, UndefinedEnvironmentName):
        return False


def bad_block(why: str) -> RequestError:
    """Make the error for a metadata block that cannot be used."""
    return RequestError(
        f"The metadata in the code cannot be used: {why}.",
        hint="See PEP 723: one block from `# /// script` to `# ///`, in TOML.",
        code="bad-metadata",
    )


def read_metadata(code: str, python: str) -> Declared:
    """Read the metadata blocks of code; `python` is the version that markers are evaluated for.

    Raises:
        RequestError: there are two blocks of a kind, a block is no TOML, or it asks for what cannot be had.
    """
    declared = Declared()
    if "///" not in code:
        return declared
    lines = code.split("\n")
    scripts = [text for kind, text in script_blocks(lines) if kind == "script"]
    conda_scripts = list(conda_blocks(lines))
    if len(scripts) > 1 or len(conda_scripts) > 1:
        raise bad_block("there are several blocks of one kind")
    for text in scripts:
        read_script(load(text), declared, python)
    for text in conda_scripts:
        read_conda_table(load(text), declared, "the conda-script block")
    declared.only = bool(scripts or conda_scripts)
    return declared


def script_blocks(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Yield type and content of the blocks of PEP 723; a block ends at the last `# ///` of its run of comments."""
    number = 0
    while number < len(lines):
        kind = lines[number].rstrip("\r").removeprefix("# /// ")
        if not lines[number].startswith("# /// ") or not kind.replace("-", "").isalnum():
            number += 1
            continue
        end = run = number + 1
        while run < len(lines) and (lines[run].rstrip("\r") == "#" or lines[run].startswith("# ")):
            end = run if lines[run].rstrip("\r") == "# ///" else end
            run += 1
        if end > number + 1 or (end < len(lines) and lines[end].rstrip("\r") == "# ///"):
            yield kind, "\n".join(line.rstrip("\r")[2:] for line in lines[number + 1 : end])
            number = end + 1
        else:
            number = run


def conda_blocks(lines: list[str]) -> Iterator[str]:
    """Yield the contents of the `conda-script` blocks."""
    begun: tuple[str, int] | None = None
    for number, line in enumerate(lines):
        mark, _, rest = line.rstrip().partition(" ")
        if begun is None and mark in COMMENTS and rest == BEGIN_CONDA:
            begun = mark, number
        elif begun is not None and mark == begun[0] and rest == END_CONDA:
            inside = lines[begun[1] + 1 : number]
            yield "\n".join(part.rstrip("\r").removeprefix(mark).removeprefix(" ") for part in inside)
            begun = None


def load(text: str) -> dict[str, Any]:
    """Parse a block's TOML within bounds."""
    if len(text) > MAX_BLOCK:
        raise bad_block(f"it is longer than {MAX_BLOCK // 1024} KiB")
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        if "\n/// " in f"\n{text}":
            raise bad_block("another block begins within it; only an empty line or code parts two blocks") from None
        raise bad_block(f"it is not TOML ({str(error)[:120]})") from None


def read_script(document: Mapping[str, Any], declared: Declared, python: str) -> None:
    """Read a PEP 723 block with what conda, pixi and uv put into it."""
    for text in strings(document.get("dependencies", []), "dependencies"):
        declared.add_requirement(parse_requirement(text), "declared", "the script's metadata asks for it", python)
    if requires := document.get("requires-python"):
        declared.python.append(one_string(requires, "requires-python"))
    tools = table(document.get("tool", {}), "tool")
    pixi, conda, uv = (table(tools.get(name, {}), f"tool.{name}") for name in ("pixi", "conda", "uv"))
    if refused := {"index", "index-url", "extra-index-url", "find-links", "sources"} & uv.keys():
        raise bad_block(f"[tool.uv] {min(refused)} asks for packages from elsewhere, which is not allowed")
    read_conda_table(conda, declared, "[tool.conda]")
    read_pixi(pixi, declared, python)


def read_pixi(pixi: Mapping[str, Any], declared: Declared, python: str) -> None:
    """Read `[tool.pixi]`: channels of the workspace, dependencies of conda and of PyPI."""
    for name in ("workspace", "project"):
        for channel in listing(table(pixi.get(name, {}), f"tool.pixi.{name}").get("channels", []), "channels"):
            declared.add_channel(channel.get("channel") if isinstance(channel, dict) else channel)
    read_dependencies(pixi.get("dependencies", {}), declared, "[tool.pixi.dependencies]")
    for name, value in table(pixi.get("pypi-dependencies", {}), "tool.pixi.pypi-dependencies").items():
        version = value.get("version", "") if isinstance(value, dict) and value.keys() <= {"version"} else value
        version = one_string(version, f"tool.pixi.pypi-dependencies.{name}")
        text = f"{name}{'' if version == '*' else version}"
        declared.add_requirement(
            parse_requirement(text), "declared", "[tool.pixi.pypi-dependencies] asks for it", python
        )


def read_conda_table(conda: Mapping[str, Any], declared: Declared, where: str) -> None:
    """Read channels and dependencies of `[tool.conda]` or of a conda-script block."""
    for channel in listing(conda.get("channels", []), "channels"):
        declared.add_channel(channel)
    read_dependencies(conda.get("dependencies", {}), declared, where)
    for key in ("python", "requires-python"):
        if key in conda:
            declared.python.append(one_string(conda[key], key))


def read_dependencies(value: Any, declared: Declared, where: str) -> None:
    """Read conda dependencies: a list of match specs, or a table of names and versions."""
    if isinstance(value, list):
        for text in strings(value, where):
            declared.add_spec(parse_spec(text), "declared", f"{where} asks for it")
        return
    for name, wanted in table(value, where).items():
        parts = {"version": wanted} if isinstance(wanted, str) else table(wanted, f"{where} {name}")
        if not parts.keys() <= {"version", "build", "channel"}:
            raise bad_block(f"{where} {str(name)[:80]!a} asks for more than version, build and channel")
        keys = ",".join(f'{key}="{one_string(part, name)}"' for key, part in parts.items() if part != "*")
        declared.add_spec(parse_spec(f"{name}[{keys}]" if keys else name), "declared", f"{where} asks for it")


def table(value: Any, where: str) -> dict[str, Any]:
    """Check that a value is a table."""
    if not isinstance(value, dict):
        raise bad_block(f"{where} is no table")
    return value


def listing(value: Any, where: str) -> list[Any]:
    """Check that a value is a list."""
    if not isinstance(value, list):
        raise bad_block(f"{where} is no list")
    return value


def strings(value: Any, where: str) -> Iterable[str]:
    """Check that a value is a list of strings."""
    return [one_string(part, where) for part in listing(value, where)]


def one_string(value: Any, where: str) -> str:
    """Check that a value is a string."""
    if not isinstance(value, str):
        raise bad_block(f"{where[:80]} is no text")
    return value
