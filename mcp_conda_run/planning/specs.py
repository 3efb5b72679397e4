"""What a person or a piece of code may ask for by name: conda match specs, PyPI requirements, Python versions.

Called for `packages`, install lines and metadata blocks. The text is hostile: whatever is not plainly a name, a version
and a build is refused, so that no path, URL, option or shell text ever reaches an engine. Looks nothing up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from ..errors import RequestError

MAX_SPEC = 300
OLDEST_PYTHON = (3, 10)
NEWEST_PYTHON = (3, 30)

NAME = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,127}")
CHANNEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*(/label/[A-Za-z0-9_.-]+|/[A-Za-z0-9_.-]+)?")
BUILD = re.compile(r"[A-Za-z0-9_.*]{1,64}")
ONE_VERSION = re.compile(r"(?:(?:[<>!=~]=|[<>=])\s*)?[0-9A-Za-z][0-9A-Za-z_.!]*(?:\+[0-9A-Za-z_.]+)?\*?|\*")
SPEC = re.compile(
    r"(?:(?P<channel>[^:\[\]\s]+)::)?"
    r"(?P<name>[A-Za-z0-9_][A-Za-z0-9_.-]*)"
    r"\s*(?P<rest>[^\[\]]*?)\s*"
    r"(?:\[(?P<keys>[^\[\]]*)\])?"
)
KEY = re.compile(r"""\s*(?P<key>[a-z_]+)\s*=\s*(?:"(?P<a>[^"]*)"|'(?P<b>[^']*)'|(?P<c>[^,"'\s]+))\s*(?:,|$)""")


@dataclass(frozen=True, slots=True)
class Spec:
    """A conda match spec whose every part was checked; `str()` gives what the solver reads."""

    name: str
    version: str = ""
    build: str = ""
    channel: str = ""

    def __str__(self) -> str:
        parts = (self.name, self.version or ("*" if self.build else ""), self.build)
        text = " ".join(part for part in parts if part)
        return f"{self.channel}::{text}" if self.channel else text


def refuse(text: str, why: str, hint: str = "") -> RequestError:
    """Make the error for a spec that is not taken; the text is shortened and made printable."""
    shown = ascii(text if len(text) <= 80 else text[:77] + "...")  # noqa: PLR2004 - one line of a terminal
    return RequestError(
        f"The package {shown} cannot be asked for: {why}.",
        hint=hint or "Write a name with an optional version, such as `gdal>=3.8`, `conda-forge::rdkit` or `pypi:name`.",
        code="bad-package-spec",
    )


def parse_spec(text: str) -> Spec:
    """Read a conda match spec: `gdal>=3.8`, `numpy=1.26`, `conda-forge::rdkit`, `python 3.12.*`, `x[build="cpu*"]`.

    Raises:
        RequestError: it is none, or it asks for a path, a URL, or anything else than name, version, build and channel.
    """
    if len(text) > MAX_SPEC:
        raise refuse(text, "it is too long")
    if not text.isprintable():
        raise refuse(text, "it has letters that cannot be printed")
    match = SPEC.fullmatch(text.strip())
    if match is None:
        raise refuse(text, "it is not a match spec")
    name = match["name"].lower()
    if not NAME.fullmatch(name) or name.startswith("__"):
        raise refuse(text, "this is no name of a package")
    if match["rest"].startswith("*") and match.start("rest") == match.end("name"):
        raise refuse(text, "a name stands for one package, so it has no `*`")
    version, build = split_version(match["rest"])
    channel = match["channel"] or ""
    for key, value in parse_keys(text, match["keys"] or "").items():
        if key == "version":
            version = value.replace(" ", "")
        elif key == "build":
            build = value
        else:
            channel = value
    check_parts(text, version, build, channel)
    return Spec(name, version, build, channel)


def split_version(rest: str) -> tuple[str, str]:
    """Split what follows the name into version and build: `=1.2=py310*`, `>=1,<2`, `1.2.* py310*`."""
    rest = re.sub(r"\s*([,|])\s*", r"\1", rest.strip())
    rest = re.sub(r"([<>=!~])\s+", r"\1", rest)
    if rest in {"=*", "==*"}:
        return "*", ""
    if " " in rest:
        version, _, build = rest.partition(" ")
        return version, build.strip()
    exact = re.fullmatch(r"=([^=,|<>~!]+)=([^=]+)", rest)
    if exact:
        return (exact[1] if "*" in exact[1] else f"=={exact[1]}"), exact[2]
    return rest, ""


def parse_keys(text: str, keys: str) -> dict[str, str]:
    """Read the bracket part of a match spec; only `version`, `build` and `channel` are taken."""
    found: dict[str, str] = {}
    position = 0
    while position < len(keys):
        match = KEY.match(keys, position)
        if match is None or match["key"] not in {"version", "build", "channel"} or match["key"] in found:
            raise refuse(text, "in brackets only version, build and channel can be given, once each")
        found[match["key"]] = next(value for value in (match["a"], match["b"], match["c"], "") if value is not None)
        position = match.end()
    return found


def check_parts(text: str, version: str, build: str, channel: str) -> None:
    """Refuse a version, build or channel with anything in it that these never have."""
    if version and not all(ONE_VERSION.fullmatch(part) for part in re.split(r"[,|]", version)):
        raise refuse(text, f"{version!a} is no version")
    if build and not BUILD.fullmatch(build):
        raise refuse(text, f"{build!a} is no build")
    if channel and (not CHANNEL.fullmatch(channel) or ".." in channel):
        raise refuse(text, "a channel is asked for by its name", "Channels by URL belong into the settings.")


def parse_requirement(text: str) -> Requirement:
    """Read a PyPI requirement (PEP 508): name, extras, version and marker, but no URL.

    Raises:
        RequestError: it is none, or it names a URL or a path.
    """
    if len(text) > MAX_SPEC:
        raise refuse(text, "it is too long")
    try:
        requirement = Requirement(text.strip())
    except (InvalidRequirement, RecursionError):
        raise refuse(text, "it is not a requirement (PEP 508)") from None
    if requirement.url:
        raise refuse(text, "packages come from channels and from PyPI by name, not from URLs")
    if not NAME.fullmatch(canonicalize_name(requirement.name)):
        raise refuse(text, "this is no name of a package")
    return requirement


def both_requirements(first: str, second: str) -> str:
    """Return the requirement that means both of two for one project of PyPI."""
    one, other = parse_requirement(first), parse_requirement(second)
    extras = ",".join(sorted(one.extras | other.extras))
    return f"{one.name}{f'[{extras}]' if extras else ''}{one.specifier & other.specifier}"


def both_specs(first: str, second: str) -> str:
    """Return the match spec that means both of two for one conda package; empty if no single one can say it."""
    one, other = parse_spec(first), parse_spec(second)
    versions = [version for version in (one.version, other.version) if version not in {"", "*"}]
    builds, channels = {one.build, other.build} - {""}, {one.channel, other.channel} - {""}
    if len(builds) > 1 or len(channels) > 1 or (len(versions) > 1 and any("|" in version for version in versions)):
        return ""
    return str(Spec(one.name, ",".join(versions), "".join(builds), "".join(channels)))


def conda_version(specifiers: SpecifierSet) -> str:
    """Translate version specifiers of PEP 440 into conda's: `==1.2.*` is `=1.2`, local versions are dropped."""
    parts = []
    for specifier in sorted(specifiers, key=str):
        version, operator = specifier.version.partition("+")[0], specifier.operator
        if operator == "===":
            operator = "=="
        if operator == "==" and version.endswith(".*"):
            parts.append(f"={version[:-2]}")
        elif operator == "!=" and version.endswith(".*"):
            parts.append(f"!={version}")
        else:
            parts.append(f"{operator}{version}")
    return ",".join(parts)


def python_specifiers(text: str) -> SpecifierSet:
    """Read a Python version as people write it: `3.12`, `=3.12`, `3.12.*`, `>=3.11,<3.13`, `~=3.11`.

    Raises:
        RequestError: it is none.
    """
    parts = []
    for part in re.sub(r"\s+", "", text).split(","):
        bare = re.fullmatch(r"=?(\d+(?:\.\d+)*)(\.\*|\*)?", part)
        if bare is None:
            parts.append(part)
        elif bare[1].count(".") < 2:  # noqa: PLR2004 - `3.12` means any 3.12.x, `3.12.4` means itself
            parts.append(f"=={bare[1]}.*")
        else:
            parts.append(f"=={bare[1]}")
    try:
        return SpecifierSet(",".join(parts)) if len(text) <= MAX_SPEC else SpecifierSet("?")
    except InvalidSpecifier:
        raise RequestError(
            f"{text[:80]!a} is no Python version.", hint="Write `3.12` or `>=3.11`.", code="bad-python-version"
        ) from None


def python_constraint(texts: Iterable[str], present: str) -> str:
    """Combine what was asked of Python into one constraint for conda; empty if the one that is `present` will do.

    Raises:
        RequestError: it is no version, or no Python that runs can satisfy it.
    """
    wanted = SpecifierSet()
    for text in texts:
        wanted &= python_specifiers(text)
    if not len(wanted) or wanted.contains(Version(present), prereleases=True):
        return ""
    minors = range(OLDEST_PYTHON[1], NEWEST_PYTHON[1])
    if not any(wanted.contains(Version(f"3.{minor}.{micro}")) for minor in minors for micro in range(40)):
        raise RequestError(
            f"No Python that can be used here satisfies {wanted}.",
            hint=f"Ask for Python {OLDEST_PYTHON[0]}.{OLDEST_PYTHON[1]} or later.",
            code="bad-python-version",
        )
    return conda_version(wanted)
