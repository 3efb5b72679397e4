"""Solves with micromamba. Runs only in the engine's worker (`worker.py` calls it).

Specs are checked and failures are explained with py-rattler's view of the same channels, so that both engines refuse
with the same codes. micromamba adds pip to every python that is named: what nothing asked for is left out again.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import rattler

from ..errors import CondaRunError, InstallError
from ..models import LockedPackage
from . import solving
from .access import split_credentials
from .faults import explain_os_error
from .micromamba_calls import Micromamba, Said
from .micromamba_faults import explain_channel, explain_spec, is_bad_spec, lacks_subdir, says_why
from .micromamba_targets import machine, pretend_installed
from .records import as_json, from_json, to_record, topological
from .redact import redact

log = logging.getLogger(__name__)

COMMON = ("-y", "--json", "--no-rc", "--override-channels", "--log-level", "error")
READABLE = ("https://", "http://", "file://")
NAME_OF_SPEC = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


async def solve(request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Answer a solve request: the packages in topological order, as JSON."""
    for text in request["specs"]:
        refuse_option(text)
    specs = [solving.parse_spec(text) for text in request["specs"]]
    channels = solving.Channels(request)
    pinned = [from_json(package) for package in request["pinned"]]
    if reason := await better_embedded(request, channels, pinned):
        log.info("The embedded solver answers, because %s", reason)
        return await solving.solve(request)
    asked = Asked(request, channels, specs)
    micromamba = Micromamba(request)
    wanted = {spec.name.normalized for spec in specs if spec.name is not None}
    with micromamba.workspace() as work:
        if request.get("preferred"):
            return await keeping(asked, micromamba, work, wanted)
        said = await micromamba.call(work, *asked.arguments(work, pinned), variables=asked.machine)
        if not is_solution(said):
            if request["offline"] or lacks_subdir(said):
                # Its cache may know less than the one that planning uses; and it wants every subdir of every channel.
                return await solving.solve(request)
            raise await asked.explain(micromamba, work, said, pinned)
    kept = {package.sha256: package for package in pinned if package.sha256}
    packages = needed([asked.package(row) for row in said.linked()], wanted)
    return [as_json(kept.get(package.sha256, package)) for package in in_order(packages)]


async def keeping(asked: Asked, micromamba: Micromamba, work: Path, wanted: Iterable[str]) -> list[dict[str, Any]]:
    """Solve beside packages that stay as they are unless something needs others.

    What micromamba cannot do, or does by halves, the embedded solver does, which also says why where nobody can.
    """
    preferred = [from_json(package) for package in asked.request["preferred"]]
    there = {package.name: package for package in preferred if package.manager == "conda"}
    prefix = work / "there"
    try:
        pretend_installed(prefix, there.values())
    except OSError as error:
        raise explain_os_error(error, prefix) from error
    said = await micromamba.call(work, *asked.arguments(work, (), beside=prefix), variables=asked.machine)
    gone = {str(row.get("name")) for row in said.unlinked()}
    new = {package.name: package for package in map(asked.package, said.linked())} if said.claims_success else {}
    packages = needed({**{name: there[name] for name in there if name not in gone}, **new}.values(), wanted)
    if said.claims_success and is_closed(packages, wanted):
        return [as_json(package) for package in in_order(packages)]
    log.info("The embedded solver answers, because micromamba said: %s", said.tree() or said.complaints() or said)
    return await solving.solve(asked.request)


class Asked:
    """One question to micromamba's solver."""

    def __init__(
        self, request: Mapping[str, Any], channels: solving.Channels, specs: Sequence[rattler.MatchSpec]
    ) -> None:
        self.request = request
        self.channels = channels
        self.specs = specs
        self.machine = machine(request)

    def arguments(self, work: Path, pinned: Sequence[LockedPackage], beside: Path | None = None) -> list[str]:
        """Return the command line, for a new prefix or one that is there; no credentials: everybody can read it."""
        priority = "--no-channel-priority" if self.request.get("flexible") else "--strict-channel-priority"
        command = ["install", "--no-py-pin", "--allow-downgrade"] if beside else ["create"]
        arguments = [*command, *COMMON, priority, "--dry-run", "-p", str(beside or work / "prefix")]
        if self.request["offline"]:
            arguments.append("--offline")
        for source in self.channels.sources:
            arguments += ["-c", source.base_url.rstrip("/")]
        return [*arguments, *self.request["specs"], *(exact(package) for package in pinned)]

    def package(self, row: Mapping[str, Any]) -> LockedPackage:
        """Return a package of micromamba's answer.

        Raises:
            InstallError: the row lacks what a package needs.
        """
        try:
            url, _ = split_credentials(str(row["url"]))
            base = url.rsplit("/", 2)[0]
            return LockedPackage(
                name=str(row["name"]),
                version=str(row["version"]),
                build=str(row.get("build_string") or row.get("build") or ""),
                build_number=int(row.get("build_number") or 0),
                subdir=str(row["subdir"]),
                channel=redact(self.channels.given.get(base, base)),
                url=url,
                sha256=str(row.get("sha256") or ""),
                md5=str(row.get("md5") or ""),
                size_bytes=int(row.get("size") or 0),
                depends=tuple(map(str, row.get("depends") or ())),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InstallError(f"micromamba's solution cannot be read: {error!r}.", code="engine-crashed") from error

    async def explain(
        self, micromamba: Micromamba, work: Path, said: Said, pinned: Sequence[LockedPackage]
    ) -> CondaRunError:
        """Say why there is no solution; a name that no channel has is the plainer reason."""
        if "solver_problems" not in (said.document or {}) and not said.tree():
            if is_bad_spec(said):
                return explain_spec(said)
            if not says_why(said):
                names = sorted({spec.name.normalized for spec in self.specs if spec.name is not None})
                for source in self.channels.sources:
                    await self.channels.records(source, names)
            return explain_channel(said, self.channels.names, self.channels.repodata)
        await solving.refuse_unknown_names(self.channels, self.specs)
        moved: list[str] = []
        if pinned:
            freed = await micromamba.call(work, *self.arguments(work, ()), variables=self.machine)
            now = {str(row.get("name")): str(row.get("version")) for row in freed.linked()}
            moved = [
                f"{pin.name} {pin.version} (it would have to be {now[pin.name]})"
                for pin in pinned
                if now.get(pin.name, pin.version) != pin.version
            ]
        return solving.unsatisfiable(said.tree(), moved)


def refuse_option(text: str) -> None:
    """Refuse a spec that a command line would take for something else.

    Raises:
        InstallError: it begins with a dash.
    """
    if text.startswith("-"):
        raise InstallError(f"{text!r} is not a package spec.", hint="Write `name` or `name>=1.2`.", code="bad-spec")


def is_solution(said: Said) -> bool:
    """Say whether the answer is one."""
    return said.claims_success and bool(said.linked())


async def better_embedded(
    request: Mapping[str, Any], channels: solving.Channels, pinned: Sequence[LockedPackage]
) -> str:
    """Say why micromamba cannot be asked this; nothing if it can."""
    if request["exclude_newer"]:
        return "micromamba cannot leave out newer packages"
    if strange := [url for source in channels.sources if not (url := source.base_url).startswith(READABLE)]:
        return f"micromamba cannot read {redact(strange[0])}"
    wanted = {package.sha256 for package in pinned}
    if pinned and not request["offline"]:
        have: set[str] = set()
        names = sorted({package.name for package in pinned})
        for source in channels.sources:
            for records in (await channels.records(source, names)).values():
                have |= {record.sha256.hex() for record in records if record.sha256}
        if gone := wanted - have:
            return f"the channels no longer have {len(gone)} of the pinned packages"
    return ""


def exact(package: LockedPackage) -> str:
    """Return the spec that only this package satisfies."""
    return f"{package.name} =={package.version} {package.build}".rstrip()


def needed(packages: Iterable[LockedPackage], wanted: Iterable[str]) -> list[LockedPackage]:
    """Return the packages that are wanted, and what they need.

    A python does not need pip, although micromamba says so: it is its habit, not the package's metadata.
    """
    by_name = {package.name: package for package in packages}
    found: dict[str, LockedPackage] = {}
    waiting = [name for name in wanted if name in by_name]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found[name] = by_name[name]
        names = (first[0].lower() for spec in by_name[name].depends if (first := NAME_OF_SPEC.match(spec)))
        waiting += [other for other in names if other in by_name and not (name == "python" and other == "pip")]
    return list(found.values())


def is_closed(packages: Sequence[LockedPackage], wanted: Iterable[str]) -> bool:
    """Say whether all that is wanted is there, with all that it needs."""
    names = {package.name for package in packages}
    needs = {first[0].lower() for p in packages for spec in p.depends if (first := NAME_OF_SPEC.match(spec))}
    return names.issuperset(wanted) and names.issuperset(need for need in needs if not need.startswith("__"))


def in_order(packages: Sequence[LockedPackage]) -> list[LockedPackage]:
    """Return the packages with dependencies first, as the embedded engine does."""
    by_url = {package.url: package for package in packages}
    return [by_url[record.url] for record in topological(to_record(package) for package in packages)]
