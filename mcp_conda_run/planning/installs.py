"""Installs that the code does itself, by starting pip or conda from Python, as `subprocess.run([..., "pip", ...])`.

Called by the planner for code without a metadata block. What such a call names in so many words is asked for like an
install line, so that it is there before the code runs, from the channel where it can be; the call itself stays in the
code, and finds its work done. Runs nothing, and refuses nothing: a call that says more is the code's own affair.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from contextlib import suppress

from ..errors import RequestError
from ..models import PlannedPackage
from .conditions import name_of
from .inline import Declared
from .magics import CONDA_TOOLS, PYPI_TOOLS, PYTHONS, Line, add_conda, add_pypi, shown, strip_tool
from .marks import Marks

INSTALL = re.compile(r"\binstall\b")
STARTERS = frozenset(
    {
        "run", "call", "check_call", "check_output", "Popen", "getoutput", "getstatusoutput", "system", "popen",
        "create_subprocess_exec", "create_subprocess_shell", "run_line_magic", "magic",
    }
)  # fmt: skip
"""The functions of subprocess, os, asyncio and IPython that start a command; told apart by their last name only."""
PIP_MAIN = re.compile(r"pip(?:\.\w+)*\.main|pip_?main")
MAIN_OF_PIP = re.compile(r"^[ \t]*from[ \t]+pip\b[\w.]*[ \t]+import[ \t].*\bmain\b", re.MULTILINE)
NEXT_COMMAND = re.compile(r"&&|\|\||;")
MAX_CALLS = 200
MAX_COMMAND = 4000


def add_installs(code: str, tree: ast.Module, declared: Declared, python: str) -> None:
    """Add to `declared` what the calls of a piece of code install, and the installer that they start."""
    marks = Marks(code, INSTALL)
    if not marks:
        return
    main_is_pips = MAIN_OF_PIP.search(code) is not None
    calls = (node for node in marks.walk(tree) if isinstance(node, ast.Call))
    commands = ((call.lineno, words) for call in calls for words in commands_of(call, main_is_pips=main_is_pips))
    with suppress(RecursionError):  # expressions may nest deeper than Python recurses
        for _, (line, words) in zip(range(MAX_CALLS), commands, strict=False):
            add_command(Line(line - 1, line - 1, "", "", " ".join(words)), words, declared, python)


def add_command(line: Line, words: list[str], declared: Declared, python: str) -> None:
    """Add what one command installs, if it is one that does."""
    for_pypi, for_conda = strip_tool(words, PYPI_TOOLS), strip_tool(words, CONDA_TOOLS)
    try:
        if for_pypi is not None:
            installer = "uv" if words[0] == "uv" else "pip"
            reason = f"the code itself starts {installer}"
            declared.packages.append(PlannedPackage(installer, installer, "conda", "", "hint", reason, 0.9))
            add_pypi(line, for_pypi, declared, python)
        elif for_conda is not None:
            add_conda(line, for_conda, declared)
    except RequestError as error:
        declared.notes.append(f"`{shown(line)}` is left to the code: {error.message}")


def commands_of(call: ast.Call, *, main_is_pips: bool) -> Iterator[list[str]]:
    """Yield the commands that a call starts, as words, as far as the code says them literally."""
    name = dotted(call.func)
    if PIP_MAIN.fullmatch(name) or (main_is_pips and name == "main"):
        words = literal_words(call.args[0]) if call.args else None
        yield from [["pip", *words]] if words else []
    elif name_of(call.func) in STARTERS and call.args:
        texts = [literal_text(argument) for argument in call.args]
        several = name_of(call.func) in {"create_subprocess_exec", "run_line_magic"} and len(texts) > 1
        if several and all(text is not None for text in texts):
            yield from split_commands(" ".join(text or "" for text in texts))
        elif texts[0] is not None:
            yield from split_commands(texts[0].lstrip("%!"))
        elif words := literal_words(call.args[0]):
            yield normal_words(words)


def split_commands(text: str) -> Iterator[list[str]]:
    """Split a shell's text into commands, and these into words; nothing of it where it is no plain command line."""
    if len(text) > MAX_COMMAND:
        return
    for part in NEXT_COMMAND.split(text):
        try:
            words = shlex.split(part, comments=True)
        except ValueError:
            return
        if words:
            yield normal_words(words)


def normal_words(words: list[str]) -> list[str]:
    """Return a command without what stands before the installer's name, and with one name for every Python."""
    words = words[1:] if words[0] == "sudo" else words
    if words and PYTHONS.fullmatch(words[0]):
        words = ["python", *words[1:]]
    return words


def literal_words(node: ast.expr) -> list[str] | None:
    """Return the words of a list or tuple of constant strings, or of a constant string that is split; else None."""
    match node:
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            texts = [literal_text(part) for part in parts]
            words = [text for text in texts if text is not None]
            return words if len(words) == len(texts) else None
        case ast.Call(func=ast.Attribute(value=ast.Constant(value=str() as text), attr="split"), args=[]):
            return text.split()
        case ast.Call(func=function, args=[ast.Constant(value=str() as text)]) if name_of(function) == "split":
            return text.split()
    return None


def literal_text(node: ast.expr) -> str | None:
    """Return a constant string, with `python` in the place of `sys.executable`; None for anything else."""
    match node:
        case ast.Constant(value=str() as text):
            return text
        case ast.Attribute(value=ast.Name(id="sys"), attr="executable") | ast.Name(id="executable"):
            return "python"
        case ast.FormattedValue(value=inner):
            return literal_text(inner)
        case ast.JoinedStr(values=parts):
            return joined_text(parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return joined_text([left, right])
    return None


def joined_text(parts: list[ast.expr]) -> str | None:
    """Return the texts of several nodes as one; None if any of them is not literal."""
    texts = [literal_text(part) for part in parts]
    return None if None in texts else "".join(text or "" for text in texts)


def dotted(node: ast.expr) -> str:
    """Return a name with its dots, such as `pip._internal.main`; empty for anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""
