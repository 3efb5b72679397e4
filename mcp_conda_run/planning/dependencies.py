"""What packages of PyPI need in turn, from the channels where these have it: so PyPI serves only what conda lacks.

Called by `planner.py` with the wheels that a plan's packages of PyPI come to. Names only; whether conda's versions fit
is seen when the environment is made, and where they do not, the plan holds without these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from packaging.utils import canonicalize_name
from packaging.version import Version

from ..models import LockedPackage, PackageFacts, Plan, PlannedPackage
from .decisions import Planning
from .policy import Answer
from .resolver import choose


async def with_dependencies(planning: Planning, plan: Plan, wheels: Sequence[LockedPackage]) -> Plan:
    """Return a plan with what its packages of PyPI need from the channels; its solution has the wheels that are left.

    Raises:
        InstallError: the channels cannot be asked.
    """
    asked = {str(canonicalize_name(package.name)) for package in plan.packages if package.manager == "pypi"}
    proposals = {wheel: tuple(planning.resolver.conda_names(wheel.name)) for wheel in wheels if wheel.name not in asked}
    await planning.ask(proposal for found in proposals.values() for proposal in found)
    chosen = {wheel: choose(found, planning.facts) for wheel, found in proposals.items()}
    packages = list(plan.packages)
    served = set()
    for wheel, found in chosen.items():
        package = dependency(planning, wheel, found[1], sorted(asked)) if found else None
        if package is not None and planning.judge(package).answer is not Answer.NO:
            if not any((have.manager, have.name) == ("conda", package.name) for have in packages):
                packages.append(package)
            served.add(wheel)
    left = tuple(wheel for wheel in wheels if wheel not in served)
    return replace(plan, packages=tuple(packages), solution=left)


def dependency(
    planning: Planning, wheel: LockedPackage, fact: PackageFacts, needed_by: Sequence[str]
) -> PlannedPackage:
    """Return a channel's package in place of a wheel: no newer than that, which may be the newest that is allowed."""
    reason = f"{wheel.name} is needed by {', '.join(needed_by)} of PyPI, and the channel has it"
    package = planning.finished(PlannedPackage(fact.name, fact.name, "conda", "", "dependency", reason, 0.9))
    bound = f"<={Version(wheel.version).public}"
    name, _, build = package.spec.partition(" * ")
    return replace(package, spec=f"{name} {bound} {build}".rstrip(), fallback=name)
