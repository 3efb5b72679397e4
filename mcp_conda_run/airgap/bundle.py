"""Makes a bundle: locks, package archives, wheels, and what the channels say of them, in one file.

Called by `commands/bundle.py`. What the file holds is solved and fetched here, online; `unbundle.py` unpacks it on a
machine without a network, which then locks, plans and installs from it as from the channels.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from .. import __version__
from ..conda.archives import fetch_archives
from ..conda.engine import SolveRequest
from ..conda.lockfile import read_lock
from ..conda.mirrors import mirrors_of
from ..conda.redact import redact
from ..environments.store import host_errors
from ..environments.template_locks import serving_lock
from ..environments.templates import Template, shipped_templates
from ..errors import RequestError
from ..models import LockedPackage, Plan, PlannedPackage, Progress, ProgressCallback
from ..planning.specs import parse_requirement, parse_spec
from ..runtime import Runtime
from ..settings import Settings
from .format import Channel, Content, Manifest, channel_name, repodata, write_bundle


@dataclass(frozen=True, slots=True)
class Bundled:
    """What was written: the file's manifest, the sha256 of that, and how many packages it holds."""

    manifest: Manifest
    sha256: str
    packages: int
    wheels: int


@dataclass(slots=True)
class _Collected:
    """What is to be carried."""

    contents: list[Content] = field(default_factory=list)
    packages: dict[str, LockedPackage] = field(default_factory=dict)
    wheels: dict[str, LockedPackage] = field(default_factory=dict)


async def make_bundle(
    output: Path,
    settings: Settings,
    *,
    templates: Sequence[str],
    specs: Sequence[str],
    platform: str | None,
    progress: ProgressCallback,
) -> Bundled:
    """Write a bundle, in one step at the end.

    Args:
        output: the file.
        settings: the knobs.
        templates: names or paths; the configured one if none is given.
        specs: what runs may add to each of them: match specs, and `pypi:` requirements.
        platform: conda's name of the platform it is for; None for this one.
        progress: told what is going on.

    Raises:
        RequestError: a template or a spec cannot be used, or wheels are asked for and it is for another platform.
        InstallError: something cannot be locked, solved or fetched.
        HostError: the file cannot be written.
    """
    async with Runtime(settings) as runtime:
        target = platform or runtime.provisioner.platform
        collected = _Collected()
        found = [runtime.provisioner.template(name) for name in templates or [settings.template]]
        for template in found:
            await _collect(runtime, template, collected, specs=specs, platform=target, progress=progress)
        with (
            host_errors("The bundle cannot be made"),
            tempfile.TemporaryDirectory(prefix="bundle-", dir=runtime.store.root) as folder,
        ):
            channels = await _archives(runtime, collected, Path(folder), progress)
            collected.contents += _wheels(runtime, collected.wheels.values())
            head = Manifest(
                version=__version__,
                platform=target,
                templates=tuple(template.name for template in found),
                specs=tuple(specs),
                channels=channels,
            )
            progress(Progress("bundle", f"Writing {output.name}"))
            manifest, sha256 = _write(output, head, collected.contents)
    return Bundled(manifest, sha256, len(collected.packages), len(collected.wheels))


async def _collect(
    runtime: Runtime,
    template: Template,
    collected: _Collected,
    *,
    specs: Sequence[str],
    platform: str,
    progress: ProgressCallback,
) -> None:
    """Lock a template for the platform, and solve what is asked for on top of it."""
    settings, store = runtime.settings, runtime.store
    lock = serving_lock(template, store, settings, platform).path
    if not lock.exists():
        await runtime.provisioner.lock(template, [platform], lock, progress)
    packages = read_lock(lock, platform)
    with host_errors("The lock cannot be read"):
        text = lock.read_bytes()
    name = template.lock_name(platform, settings.exclude_newer)
    collected.contents.append(Content(f"locks/{name}", text))
    if template.path != shipped_templates().get(template.name):
        with host_errors("The template cannot be read"):
            collected.contents.append(Content(f"templates/{template.path.name}", template.path.read_bytes()))
    conda = [parse_spec(text) for text in specs if not text.startswith("pypi:")]
    if conda:
        request = SolveRequest(
            specs=[*template.specs, *map(str, conda)],
            channels=template.channels,
            platform=platform,
            pinned=[package for package in packages if package.manager == "conda"],
            exclude_newer=settings.exclude_newer,
            offline=settings.offline,
        )
        packages += await runtime.engine.solve(request, progress)
    wanted = [text.removeprefix("pypi:") for text in specs if text.startswith("pypi:")]
    if wanted:
        packages += await _resolved_wheels(runtime, template, wanted, platform, progress)
    for package in packages:
        (collected.wheels if package.manager == "pypi" else collected.packages)[package.sha256] = package


async def _resolved_wheels(
    runtime: Runtime, template: Template, wanted: Sequence[str], platform: str, progress: ProgressCallback
) -> tuple[LockedPackage, ...]:
    """Return the wheels that requirements come to on top of a template's environment, fetched.

    Raises:
        RequestError: they are for another platform than this one.
    """
    if platform != runtime.provisioner.platform:
        raise RequestError(
            f"Packages of PyPI can be bundled for {runtime.provisioner.platform} only, this machine's platform.",
            hint="Make the bundle on such a machine, or name conda packages.",
            code="pip-not-supported",
        )
    base = await runtime.provisioner.base(template, progress)
    planned = [
        PlannedPackage(spec=str(requirement), name=requirement.name, manager="pypi", decision="requested")
        for requirement in map(parse_requirement, wanted)
    ]
    provided = await runtime.provisioner.extended(base, Plan(packages=tuple(planned)), progress)
    return tuple(package for package in provided.environment.packages if package.manager == "pypi")


async def _archives(
    runtime: Runtime, collected: _Collected, folder: Path, progress: ProgressCallback
) -> tuple[Channel, ...]:
    """Fetch the archives into a folder; add them to what is carried as parts of their channels."""
    settings = runtime.settings
    packages = sorted(collected.packages.values(), key=lambda package: package.url)
    records = await fetch_archives(
        packages,
        folder,
        repodata=runtime.store.repodata,
        mirrors=mirrors_of(settings),
        timeout_s=settings.install_timeout_s,
        access=runtime.access,
        offline=settings.offline,
        progress=progress,
    )
    entries: dict[tuple[str, str], dict[str, Any]] = {}
    for package, record in zip(packages, records, strict=True):
        base, subdir, file = redact(package.url).rsplit("/", 2)
        file = unquote(file)
        collected.contents.append(Content(f"channels/{channel_name(base)}/{subdir}/{file}", folder / package.sha256))
        entries.setdefault((base, subdir), {})[file] = record
    for (base, subdir), some in entries.items():
        path = f"channels/{channel_name(base)}/{subdir}/repodata.json"
        collected.contents.append(Content(path, repodata(subdir, some)))
    return tuple(Channel(url=base, name=channel_name(base)) for base in sorted({base for base, _ in entries}))


def _wheels(runtime: Runtime, wheels: Iterable[LockedPackage]) -> Iterator[Content]:
    """Yield the wheels, and what the index says of their projects."""
    root = runtime.store.pypi
    kept = list(wheels)
    for wheel in kept:
        name = unquote(urlsplit(wheel.url).path.rpartition("/")[2])
        yield Content(f"pypi/wheels/{wheel.sha256}/{name}", root / "wheels" / wheel.sha256 / name)
    for page in sorted(root.glob("projects/*/*.json")):
        own = {wheel.sha256 for wheel in kept if wheel.name == page.stem}
        if own:
            row = json.loads(page.read_bytes())
            yield Content(f"pypi/projects/{page.parent.name}/{page.name}", _shortened(row, own))


def _shortened(page: Mapping[str, Any], own: set[str]) -> bytes:
    """Return a project's page with the files that are carried, and its oldest, which tells the project's age."""
    files = [file for file in page["files"] if file["sha256"] in own]
    dated = [file for file in page["files"] if file["uploaded"]]
    files += [min(dated, key=lambda file: file["uploaded"])] if dated else []
    unique = {file["filename"]: file for file in files}
    return json.dumps({**page, "files": [unique[name] for name in sorted(unique)]}, sort_keys=True).encode()


def _write(output: Path, head: Manifest, contents: Sequence[Content]) -> tuple[Manifest, str]:
    """Write the file beside its place, and put it there; return its manifest and the sha256 of that."""
    unique = {content.path: content for content in contents}
    half = output.with_name(f".{output.name}.{secrets.token_hex(4)}")
    try:
        with half.open("xb") as file:
            manifest = write_bundle(file, head, list(unique.values()))
        half.replace(output)
    finally:
        half.unlink(missing_ok=True)
    return manifest, hashlib.sha256(manifest.document()).hexdigest()
