"""Has a recorded run again: the same code in an environment of the very same packages, on this machine or another.

Called by `commands/replay.py`. Nothing is solved or planned: what is installed are the archives that the record names,
each verified. Says what is different here, and whether the same came out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import __version__
from ..conda.engine import current_platform
from ..environments.templates import Template
from ..errors import RequestError
from ..models import Json, Mount, Plan, Progress, ProgressCallback, RunRequest, RunResult, no_progress
from ..runtime import Runtime
from ..settings import Settings
from ..source import Source
from .inputs import InputDigests
from .record import Given, RunRecord, beside_packages, text_digest, value_digest

SHOWN = 5
"""How many files of a kind are named; the rest are counted."""
ANY_TIME = 2**63
"""Nanoseconds since 1970 that no file has reached: files are compared whenever they were made."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """How a replay came out.

    Attributes:
        result: the new run's.
        differences: what was not as it was, a sentence each.
        same: whether status and value are the recorded ones.
        same_output: whether it printed the same.
    """

    result: RunResult
    differences: tuple[str, ...]
    same: bool
    same_output: bool


async def replay(
    record: RunRecord,
    settings: Settings,
    *,
    code: str | None = None,
    variables: Mapping[str, Json] | None = None,
    progress: ProgressCallback = no_progress,
) -> Replayed:
    """Run it again.

    Args:
        record: the run.
        settings: of this machine: where the cache and the mounts are, how runs are confined.
        code: the code, if the record has only its digest.
        variables: global variables that the record withholds.
        progress: told what is going on.

    Raises:
        RequestError: the record has no environment, or lacks the code or a variable that is not given.
        InstallError: a package cannot be had any more.
        HostError: this machine cannot do it.
    """
    check_platform(record)
    text = source_text(record, code)
    given = all_variables(record.given, variables or {})
    limits, lowered = allowed_limits(record.place.limits, settings)
    async with Runtime(settings) as runtime:
        source = replayed_source(record, text, runtime.mounts)
        progress(Progress("environment", "making the recorded environment"))
        template = Template(record.place.template or "recorded", Path(), record.place.channels, record.place.specs)
        provided = await runtime.provisioner.exactly(template, record.packages, progress)
        request = RunRequest(
            code=text,
            args=record.given.args or (),
            global_variables=given,
            timeout_s=limits.pop("timeout_s", None),
            network=record.place.network or None,
            limits=limits,
        )
        differences = [*lowered, *other_place(record, runtime), *other_inputs(record, runtime.mounts)]
        result = await runtime.run_again(request, source, Plan(packages=record.plan), provided, progress)
    return compare(record, result, differences)


def compare(record: RunRecord, result: RunResult, differences: Sequence[str]) -> Replayed:
    """Say whether the same came out."""
    outcome = record.outcome
    found = list(differences)
    isolation = result.isolation
    if isolation is not None and record.place.tier and isolation.tier != record.place.tier:
        found.append(f"The isolation was tier {record.place.tier} and is tier {isolation.tier}.")
    if isolation is not None and record.place.network and isolation.network != record.place.network:
        found.append(f"The network was {record.place.network} and is {isolation.network}.")
    if str(result.status) != outcome.status:
        found.append(f"The status was {outcome.status} and is {result.status}.")
    return Replayed(
        result=result,
        differences=tuple(found),
        same=str(result.status) == outcome.status and value_digest(result.value) == outcome.value,
        same_output=text_digest(result.output) == outcome.output,
    )


def check_platform(record: RunRecord) -> None:
    """Refuse what cannot be replayed here.

    Raises:
        RequestError: its packages are not known, or are for another platform.
    """
    if not record.packages:
        raise RequestError(
            f"The run {record.run_id} cannot be replayed: its packages are not on record.",
            hint="It never had an environment (its packages could not be installed), or that was deleted too soon.",
            code="not-replayable",
        )
    here = current_platform()
    if record.place.platform != here and any(p.subdir not in {"noarch", here, ""} for p in record.packages):
        raise RequestError(
            f"The run {record.run_id} was on {record.place.platform}, whose packages do not run on {here}.",
            hint="`mcp-conda-run export RUN_ID --format script` gives a script that is solved anew on any platform.",
            code="other-platform",
        )


def source_text(record: RunRecord, code: str | None) -> str:
    """Return the code: the recorded one, or the given one if it is that.

    Raises:
        RequestError: there is none, or it is another one.
    """
    if code is None and record.code.text is None:
        raise RequestError(
            f"The record of {record.run_id} has only the hash of its code.",
            hint="Give the code with --code-file FILE. The setting `records_code` keeps the code itself.",
            code="no-code",
        )
    if code is not None and text_digest(code) != record.code.sha256:
        raise RequestError(
            f"This is not the code of the run {record.run_id}: its sha256 is {text_digest(code)[:12]}..., "
            f"that of the run's {record.code.sha256[:12]}...",
            code="other-code",
        )
    return code if code is not None else record.code.text or ""


def all_variables(given: Given, added: Mapping[str, Json]) -> dict[str, Json]:
    """Return the global variables, those that were withheld from `added`.

    Raises:
        RequestError: one is missing, or the arguments were not kept.
    """
    missing = [name for name in given.withheld if name not in added]
    if missing:
        raise RequestError(
            f"The values of these global variables are not on record: {', '.join(missing)}.",
            hint="Give them with --global NAME=JSON; values that are long or seem secret are not kept.",
            code="no-value",
        )
    if given.args is None:
        raise RequestError("The arguments of the run are not on record.", code="no-value")
    return {**given.variables, **{name: added[name] for name in given.withheld}}


def replayed_source(record: RunRecord, text: str, mounts: Sequence[Mount]) -> Source:
    """Return the source as it was: under its file's name, if it came from a file below a mount that is here too."""
    parts = record.code.relative.split("/")
    if not record.code.mount or any(part in {"", ".", ".."} for part in parts) or "\0" in record.code.relative:
        return Source(text)
    mount = next((mount for mount in mounts if mount.target == record.code.mount), None)
    return Source(text) if mount is None else Source(text, mount, record.code.relative)


def allowed_limits(recorded: Mapping[str, float], settings: Settings) -> tuple[dict[str, float], list[str]]:
    """Return the recorded bounds as far as this machine's settings allow them, and what that changes."""
    limits: dict[str, float] = {}
    lowered = []
    for name, was in recorded.items():
        if not hasattr(settings, name):
            continue
        own = float(getattr(settings, name))
        most = settings.max_timeout_s if name == "timeout_s" else max(own, settings.max_limits.get(name, 0))  # type: ignore[call-overload]
        unbounded = name == "cpu_s" and own == 0
        limits[name] = was if unbounded or 0 < was <= most else most
        if limits[name] != was:
            lowered.append(f"The limit {name} was {was:g} and is {limits[name]:g}.")
    return {name: value for name, value in limits.items() if value}, lowered


def other_place(record: RunRecord, runtime: Runtime) -> Iterator[str]:
    """Yield what is different about the place."""
    place, settings = record.place, runtime.settings
    if place.version and place.version != __version__:
        yield f"It ran with mcp-conda-run {place.version}; this is {__version__}."
    if place.engine and place.engine != runtime.engine.name:
        yield f"Its packages were installed by {place.engine}, here by {runtime.engine.name}."
    if missing := beside_packages(record):
        yield missing
    for name, was in place.settings.items():
        now = getattr(settings, name, None)
        if name == "mount" and now != was:
            yield f"The working directory was {was} and is {now}."


def other_inputs(record: RunRecord, mounts: Sequence[Mount]) -> Iterator[str]:
    """Yield which files that the run could read are missing here, or are others."""
    was = {file.path: file.sha256 for file in record.inputs.files}
    if not was:
        return
    mentioned = "\n".join(path.rpartition("/")[2] for path in was)
    now = {file.path: file.sha256 for file in InputDigests().of(mounts, ANY_TIME, mentioned).files}
    missing = sorted(path for path in was if path not in now)
    changed = sorted(path for path, digest in was.items() if now.get(path, digest) != digest)
    if missing:
        before = f" It ran with --path {record.place.path}." if record.place.path else ""
        yield f"Not there, or not readable: {shortened(missing)}. Give the directory with --path.{before}"
    if changed:
        yield f"Not the same as then: {shortened(changed)}."
    if not record.inputs.complete:
        yield "There were more files than the record has digests of; those are not compared."


def shortened(paths: Sequence[str]) -> str:
    """Name the first few."""
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return ", ".join(paths[:SHOWN]) + more
