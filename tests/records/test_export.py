"""A run as files of other tools: each is read, solved, installed or run here as far as that can be done."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mcp_conda_run.conda.choose import make_engine
from mcp_conda_run.conda.engine import SolveRequest
from mcp_conda_run.conda.foreign_locks import read_explicit, read_pixi_lock
from mcp_conda_run.conda.lockfile import read_environment, read_lock
from mcp_conda_run.errors import RequestError
from mcp_conda_run.models import LockedPackage, RunRequest
from mcp_conda_run.records.export_code import export
from mcp_conda_run.records.record import Code, Given, RunRecord, text_digest, value_digest
from mcp_conda_run.runtime import Runtime
from mcp_conda_run.settings import Settings

from .conftest import RunOnRecord, record

SettingsWith = Callable[..., Settings]
HERE_DOCUMENT = re.compile(r"^COPY <<'(\w+)' (\S+)\n(.*?)\n\1$", re.MULTILINE | re.DOTALL)
CODE = "import mcr_two, sys\n[mcr_two.version, n]"


@pytest.fixture
async def kept(on_record: RunOnRecord) -> RunRecord:
    """Return the record of a run with an added package and a variable."""
    _, kept = await on_record(RunRequest(code=CODE, packages=("mcr-two <2",), global_variables={"n": [1, None]}))
    return kept


def archives(packages: list[LockedPackage] | tuple[LockedPackage, ...]) -> set[tuple[str, str]]:
    """Return address and digest of each package."""
    return {(package.url, package.sha256) for package in packages}


def written(kept: RunRecord, form: str, file: Path) -> Path:
    """Write a run in a format."""
    file.write_text(export(kept, form).text)
    return file


def with_wheel(kept: RunRecord) -> RunRecord:
    """Return a record with a package of PyPI."""
    wheel = LockedPackage(
        name="humanize",
        version="4.9.0",
        url="https://files.example.org/humanize-4.9.0-py3-none-any.whl",
        sha256="cd" * 32,
        channel="pypi",
        manager="pypi",
    )
    return kept.model_copy(update={"packages": (*kept.packages, wheel)})


# --- lists of packages ------------------------------------------------------------------------------------------------


async def test_a_conda_lock_installs_into_an_empty_store_and_gives_the_same_value(
    kept: RunRecord, settings_with: SettingsWith, tmp_path: Path
):
    lock = written(kept, "conda-lock", tmp_path / "conda-lock.yml")
    packages = read_lock(lock, kept.place.platform)
    engine = make_engine(settings_with().model_copy(update={"cache_dir": tmp_path / "cache"}))
    await engine.install(packages, tmp_path / "prefix")
    code = "import mcr_two, json; print(json.dumps(mcr_two.version))"
    python = str(tmp_path / "prefix/bin/python")
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)  # noqa: ASYNC221
    assert (archives(packages), json.loads(done.stdout)) == (archives(kept.packages), "1.0")


def test_conda_lock_itself_reads_the_lock(kept: RunRecord, tmp_path: Path):
    written(kept, "conda-lock", tmp_path / "conda-lock.yml")
    command = [sys.executable, "-m", "conda_lock", "render", "-k", "explicit", "-p", kept.place.platform]
    done = subprocess.run([*command, "conda-lock.yml"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rendered = (tmp_path / f"conda-{kept.place.platform}.lock").read_text()
    assert {line.partition("#")[0] for line in rendered.splitlines() if "://" in line} == {p.url for p in kept.packages}


def test_an_explicit_list_has_every_archive_with_its_digest(kept: RunRecord, tmp_path: Path):
    rows = read_explicit(written(kept, "explicit", tmp_path / "explicit.txt"), kept.place.platform)
    assert {(row.url, row.sha256) for row in rows} == archives(kept.packages)


async def test_a_pixi_lock_has_every_archive_with_its_digest(kept: RunRecord, tmp_path: Path):
    packages = await read_pixi_lock(written(kept, "pixi-lock", tmp_path / "pixi.lock"), kept.place.platform)
    assert archives(packages) == archives(kept.packages)


async def test_a_pixi_lock_has_the_wheels_too(kept: RunRecord, tmp_path: Path):
    both = with_wheel(kept)
    packages = await read_pixi_lock(written(both, "pixi-lock", tmp_path / "pixi.lock"), kept.place.platform)
    assert archives(packages) == archives(both.packages)


async def solved(settings: Settings, kept: RunRecord, specs: list[str], channels: tuple[str, ...]) -> set[str]:
    """Return the addresses that specs come to."""
    request = SolveRequest(specs=specs, channels=channels, platform=kept.place.platform)
    return {package.url for package in await make_engine(settings).solve(request)}


async def test_an_environment_file_solves_to_the_same_archives(
    kept: RunRecord, settings_with: SettingsWith, tmp_path: Path
):
    file = read_environment(written(kept, "environment.yml", tmp_path / "environment.yml"))
    assert await solved(settings_with(), kept, list(file.dependencies), file.channels) == {
        package.url for package in kept.packages
    }


def test_an_environment_file_pins_the_wheels(kept: RunRecord, tmp_path: Path):
    file = read_environment(written(with_wheel(kept), "environment.yml", tmp_path / "environment.yml"))
    assert file.pip == ("humanize==4.9.0",)


async def test_a_pixi_manifest_solves_to_the_same_archives(
    kept: RunRecord, settings_with: SettingsWith, tmp_path: Path
):
    manifest = tomllib.loads(export(kept, "pixi").text)
    specs = [f"{name} {row['version']} {row['build']}" for name, row in manifest["dependencies"].items()]
    channels = tuple(manifest["workspace"]["channels"])
    assert await solved(settings_with(), kept, specs, channels) == {package.url for package in kept.packages}


def test_what_a_format_cannot_say_is_noted(kept: RunRecord):
    assert "Packages of PyPI are only named in its comments." in export(with_wheel(kept), "explicit").notes


# --- code -------------------------------------------------------------------------------------------------------------


async def test_a_script_run_by_its_own_metadata_gives_the_same_value(kept: RunRecord, settings_with: SettingsWith):
    async with Runtime(settings_with()) as runtime:
        result = await runtime.run(RunRequest(code=export(kept, "script").text))
    assert value_digest(result.value) == kept.outcome.value
    assert {p.name: p.version for p in result.packages}["mcr-two"] == "1.0"


def test_a_script_is_plain_python(kept: RunRecord):
    compile(export(kept, "script").text, "main.py", "exec")


@pytest.mark.parametrize(
    "code",
    [
        "#!/usr/bin/env python\n1",
        "# /// script\n# dependencies = ['x']\n# ///\n1",
        "# /// conda-script\n# [dependencies]\n# x = '*'\n# /// end-conda-script\n1",
        "%pip install six\n1",
    ],
)
def test_code_with_lines_of_its_own_for_tools_becomes_a_script_with_ours(code: str):
    from mcp_conda_run.planning.inline import read_metadata

    made = export(with_code(code), "script")
    declared = read_metadata(made.text, "3.12.1")
    assert (declared.only, made.text.startswith("#!")) == (True, code.startswith("#!"))
    assert not any("await" in note for note in made.notes)


def test_a_script_that_needs_more_than_python_says_so():
    notes = export(with_code("import asyncio\nawait asyncio.sleep(0)"), "script").notes
    assert any("only mcp-conda-run allows" in note for note in notes)


def test_a_dockerfile_holds_the_list_the_code_and_the_arguments(kept: RunRecord, tmp_path: Path):
    code = "print('''\nEOF\n''')\n"
    mine = with_code(code).model_copy(
        update={"packages": kept.packages, "place": kept.place, "given": Given(args=("a b",))}
    )
    text = export(mine, "dockerfile").text
    documents = {target: body for _, target, body in HERE_DOCUMENT.findall(text)}
    (tmp_path / "explicit.txt").write_text(documents["/tmp/explicit.txt"])
    rows = read_explicit(tmp_path / "explicit.txt", kept.place.platform)
    assert {row.url for row in rows} == {package.url for package in kept.packages}
    assert documents["/opt/run/main.py"] == code.rstrip("\n")
    assert json.loads(text.splitlines()[-1].removeprefix("CMD ")) == ["python", "/opt/run/main.py", "a b"]


def test_a_dockerfile_consists_of_known_instructions(kept: RunRecord):
    text = export(with_wheel(kept), "dockerfile").text
    outside = HERE_DOCUMENT.sub("COPY <<", text)
    known = re.compile(r"(#|ARG \w+=|FROM |COPY <<|RUN |WORKDIR /|CMD \[)")
    assert [line for line in outside.splitlines() if not known.match(line)] == []
    assert "humanize==4.9.0 --hash=sha256:" in text


# --- what cannot be exported ------------------------------------------------------------------------------------------


def with_code(code: str) -> RunRecord:
    """Return a record of a run of this code."""
    return record(python="3.12.1", platform="linux-64", specs=("python",), version="1").model_copy(
        update={"code": Code(text=code, sha256=text_digest(code))}
    )


def test_an_unknown_format_is_refused_with_the_known_ones():
    with pytest.raises(RequestError) as caught:
        export(record(), "zip")
    assert "conda-lock" in caught.value.hint


def test_code_that_is_not_on_record_cannot_become_a_script():
    with pytest.raises(RequestError, match="only the hash"):
        export(record().model_copy(update={"code": Code(text=None, sha256="ab" * 32)}), "script")


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "x\nRUN evil"},
        {"url": "https://example.org/c/noarch/six-1.0-0.conda\nRUN evil"},
        {"version": "1' x"},
        {"sha256": "nonsense"},
    ],
)
def test_a_record_from_elsewhere_cannot_put_lines_of_its_own_into_a_file(changed: dict[str, str]):
    hostile = record().model_copy(update={"packages": (replace(record().packages[0], **changed),)})
    with pytest.raises(RequestError, match="cannot be exported"):
        export(hostile, "dockerfile")


def test_a_platform_with_a_line_break_is_no_record(tmp_path: Path):
    from mcp_conda_run.records.record import read_record

    file = tmp_path / "run.json"
    file.write_text(record().document().replace('"linux-64"', '"linux-64\\nRUN evil"'))
    with pytest.raises(RequestError, match="is not the record"):
        read_record(file)
