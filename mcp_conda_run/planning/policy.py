"""What may come from where: PyPI or not, which packages, which channels.

Made from the settings once; asked by the planner for every package, and by the installer for its gates. Decides only;
looks nothing up and installs nothing. The reasons and defaults: a name made up by a model is a name that somebody else
can register, so PyPI serves only names that a table or a declaration vouches for, unless the user says more.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name

from ..models import PlannedPackage

if TYPE_CHECKING:
    from ..settings import Settings

VOUCHED = {"override", "declared", "requested"}
"""Decisions that rest on a table of ours or on the words of the code or its user; others rest on foreign maps."""


class Answer(StrEnum):
    """What the policy says of a package."""

    YES = "yes"
    ASK = "ask"
    NO = "no"


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer, and where it is no: why, and what the user can do."""

    answer: Answer
    reason: str = ""
    hint: str = ""


YES = Verdict(Answer.YES)


@dataclass(frozen=True, slots=True)
class Policy:
    """What may come from where.

    Attributes:
        pip: `auto`, `off`, `ask` or `on`.
        allow, deny: package names; those of PyPI with `pypi:` before them. An empty `allow` allows all.
        channels: what code may ask for beyond the configured channels; `*` for any.
        cooldown: files uploaded to PyPI later than this ago do not exist for the installer.
        min_age: projects of PyPI younger than this are refused by the installer.
        online: whether public maps are asked about imports that nothing else knows.
    """

    pip: str = "auto"
    allow: frozenset[str] = frozenset()
    deny: frozenset[str] = frozenset()
    channels: tuple[str, ...] = ("conda-forge",)
    cooldown: timedelta = timedelta(days=7)
    min_age: timedelta = timedelta(days=90)
    online: bool = False

    @classmethod
    def from_settings(cls, settings: Settings) -> Policy:
        """Take from the settings what concerns planning."""
        return cls(
            pip=settings.pip,
            allow=frozenset(normal(name) for name in settings.allow_packages),
            deny=frozenset(normal(name) for name in settings.deny_packages),
            channels=settings.allow_channels,
            cooldown=timedelta(days=settings.pip_cooldown_days),
            min_age=timedelta(days=settings.pip_min_age_days),
            online=settings.online_maps and not settings.offline,
        )

    def judge(self, package: PlannedPackage, *, can_ask: bool = False, traps: frozenset[str] = frozenset()) -> Verdict:
        """Say whether a package may be added; `can_ask` says whether there is a user to ask."""
        pypi = package.manager == "pypi"
        key = normal(f"pypi:{package.name}" if pypi else package.name)
        if key in self.deny:
            return Verdict(Answer.NO, f"{key} is on the deny list", "See the setting deny_packages.")
        if key in self.allow:
            return YES
        if self.allow:
            return Verdict(Answer.NO, f"{key} is not on the allow list", "See the setting allow_packages.")
        return self._judge_pypi(package, can_ask, traps) if pypi else YES

    def _judge_pypi(self, package: PlannedPackage, can_ask: bool, traps: frozenset[str]) -> Verdict:  # noqa: PLR0911
        name = canonicalize_name(package.name)
        if name in traps:
            return Verdict(
                Answer.NO,
                f"{name} on PyPI is not the project that the import {name} belongs to",
                "Ask for the project's own name.",
            )
        if self.pip == "off":
            return Verdict(Answer.NO, "PyPI is switched off", "Set MCP_CONDA_RUN_PIP to `on` or `ask` to use it.")
        if self.pip == "on":
            return YES
        if can_ask:
            return Verdict(Answer.ASK)
        if self.pip == "ask":
            return Verdict(Answer.NO, "PyPI needs the user's consent, and this client cannot be asked",
                           "Set MCP_CONDA_RUN_PIP to `on`.")  # fmt: skip
        if package.decision in VOUCHED:
            return YES
        return Verdict(
            Answer.NO,
            f"nothing vouches for {name} on PyPI",
            f"Ask for it by name: `pypi:{name}` in `packages`, or a `# /// script` block.",
        )

    def permits_channel(self, channel: str) -> bool:
        """Say whether code may ask for a channel by this name."""
        return "*" in self.channels or channel in self.channels

    def extra_channels(self) -> tuple[str, ...]:
        """Return the named channels that the index should cover besides the configured ones, behind them."""
        return tuple(channel for channel in self.channels if channel not in {"*", "conda-forge"})


def normal(name: str) -> str:
    """Normalise a name of a list: conda names are lower case, those of PyPI as PEP 503 says."""
    name = name.strip().lower()
    return f"pypi:{canonicalize_name(name[5:])}" if name.startswith("pypi:") else name
