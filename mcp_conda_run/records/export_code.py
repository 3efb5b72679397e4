"""A recorded run as something to run elsewhere: a script that says what it needs, or a Dockerfile.

Called by `commands/export.py`. Pure. Needs the code itself on record.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace

from ..errors import RequestError
from ..models import Json, LockedPackage
from ..planning.inline import Declared
from ..planning.magics import take_out_magics
from ..planning.specs import CHANNEL
from .export import ENVIRONMENTS, Exported, as_explicit, channels_of, conda_packages, local_notes, toml, wheels_of
from .record import RunRecord, beside_packages

METADATA = re.compile(r"^# ///.*$", re.MULTILINE)
NAME = re.compile(r"(?:[^:\s]+::)?([A-Za-z0-9_.-]+)")
PLAIN = re.compile(r"[A-Za-z0-9_.+!=-]*")
ADDRESS = re.compile(r"(https?|file|s3|oci)://[^\s#'\"\\]+")
DIGESTS = re.compile(r"[0-9a-f]{64}-([0-9a-f]{32})?")
MICROMAMBA = "2.8.1"
"""The tag of the image that a Dockerfile begins with; its build argument changes it."""


def export(record: RunRecord, form: str) -> Exported:
    """Return a run in one of the formats.

    Raises:
        RequestError: there is no such format, or the record lacks what it needs.
    """
    makers = {**ENVIRONMENTS, "script": as_script, "dockerfile": as_dockerfile}
    if form not in makers:
        raise RequestError(
            f"There is no format {form!r}.", hint=f"Choose one of {', '.join(sorted(makers))}.", code="unknown-format"
        )
    if form != "record" and not record.packages:
        raise RequestError(
            f"The packages of the run {record.run_id} are not on record.",
            hint="It never had an environment, or that was deleted too soon.",
            code="not-replayable",
        )
    for package in record.packages:
        check_package(package)
    made = makers[form](record)
    missing = beside_packages(record) if form != "record" else ""
    return replace(made, notes=(*made.notes, missing)) if missing else made


def check_package(package: LockedPackage) -> None:
    """Refuse a package whose parts could mean something else in another tool's file.

    Raises:
        RequestError: it has such a part.
    """
    words = (package.name, package.version, package.build)
    plain = all(PLAIN.fullmatch(word) for word in words) and ADDRESS.fullmatch(package.url)
    if not plain or not DIGESTS.fullmatch(f"{package.sha256}-{package.md5}"):
        raise RequestError(
            f"The record has a package that cannot be exported: {package.name[:80]!a}.", code="bad-record"
        )


def as_script(record: RunRecord) -> Exported:
    """Return the code with what it asked for as inline metadata: PEP 723 with pixi's tables, and a conda-script block.

    Direct dependencies only, by version: what they need is solved anew, so that the script runs on any platform.
    """
    code = plain_code(record)
    begin, rest = split_shebang(METADATA.sub(lambda match: f"#{match[0]}", code))
    parts = [begin, *comment_lines(record), *metadata(record), "", variables_code(record.given.variables, rest)]
    text = "\n".join([part for part in parts if part is not None] + [rest])
    unnamed = [channel for channel in channels_of(record) if not CHANNEL.fullmatch(channel)]
    notes = [
        f"The channel {channel} is not in the metadata, which names channels only; configure it." for channel in unnamed
    ]
    if not compiles(text):
        notes.append("The code uses what only mcp-conda-run allows, such as await at the top level.")
    return Exported(text if text.endswith("\n") else f"{text}\n", tuple(notes))


def as_dockerfile(record: RunRecord) -> Exported:
    """Return a Dockerfile that installs the exact packages from an explicit list and runs the code."""
    explicit = as_explicit(record)
    code = f"{variables_code(record.given.variables, '') or ''}{plain_code(record)}".rstrip("\n")
    command = ["python", "/opt/run/main.py", *(record.given.args or ())]
    wheels = wheels_of(record)
    lines = [
        "# syntax=docker/dockerfile:1",
        *comment_lines(record),
        f"ARG MICROMAMBA={MICROMAMBA}",
        "FROM mambaorg/micromamba:${MICROMAMBA}",
        *here_document(explicit.text.rstrip("\n"), "/tmp/explicit.txt"),  # noqa: S108 - in the image
        "RUN micromamba install --yes --name base --file /tmp/explicit.txt && micromamba clean --all --yes",
        "ARG MAMBA_DOCKERFILE_ACTIVATE=1",
    ]
    if wheels:
        pins = "\n".join(f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}" for wheel in wheels)
        pip = "" if any(p.name == "pip" for p in conda_packages(record)) else "python -m ensurepip && "
        lines += here_document(pins, "/tmp/requirements.txt")  # noqa: S108 - in the image
        install = "python -m pip install --no-cache-dir --no-deps --require-hashes -r /tmp/requirements.txt"
        lines.append(f"RUN {pip}{install}")
    lines += [*here_document(code, "/opt/run/main.py"), "WORKDIR /working", f"CMD {json.dumps(command)}"]
    return Exported("\n".join(lines) + "\n", local_notes(record))


# --- parts ------------------------------------------------------------------------------------------------------------


def plain_code(record: RunRecord) -> str:
    """Return the code as plain Python: install lines are taken out, their packages are in the metadata.

    Raises:
        RequestError: only its hash is on record.
    """
    if record.code.text is None:
        raise RequestError(
            f"The record of {record.run_id} has only the hash of its code.",
            hint="The setting `records_code` keeps the code itself; the other formats do without it.",
            code="no-code",
        )
    code = record.code.text
    return (
        code
        if compiles(code, ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        else take_out_magics(code, Declared(), record.place.python or "3.12")
    )


def compiles(code: str, flags: int = 0) -> bool:
    """Say whether this is plain Python, or Python with what the flags allow."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of escapes in its strings and the like
            compile(code, "main.py", "exec", flags=flags, dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def split_shebang(code: str) -> tuple[str | None, str]:
    """Return the first line if it must stay the first, and the rest."""
    first, _, rest = code.partition("\n")
    return (first, rest) if first.startswith("#!") else (None, code)


def comment_lines(record: RunRecord) -> list[str]:
    """Return what a reader should know of where it comes from."""
    made = f"{record.at:%Y-%m-%d} on {record.place.platform} with Python {record.place.python}"
    lines = [f"# Run {record.run_id} of mcp-conda-run, {made}."]
    if record.given.args:
        lines.append(f"# Its arguments were: {shlex.join(record.given.args)!a}")
    if record.given.withheld:
        lines.append(f"# It was given these variables, which are not on record: {', '.join(record.given.withheld)}")
    return lines


def metadata(record: RunRecord) -> Iterator[str]:
    """Yield both metadata blocks."""
    channels = [channel for channel in channels_of(record) if CHANNEL.fullmatch(channel)]
    pins = list(direct_pins(record))
    wheels = [f"{wheel.name}=={wheel.version}" for wheel in wheels_of(record)]
    minor = ".".join(record.place.python.split(".")[:2])
    listed = [f"channels = {toml(channels)}"] if channels else []
    blocks = {
        ("# /// script", "# ///"): [
            f"requires-python = {toml(f'=={minor}.*')}",
            f"dependencies = {toml(wheels)}",
            "",
            "[tool.pixi.workspace]",
            *listed,
            f"platforms = {toml([record.place.platform])}",
            "",
            "[tool.pixi.dependencies]",
            *pins,
        ],
        ("# /// conda-script", "# /// end-conda-script"): [
            *listed,
            f"entrypoint = {toml('python ${SCRIPT}')}",
            "",
            "[dependencies]",
            *pins,
        ],
    }
    for (begin, end), lines in blocks.items():
        yield begin
        yield from (f"# {line}".rstrip() for line in lines)
        yield end


def direct_pins(record: RunRecord) -> Iterator[str]:
    """Yield python and what the template and the plan name, each with its version."""
    named = {match[1].lower() for spec in record.place.specs if (match := NAME.match(spec))}
    named |= {package.name for package in record.plan if package.manager == "conda"} | {"python"}
    for package in conda_packages(record):
        if package.name in named:
            yield f'"{package.name}" = {toml(f"=={package.version}")}'


def variables_code(variables: Mapping[str, Json], code: str) -> str | None:
    """Return code that sets the global variables that the run was given; None if there were none."""
    lines = [f"{name} = {value!r}" for name, value in variables.items() if name.isidentifier()]
    if not lines:
        return None
    future = "# (after the imports from __future__, if these stand below)\n" if "__future__" in code else ""
    return f"{future}{chr(10).join(lines)}\n"


def here_document(text: str, target: str) -> list[str]:
    """Return a COPY of text into an image; its end is a word that the text does not have."""
    word = "EOF"
    while word in text.split("\n"):
        word += "_"
    return [f"COPY <<'{word}' {target}", text, word]
