"""Solves and looks into channels with py-rattler. Runs only in the engine's worker (`worker.py` calls it)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Any

import rattler
from rattler.exceptions import (
    GatewayError,
    InvalidChannelError,
    InvalidMatchSpecError,
    ParseSubdirError,
    SolverError,
)

from ..errors import CondaRunError, InstallError
from ..models import LockedPackage, PackageFacts
from .engine import current_platform
from .faults import explain_channel, explain_os_error
from .records import as_json, from_json, from_record, has_lost_port, to_record, topological
from .redact import redact
from .web import make_client

FOREIGN_VIRTUAL_PACKAGES: Mapping[str, Mapping[str, str]] = {
    "linux": {"__unix": "0", "__linux": "5.10", "__glibc": "2.28"},
    "osx": {"__unix": "0", "__osx": "11.0"},
    "win": {"__win": "0"},
}
"""What is assumed of a machine that is not this one: conda-lock's defaults, without CUDA."""

PYTHON = re.compile(r"python(_abi)?(?![a-z0-9_.-])", re.IGNORECASE)


class Channels:
    """The channels of one request, for one platform, with strict priority unless the request says otherwise."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        urls: Mapping[str, list[str]] = request.get("channel_urls") or {}
        places = [(name, url) for name in request["channels"] for url in urls.get(name, [name])]
        self.names = [name for name, _ in places]
        self.priority = rattler.ChannelPriority.Disabled if request.get("flexible") else rattler.ChannelPriority.Strict
        check_platform(request["platform"])
        self.platforms = [request["platform"], "noarch"]
        self.offline: bool = request["offline"]
        self.repodata = Path(request["repodata"])
        try:
            self.repodata.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise explain_os_error(error, self.repodata) from error
        if not self.names:
            raise InstallError("No channel is configured.", hint="Name one, such as conda-forge.", code="bad-channel")
        if lost := [url for _, url in places if has_lost_port(url)]:
            raise InstallError(
                f"The channel at {redact(lost[0])} cannot be used: OCI registries are asked at port 443 only.",
                hint="Let the registry answer at port 443, or serve the channel over https.",
                code="bad-channel",
            )
        try:
            self.sources = [rattler.Channel(url) for _, url in places]
        except InvalidChannelError as error:
            raise self.explain(error) from error
        self.given = {s.base_url.rstrip("/"): n for s, n in zip(self.sources, self.names, strict=True)}
        self.gateway = rattler.Gateway(
            cache_dir=self.repodata,
            client=make_client(offline=self.offline),
            default_config=rattler.SourceConfig(cache_action="force-cache-only" if self.offline else "cache-or-fetch"),
        )

    def explain(self, error: Exception) -> CondaRunError:
        """Say why the channels could not be read."""
        return explain_channel(str(error), self.names, self.repodata, self.offline)

    async def records(self, source: rattler.Channel, names: Sequence[str]) -> dict[str, list[rattler.RepoDataRecord]]:
        """Return all records that one channel has under these names."""
        try:
            answer = await self.gateway.query([source], self.platforms, list(names), recursive=False)
        except GatewayError as error:
            raise self.explain(error) from error
        found: dict[str, list[rattler.RepoDataRecord]] = {}
        for record in (record for group in answer for record in group):
            found.setdefault(record.name.normalized, []).append(record)
        return found

    async def all_names(self) -> set[str]:
        """Return every package name of the channels."""
        try:
            return {name.normalized for name in await self.gateway.names(self.sources, self.platforms)}
        except GatewayError as error:
            raise self.explain(error) from error


def check_platform(name: str) -> None:
    """Refuse what is no platform of conda's.

    Raises:
        InstallError: it is none.
    """
    try:
        rattler.Platform(name)
    except ParseSubdirError:
        raise InstallError(
            f"conda knows no platform {name!r}.", hint="Write it as linux-64 or osx-arm64.", code="unknown-platform"
        ) from None


async def solve(request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Answer a solve request: the packages in topological order, as JSON."""
    specs = [parse_spec(text) for text in request["specs"]]
    cutoff = parse_cutoff(request["exclude_newer"])
    virtual = virtual_packages(request["platform"], request.get("virtual_packages"))
    channels = Channels(request)
    pinned = [from_json(package) for package in request["pinned"]]
    pins = await pinned_records(channels, pinned)
    preferred = await pinned_records(channels, [from_json(package) for package in request.get("preferred", ())])
    try:
        records = await run_solver(channels, specs, virtual, cutoff, pinned=pins, preferred=preferred)
    except SolverError as error:
        await refuse_unknown_names(channels, specs)
        moved = await packages_that_would_move(channels, specs, virtual, cutoff, pins)
        raise unsatisfiable(str(error), moved) from error
    kept = {package.sha256: package for package in pinned if package.sha256}
    answer = [from_record(record, channels.given) for record in topological(records)]
    return [as_json(kept.get(package.sha256, package)) for package in answer]


async def run_solver(
    channels: Channels,
    specs: Sequence[rattler.MatchSpec],
    virtual: Sequence[rattler.GenericVirtualPackage],
    cutoff: datetime | None,
    *,
    pinned: Sequence[rattler.RepoDataRecord] = (),
    preferred: Sequence[rattler.RepoDataRecord] = (),
) -> list[rattler.RepoDataRecord]:
    """Call the solver once."""
    try:
        return await rattler.solve(
            channels.sources,
            list(specs),
            gateway=channels.gateway,
            platforms=channels.platforms,
            virtual_packages=list(virtual),
            channel_priority=channels.priority,
            pinned_packages=list(pinned),
            locked_packages=list(preferred),
            exclude_newer=cutoff,
        )
    except GatewayError as error:
        raise channels.explain(error) from error


async def pinned_records(channels: Channels, pinned: Sequence[LockedPackage]) -> list[rattler.RepoDataRecord]:
    """Return the records of pinned packages: the channel's own where it still has them.

    Rows of a lock know less of a package than the channel (no `constrains`, no build strings in `depends`).
    """
    wanted = {package.sha256: package for package in pinned if package.sha256}
    names = sorted({package.name for package in pinned})
    known: dict[str, rattler.RepoDataRecord] = {}
    for source in channels.sources if names else []:
        for records in (await channels.records(source, names)).values():
            for record in records:
                digest = record.sha256.hex() if record.sha256 else ""
                if digest in wanted:
                    known.setdefault(digest, record)
    return [known.get(package.sha256) or to_record(package) for package in pinned]


def parse_spec(text: str) -> rattler.MatchSpec:
    """Parse a match spec; packages come from the channels by name, never from an address.

    Raises:
        InstallError: it is no such spec.
    """
    hint = "Write `name`, `name=1.2` or `name>=1.2,<2`, as conda does."
    if "://" in text.partition("::")[2 if "::" in text else 0]:
        raise InstallError(f"{redact(text)!r} is an address, not a package.", hint=hint, code="bad-spec")
    try:
        return rattler.MatchSpec(text)
    except InvalidMatchSpecError as error:
        reason = str(error).splitlines()[0]
        raise InstallError(f"{text!r} is not a package spec: {reason}.", hint=hint, code="bad-spec") from error


def parse_cutoff(text: str) -> datetime | None:
    """Parse `exclude_newer` as UTC (py-rattler misreads other zones); a mere date includes that whole day.

    Raises:
        InstallError: it is no ISO 8601 date.
    """
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InstallError(
            f"{text!r} is not a date.", hint="Write it as 2025-12-31 or 2025-12-31T12:00:00Z.", code="bad-date"
        ) from None
    if len(text) <= len("2025-12-31"):
        moment = datetime.combine(moment, time.max)
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def virtual_packages(platform: str, given: Mapping[str, Sequence[str]] | None) -> list[rattler.GenericVirtualPackage]:
    """Return what stands for the machine: what is given, else this machine (CONDA_OVERRIDE_* wins), else defaults."""
    if given is not None:
        return [generic(name, version, build) for name, (version, build) in given.items()]
    if platform == current_platform():
        detected = rattler.VirtualPackage.detect(rattler.VirtualPackageOverrides.from_env())
        return [package.into_generic() for package in detected]
    family = platform.partition("-")[0]
    return [generic(name, version) for name, version in FOREIGN_VIRTUAL_PACKAGES.get(family, {}).items()]


def generic(name: str, version: str, build: str = "0") -> rattler.GenericVirtualPackage:
    """Return one virtual package."""
    return rattler.GenericVirtualPackage(
        rattler.PackageName(name), rattler.Version(version), rattler.BuildString(build)
    )


async def refuse_unknown_names(channels: Channels, specs: Sequence[rattler.MatchSpec]) -> None:
    """Raise the plainer error if a requested name is in no channel at all."""
    names = sorted({spec.name.normalized for spec in specs if spec.name is not None})
    found: set[str] = set()
    for source in channels.sources:
        found.update(await channels.records(source, names))
    absent = [name for name in names if name not in found and not name.startswith("__")]
    if not absent:
        return
    everything = sorted(await channels.all_names())
    similar = {name: difflib.get_close_matches(name, everything, n=3, cutoff=0.75) for name in absent}
    hints = [f"For {name} there is {', '.join(close)}." for name, close in similar.items() if close]
    raise InstallError(
        f"No channel has {', '.join(absent)} for {channels.platforms[0]}; "
        f"looked in {', '.join(map(redact, channels.names))}.",
        hint=" ".join(hints) or "Check the spelling, or add the channel that has it.",
        code="package-not-found",
    )


async def packages_that_would_move(
    channels: Channels,
    specs: Sequence[rattler.MatchSpec],
    virtual: Sequence[rattler.GenericVirtualPackage],
    cutoff: datetime | None,
    pins: Sequence[rattler.RepoDataRecord],
) -> list[str]:
    """Say which pins stand in the way, by solving with them as mere preferences; none if that fails too.

    The solver's own text about a pinned package is thin ("No candidates were found for numpy <2").
    """
    if not pins:
        return []
    try:
        freed = await run_solver(channels, specs, virtual, cutoff, preferred=pins)
    except (SolverError, CondaRunError):
        return []
    now = {record.name.normalized: record for record in freed}
    return [
        f"{pin.name.normalized} {pin.version} (it would have to be {now[pin.name.normalized].version})"
        for pin in pins
        if pin.name.normalized in now and now[pin.name.normalized].sha256 != pin.sha256
    ]


def unsatisfiable(tree: str, moved: Sequence[str]) -> InstallError:
    """Return the error with the solver's own reasons."""
    reasons = redact(tree.removeprefix("Cannot solve the request because of:")).strip()
    if moved:
        return InstallError(
            f"The packages do not go together with what is already there: {', '.join(moved)}.",
            hint="Ask for a version that fits, or use a template with other versions.",
            details=reasons,
            code="unsatisfiable",
        )
    return InstallError(
        "No set of packages satisfies all that was asked for.",
        hint="Loosen a version, or leave out one of the packages that exclude each other.",
        details=reasons,
        code="unsatisfiable",
    )


async def describe(request: Mapping[str, Any]) -> dict[str, Any]:
    """Answer what the channels say of some names: `PackageFacts` by name, as JSON."""
    channels = Channels(request)
    facts: dict[str, Any] = {}
    for source, given in zip(channels.sources, channels.names, strict=True):
        missing = [name for name in request["names"] if name not in facts]
        if missing:
            for name, records in (await channels.records(source, missing)).items():
                facts[name] = asdict(facts_of(name, redact(given), records))
    return facts


def facts_of(name: str, channel: str, records: Sequence[rattler.RepoDataRecord]) -> PackageFacts:
    """Sum up a package by the records of its highest version: old ones may have been something else."""
    latest = max(record.version for record in records)
    newest = [record for record in records if record.version == latest]
    return PackageFacts(name, channel, str(latest), any(is_python(record) for record in newest))


def is_python(record: rattler.RepoDataRecord) -> bool:
    """Say whether a record is of a Python package."""
    return record.noarch.python or any(PYTHON.match(spec) for spec in record.depends)


async def names(request: Mapping[str, Any]) -> list[str]:
    """Answer every package name of the channels."""
    return sorted(await Channels(request).all_names())
