"""Lines of notebooks: `%pip install x`, `!mamba install -c conda-forge y`, `%matplotlib inline`.

Called by the planner for code that is no Python as it stands. An install line is understood as a request and never
executed; its line stays, empty, so that line numbers do not move. Lines of a shell are refused with a clear error.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import RequestError
from .inline import Declared
from .specs import parse_requirement, parse_spec

STRINGS = re.compile(
    r'"""(?:\\.|[^\\])*?"""|\'\'\'(?:\\.|[^\\])*?\'\'\'|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|#[^\n]*', re.DOTALL
)
LINE = re.compile(
    r"^(?P<indent>[ \t]*)(?P<mark>%%|[%!]|(?=(?:pip3?|conda|mamba|micromamba)[ \t]+install\b))(?P<text>.*)$"
)
QUIET_MAGICS = {"matplotlib", "load_ext", "reload_ext", "autoreload", "config", "pylab", "precision", "capture"}
TIMING_MAGICS = {"time", "timeit", "prun"}
PYTHONS = re.compile(r"(?:.*/)?python[\d.]*|\{sys\.executable\}")
SILENCED = re.compile(r"\s+(?:(?:[12&]?>\s*/dev/null|2>&1)\s*)+$")

PYPI_TOOLS = (("pip",), ("pip3",), ("uv", "pip"), ("uv",), ("python", "-m", "pip"))
CONDA_TOOLS = (("conda",), ("mamba",), ("micromamba",), ("pixi",))
HARMLESS = {
    "-q", "-qq", "-qqq", "--quiet", "-y", "--yes", "-v", "--verbose", "-U", "--upgrade", "--user", "--no-cache-dir",
    "--no-input", "--system", "--disable-pip-version-check", "--no-warn-script-location", "--progress-bar=off",
    "--override-channels", "--prefer-binary", "--break-system-packages", "--no-update-deps", "--freeze-installed",
    "--update-deps", "--strict-channel-priority", "--root-user-action=ignore", "-S", "--only-binary=:all:",
}  # fmt: skip
CHANNEL_OPTIONS = {"-c", "--channel"}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a notebook that is no Python: first and last line number from 0, and its parts."""

    first: int
    last: int
    indent: str
    mark: str
    text: str


def take_out_magics(code: str, declared: Declared, python: str) -> str:
    """Replace the lines that are no Python, and add what they ask for to `declared`.

    Raises:
        RequestError: a line is a shell command, or an install line asks for what the policy cannot allow.
    """
    lines = code.split("\n")
    for line in notebook_lines(code, lines):
        kept = understand(line, declared, python)
        lines[line.first : line.last + 1] = [f"{line.indent}{kept}", *[""] * (line.last - line.first)]
    return "\n".join(lines)


def notebook_lines(code: str, lines: list[str]) -> Iterator[Line]:
    """Find the lines that begin like a magic, a shell escape or an install command, outside of strings."""
    inside = lines_inside_strings(code)
    number = 0
    while number < len(lines):
        match = None if number in inside else LINE.match(lines[number].rstrip("\r"))
        first = number
        if match is not None:
            text = match["text"]
            while text.endswith("\\") and number + 1 < len(lines):
                number += 1
                text = text[:-1] + lines[number].strip()
            yield Line(first, number, match["indent"], match["mark"], text.strip())
        number += 1


def lines_inside_strings(code: str) -> set[int]:
    """Return the numbers of the lines, from 0, that begin inside of a triple-quoted string."""
    inside: set[int] = set()
    at = number = 0
    for match in STRINGS.finditer(code):
        if match[0][:3] in {'"""', "'''"}:
            number += code.count("\n", at, match.start())
            at = match.start()
            inside.update(range(number + 1, number + match[0].count("\n") + 1))
    return inside


def understand(line: Line, declared: Declared, python: str) -> str:
    """Take one line; return the Python that stands in its place."""
    command, _, rest = line.text.partition(" ")
    if line.mark.startswith("%") and command in TIMING_MAGICS:
        return "pass" if line.mark == "%%" or not rest.strip() else rest.strip()
    if line.mark.startswith("%") and command in QUIET_MAGICS:
        return "pass"
    if line.mark == "%%":
        raise refused(line, "cell magics are not supported")
    words = split(line)
    install = strip_tool(words, PYPI_TOOLS)
    if install is not None:
        add_pypi(line, install, declared, python)
        return "pass"
    install = strip_tool(words, CONDA_TOOLS)
    if install is not None:
        add_conda(line, install, declared)
        return "pass"
    raise refused(line, "the code runs in Python, not in a shell or a notebook")


def split(line: Line) -> list[str]:
    """Split a command line into words, without what a shell would make of them."""
    try:
        words = shlex.split(SILENCED.sub("", line.text), comments=True)
    except ValueError:
        raise refused(line, "its quotes do not match") from None
    if words and PYTHONS.fullmatch(words[0]):
        words[0] = "python"
    return words


def strip_tool(words: list[str], tools: tuple[tuple[str, ...], ...]) -> list[str] | None:
    """Return what is to be installed, with its options, if the words begin like an install command of these tools."""
    for tool in tools:
        after = words[len(tool) :]
        if tuple(words[: len(tool)]) == tool and after[:1] and after[0] in {"install", "add"}:
            return after[1:]
    return None


def add_pypi(line: Line, words: list[str], declared: Declared, python: str) -> None:
    """Understand the arguments of `pip install`."""
    for word in words:
        if word in HARMLESS:
            continue
        if word.startswith("-"):
            raise refused(line, f"the option {word[:40]!a} is not allowed", "Name the packages only.")
        declared.add_requirement(parse_requirement(word), "declared", f"the code's own line `{shown(line)}`", python)


def add_conda(line: Line, words: list[str], declared: Declared) -> None:
    """Understand the arguments of `conda install`."""
    rest = iter(words)
    for word in rest:
        option, equals, value = word.partition("=")
        if option in CHANNEL_OPTIONS:
            declared.add_channel(value if equals else next(rest, ""))
        elif word in HARMLESS:
            continue
        elif word.startswith("-"):
            raise refused(line, f"the option {word[:40]!a} is not allowed", "Name packages and channels only.")
        else:
            declared.add_spec(parse_spec(word), "declared", f"the code's own line `{shown(line)}`")


def shown(line: Line) -> str:
    """Return a line as messages show it."""
    text = f"{line.mark}{line.text}"
    return text if len(text) <= 80 else text[:77] + "..."  # noqa: PLR2004 - one line of a terminal


def refused(line: Line, why: str, hint: str = "") -> RequestError:
    """Make the error for a line that is not taken."""
    return RequestError(
        f"Line {line.first + 1}, {shown(line)!a}, cannot be used: {why}.",
        hint=hint or "Use Python, or ask for packages with `%pip install NAME` or `%conda install NAME`.",
        code="bad-notebook-line",
    )
