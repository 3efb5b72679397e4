"""How micromamba is found, called and understood. Whether it works as an engine is for the tests of engines.

The texts are what libmamba 2.8.1 wrote. A stand-in program is used only for what no real one can be made to do, or to
see what reaches it.
"""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from mcp_conda_run.conda.access import Access
from mcp_conda_run.conda.choose import choose_engine, own_micromamba
from mcp_conda_run.conda.engine import SolveRequest, current_platform
from mcp_conda_run.conda.micromamba import Found, MicromambaEngine, find_micromamba, tried
from mcp_conda_run.conda.micromamba_calls import Said, as_document
from mcp_conda_run.conda.micromamba_faults import explain_channel, explain_install, is_broken_download, lacks_subdir
from mcp_conda_run.conda.micromamba_installing import explicit, unlink
from mcp_conda_run.conda.micromamba_solving import exact, needed
from mcp_conda_run.conda.rattler import RattlerEngine
from mcp_conda_run.errors import CondaRunError, HostError, InstallError, SettingsError
from mcp_conda_run.models import LockedPackage
from mcp_conda_run.settings import Settings

from ..support.http_channel import ChannelServer
from .conftest import MakeEngine, Solve

Program = Callable[..., Path]
Serve = Callable[[Path], ChannelServer]
URL = "https://host/c/noarch/six-1.17.0-pyh0_0.conda"
SIX = LockedPackage(name="six", version="1.17.0", build="pyh0_0", url=URL, sha256="a" * 64)
PKGS, PREFIX = Path("/cache/pkgs"), Path("/envs/x")


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Write a shell script that says a version, and otherwise does what is given."""

    def write(body: str = "exit 1", version: str = "2.8.1", name: str = "micromamba") -> Path:
        path = tmp_path / f"bin-{len(list(tmp_path.glob('bin-*')))}" / name
        path.parent.mkdir()
        path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo {version} && exit 0\n{body}\n')
        path.chmod(0o755)
        return path

    return write


@pytest.fixture
def make_engine(cache: Path) -> MakeEngine:
    """Here only the packages come from an engine."""
    return lambda **options: RattlerEngine(cache / "pkgs", cache / "repodata", timeout_s=120, **options)


def stand_in(path: Path, cache: Path, **options: Any) -> MicromambaEngine:
    return MicromambaEngine(tried(path, "given"), cache / "pkgs", cache / "repodata", **{"timeout_s": 60, **options})


# --- finding ----------------------------------------------------------------------------------------------------------


def test_the_one_that_the_settings_name_comes_first(program: Program, tmp_path: Path) -> None:
    named, other = program(), program()
    found = find_micromamba(named, tmp_path / "none", {"MAMBA_EXE": str(other), "PATH": str(other.parent)})
    assert found == Found(named, "named by the settings", "2.8.1")


def test_mamba_exe_comes_before_path(program: Program, tmp_path: Path) -> None:
    hinted, other = program(), program()
    found = find_micromamba(None, tmp_path / "none", {"MAMBA_EXE": str(hinted), "PATH": str(other.parent)})
    assert found is not None
    assert (found.path, found.where) == (hinted, "named by MAMBA_EXE")


def test_a_mamba_exe_that_does_not_work_is_only_a_hint(program: Program, tmp_path: Path) -> None:
    other = program()
    environment = {"MAMBA_EXE": str(tmp_path / "gone/micromamba"), "PATH": str(other.parent)}
    found = find_micromamba(None, tmp_path / "none", environment)
    assert found is not None
    assert found.path == other


def test_a_mamba_exe_that_is_mamba_is_no_micromamba(program: Program, tmp_path: Path) -> None:
    assert find_micromamba(None, tmp_path / "none", {"MAMBA_EXE": str(program(name="mamba")), "PATH": ""}) is None


def test_the_one_that_we_downloaded_comes_last(program: Program) -> None:
    own = program()
    found = find_micromamba(None, own, {"PATH": ""})
    assert found is not None
    assert found.where == "downloaded by get-micromamba"


@pytest.mark.parametrize("version", ["1.5.8", "conda-24.1", "''"])
def test_what_is_too_old_or_no_micromamba_is_not_used(program: Program, version: str) -> None:
    found = tried(program(version=version), "given")
    assert found.problem
    assert not found.version


def test_what_does_not_run_says_why(tmp_path: Path) -> None:
    file = tmp_path / "micromamba"
    file.write_text("no program")
    assert "does not run" in tried(file, "given").problem


def test_a_replaced_program_is_asked_again(program: Program) -> None:
    path = program()
    assert tried(path, "given").version == "2.8.1"
    path.write_text("#!/bin/sh\necho 2.9.0\n")
    os.utime(path, ns=(1, 1))
    assert tried(path, "given").version == "2.9.0"


# --- choosing ---------------------------------------------------------------------------------------------------------


def test_auto_takes_a_micromamba_that_works(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = program()
    monkeypatch.setenv("PATH", str(path.parent))
    monkeypatch.delenv("MAMBA_EXE", raising=False)
    choice = choose_engine(Settings(cache_dir=tmp_path, engine="auto"))
    assert (choice.engine.name, choice.engine.version()) == ("micromamba", "2.8.1")
    assert choice.reason == f"{path} was found on PATH"


def test_auto_takes_the_embedded_engine_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("MAMBA_EXE", raising=False)
    choice = choose_engine(Settings(cache_dir=tmp_path, engine="auto"))
    assert choice.engine.name == "rattler"
    assert "no micromamba was found" in choice.reason


def test_auto_says_why_it_does_not_take_the_one_that_is_there(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(program(version="1.5.8").parent))
    monkeypatch.delenv("MAMBA_EXE", raising=False)
    choice = choose_engine(Settings(cache_dir=tmp_path, engine="auto"))
    assert choice.engine.name == "rattler"
    assert "1.5.8" in choice.reason


def test_asking_for_a_micromamba_that_is_not_there_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("MAMBA_EXE", raising=False)
    with pytest.raises(SettingsError, match="No micromamba was found") as caught:
        choose_engine(Settings(cache_dir=tmp_path, engine="micromamba"))
    assert "get-micromamba" in caught.value.hint


def test_naming_a_micromamba_that_does_not_work_is_an_error(program: Program, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"1\.5\.8"):
        choose_engine(Settings(cache_dir=tmp_path, engine="auto", micromamba=program(version="1.5.8")))


def test_ours_is_below_the_users_data_directory() -> None:
    assert own_micromamba().is_relative_to(os.environ["XDG_DATA_HOME"])


# --- what reaches it --------------------------------------------------------------------------------------------------

NOTE = """
[ "$2" = --help ] && echo "$HELP" && exit 0
{{ for a in "$@"; do echo "arg $a"; done; /usr/bin/env; /bin/ls -l "$HOME"; /bin/cat "$HOME"/.mamba/auth/* 2>/dev/null;
  bash -c 'echo a script ran'; }} > {seen} 2>/dev/null
exit 1
"""


async def seen_by(
    program: Program, tmp_path: Path, cache: Path, channel: str, body: str = NOTE, **options: Any
) -> list[str]:
    """Let a program note what a solve hands to it."""
    seen = tmp_path / "seen"
    engine = stand_in(program(body.format(seen=seen)), cache, **options)
    with pytest.raises(CondaRunError):
        await engine.solve(SolveRequest(specs=["mcr-clib"], channels=[channel], platform=current_platform()))
    return seen.read_text().splitlines()


async def test_it_gets_the_channel_the_spec_and_what_keeps_the_users_settings_out(
    program: Program, tmp_path: Path, cache: Path, channel: str
) -> None:
    lines = await seen_by(program, tmp_path, cache, channel)
    arguments = [line.removeprefix("arg ") for line in lines if line.startswith("arg ")]
    assert arguments[0] == "create"
    assert {"-y", "--json", "--no-rc", "--override-channels", "--strict-channel-priority", "--dry-run"} <= set(
        arguments
    )
    assert arguments[arguments.index("-c") + 1] == channel
    assert Path(arguments[arguments.index("-p") + 1]).is_absolute()
    assert arguments[-1] == "mcr-clib"


async def test_its_home_its_caches_and_its_root_are_ours(
    program: Program, tmp_path: Path, cache: Path, channel: str
) -> None:
    lines = await seen_by(program, tmp_path, cache, channel)
    variables = dict(line.split("=", 1) for line in lines if "=" in line)
    for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "MAMBA_ROOT_PREFIX"):
        assert variables[name].startswith(str(cache)), name
    assert variables["CONDA_PKGS_DIRS"] == str(cache / "pkgs/micromamba/pkgs")


async def test_variables_of_the_user_do_not_reach_it(
    program: Program, tmp_path: Path, cache: Path, channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CONDA_CHANNELS", "MAMBA_CHANNEL_ALIAS", "CONDARC", "PYTHONPATH", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "mine")
    assert not [line for line in await seen_by(program, tmp_path, cache, channel) if line.endswith("=mine")]


async def test_the_shells_on_its_path_run_no_script(
    program: Program, tmp_path: Path, cache: Path, channel: str
) -> None:
    lines = await seen_by(program, tmp_path, cache, channel)
    assert next(line for line in lines if line.startswith("PATH=")).startswith(f"PATH={cache}")
    assert "a script ran" not in lines


async def test_layers_come_behind_our_own_package_cache(
    program: Program, tmp_path: Path, cache: Path, channel: str
) -> None:
    lines = await seen_by(program, tmp_path, cache, channel, layers=[tmp_path / "layer"])
    assert f"CONDA_PKGS_DIRS={cache / 'pkgs/micromamba/pkgs'},{tmp_path / 'layer'}" in lines


async def test_credentials_reach_it_by_a_file_in_memory_and_not_by_its_command_line(
    program: Program, tmp_path: Path, cache: Path, channel: str
) -> None:
    access = Access()
    access.learn(["https://me:s3cret@host/c", "https://other/t/t0ken/c"])
    lines = await seen_by(program, tmp_path, cache, channel, access=access)
    assert not [line for line in lines if line.startswith("arg ") and ("s3cret" in line or "t0ken" in line)]
    given = json.loads(next(line for line in lines if line.startswith('{"host"')))
    assert given["other"] == {"type": "CondaToken", "token": "t0ken"}
    assert given["host"] == {"type": "BasicHTTPAuthentication", "user": "me", "password": "czNjcmV0"}


async def test_nothing_of_a_call_stays_but_the_caches(
    program: Program, tmp_path: Path, cache: Path, channel: str
) -> None:
    await seen_by(program, tmp_path, cache, channel)
    assert list((cache / "pkgs/micromamba/work").iterdir()) == []


# --- how it ends ------------------------------------------------------------------------------------------------------


async def test_a_micromamba_that_hangs_is_ended_with_all_that_it_started(
    program: Program, tmp_path: Path, cache: Path, channel: str
) -> None:
    pid_file = tmp_path / "pid"
    engine = stand_in(
        program(f"/bin/sleep 600 & echo $! > {pid_file}.new; /bin/mv {pid_file}.new {pid_file}; wait"), cache
    )
    asked = asyncio.create_task(
        engine.solve(SolveRequest(specs=["mcr-clib"], channels=[channel], platform=current_platform()))
    )
    while not pid_file.exists():  # noqa: ASYNC110 - a file is all that a shell can leave
        await asyncio.sleep(0.01)
    grandchild = psutil.Process(int(pid_file.read_text()))
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    await asyncio.to_thread(grandchild.wait, 30)
    assert not grandchild.is_running()


async def test_a_killed_worker_does_not_leave_its_micromamba_behind(
    program: Program, tmp_path: Path, cache: Path, channel: str
) -> None:
    pid_file = tmp_path / "pid"
    engine = stand_in(
        program(f"echo $$ > {pid_file}.new; /bin/mv {pid_file}.new {pid_file}; exec /bin/sleep 600"), cache
    )
    asked = asyncio.create_task(
        engine.solve(SolveRequest(specs=["mcr-clib"], channels=[channel], platform=current_platform()))
    )
    while not pid_file.exists():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    micromamba = psutil.Process(int(pid_file.read_text()))
    worker = micromamba.parent()
    assert worker is not None
    worker.kill()
    with pytest.raises(HostError, match="signal 9"):
        await asked
    await asyncio.to_thread(micromamba.wait, 30)
    assert not micromamba.is_running()


@pytest.mark.parametrize(
    "body",
    [
        "exit 0",
        "echo '{\"success\": true}'",
        "echo '[]'",
        "echo 'Confirm changes: [Y/n] '",
        "kill -SEGV $$",
        'echo \'{"success": true, "actions": {"LINK": [{"name": 1}]}}\'',
    ],
)
async def test_an_answer_that_is_none_is_an_error(program: Program, cache: Path, channel: str, body: str) -> None:
    engine = stand_in(program(body), cache)
    with pytest.raises(InstallError):
        await engine.solve(SolveRequest(specs=["mcr-clib"], channels=[channel], platform=current_platform()))


async def test_success_without_the_packages_in_the_prefix_is_an_error(
    program: Program, cache: Path, tmp_path: Path, solve: Solve
) -> None:
    packages = await solve("mcr-clib")
    engine = stand_in(program("""echo '{"success": true, "actions": {}}'"""), cache)
    with pytest.raises(InstallError, match="not what was asked for: mcr-clib"):
        await engine.install(packages, tmp_path / "prefix")


async def test_success_with_another_archive_in_the_prefix_is_an_error(
    program: Program, cache: Path, tmp_path: Path, solve: Solve
) -> None:
    packages = await solve("mcr-clib")
    meta = tmp_path / "prefix/conda-meta"
    body = (
        f'/bin/mkdir -p {meta}; echo \'{{"sha256": "00"}}\' > {meta}/mcr-clib-1.0-0.json; echo \'{{"success": true}}\''
    )
    with pytest.raises(InstallError) as caught:
        await stand_in(program(body), cache).install(packages, tmp_path / "prefix")
    assert caught.value.code == "checksum-mismatch"


async def test_a_failed_create_leaves_no_half_of_a_prefix(
    program: Program, cache: Path, tmp_path: Path, solve: Solve
) -> None:
    packages = await solve("mcr-clib")
    body = f"/bin/mkdir -p {tmp_path}/prefix/conda-meta; echo 'critical libmamba Write failed' >&2; exit 1"
    with pytest.raises(HostError) as caught:
        await stand_in(program(body), cache).install(packages, tmp_path / "prefix")
    assert caught.value.code == "disk-full"
    assert not (tmp_path / "prefix").exists()


# --- what it says -----------------------------------------------------------------------------------------------------


def failed(stderr: str, document: dict[str, Any] | None = None) -> Said:
    return Said(1, document, stderr)


TREE = """error    libmamba Could not solve for environment specs
    The following packages are incompatible
    ├─ aa =* * is installable and it requires
    │  └─ bb <2 *, which can be installed;
    └─ cc =* * is not installable because it requires
       └─ bb >=2 *, which conflicts with any installable versions previously reported.
critical libmamba Could not solve for environment specs
"""


def test_the_solvers_tree_is_what_stands_between_its_complaints() -> None:
    tree = failed(TREE, {"solver_problems": ["package cc-1.0-0 requires bb >=2"], "success": False}).tree()
    assert tree.splitlines()[0].strip() == "The following packages are incompatible"
    assert "bb <2 *, which can be installed;" in tree
    assert "libmamba" not in tree


def test_without_a_tree_the_solvers_problems_serve() -> None:
    assert failed("", {"solver_problems": ["unsupported request"]}).tree() == "unsupported request"


@pytest.mark.parametrize(
    ("stdout", "document"),
    [
        (b"", None),
        (b'{"success": true}', {"success": True}),
        (b'Confirm changes: [Y/n] {"success": true}', {"success": True}),
        (b"[1]", None),
        (b"\xff{", None),
        (b"[" * 100_000, None),
    ],
)
def test_an_answer_is_a_json_object_or_nothing(stdout: bytes, document: object) -> None:
    assert as_document(stdout) == document


@pytest.mark.parametrize(
    ("returncode", "document"),
    [(0, None), (1, {"success": True}), (0, {"success": False}), (0, {}), (-9, {"success": True})],
)
def test_success_needs_both_the_exit_code_and_the_answer(returncode: int, document: dict[str, Any] | None) -> None:
    assert not Said(returncode, document, "").claims_success


@pytest.mark.parametrize(
    ("stderr", "code", "words"),
    [
        ("critical libmamba Found incorrect downloads. Aborting", "checksum-mismatch", "six 1.17.0"),
        (f"error    libmamba Transfer finalized, status: 404 [{URL}] 335 bytes", "download-failed", "HTTP 404"),
        (f"error    libmamba Transfer finalized, status: 401 [{URL}] 10 bytes", "download-failed", "refused"),
        (f"error    libmamba Download error (37) Could not read a file:// file [{URL}]", "download-failed", "file://"),
        ("error    libmamba Write failed\ncritical libmamba Found incorrect downloads. Aborting", "disk-full", "full"),
        (
            "critical libmamba Transaction cancelled while linking package 'six'\nNo space left on device",
            "disk-full",
            "/envs/x",
        ),
        ("filesystem error: cannot create directories: Permission denied [/envs/x]", "cache-read-only", "/envs/x"),
        ("critical libmamba something new", "install-failed", "something new"),
        ("", "install-failed", "gave no reason"),
    ],
)
def test_a_failed_installation_gets_the_code_of_the_embedded_engine(stderr: str, code: str, words: str) -> None:
    error = explain_install(failed(stderr), [SIX], PKGS, PREFIX)
    assert error.code == code
    assert words in error.message


@pytest.mark.parametrize(
    ("stderr", "words", "hint"),
    [
        (
            "critical libmamba Multiple errors occurred:\n  Download error (7) Could not connect to server "
            "[http://127.0.0.1:9/c/noarch/repodata.json.zst]\n  Subdir URL not loaded!",
            "Could not connect to server",
            "HTTPS_PROXY",
        ),
        ("Download error (6) Could not resolve hostname [https://nohost/c]", "resolve hostname", "HTTPS_PROXY"),
        (
            "Download error (37) Could not read a file:// file [file:///none/noarch/repodata.json]",
            "file:///none",
            "name",
        ),
        ("Download error (60) SSL peer certificate was not OK [https://host/c]", "certificate", "SSL_CERT_FILE"),
        ("Transfer finalized, status: 401 [https://host/c] 0 bytes", "HTTP 401", "credentials"),
    ],
)
def test_an_unreachable_channel_is_named_with_the_hint_that_helps(stderr: str, words: str, hint: str) -> None:
    error = explain_channel(failed(stderr), ["conda-forge"], PKGS)
    assert error.code == "channel-unreachable"
    assert words in error.message
    assert hint in error.hint


@pytest.mark.parametrize(
    ("stderr", "lacks"),
    [
        ("Download error (37) Could not read a file:// file [file:///c/linux-64/repodata.json]", True),
        ("Transfer finalized, status: 404 [https://host/c/linux-64/repodata.json.zst] 0 bytes", True),
        ("Download error (7) Could not connect to server [https://host/c]", False),
        ("Transfer finalized, status: 401 [https://host/c] 0 bytes", False),
    ],
)
def test_a_channel_that_lacks_a_subdir_is_left_to_the_embedded_solver(stderr: str, *, lacks: bool) -> None:
    assert lacks_subdir(failed(stderr)) is lacks


async def test_a_channel_of_noarch_packages_alone_is_solved_where_micromamba_refuses_it(
    program: Program, cache: Path, channel: str
) -> None:
    engine = stand_in(program("echo 'Download error (37) Could not read [file:///c/linux-64/x]' >&2; exit 1"), cache)
    request = SolveRequest(specs=["mcr-clib"], channels=[channel], platform=current_platform())
    assert [package.name for package in await engine.solve(request)] == ["mcr-clib"]


async def test_a_channel_that_micromamba_says_nothing_of_is_asked_by_py_rattler(
    program: Program, cache: Path, small_channel: Path, http_channel: Serve
) -> None:
    server = http_channel(small_channel)
    server.fail("*", 401)
    engine = stand_in(program("echo 'critical libmamba Subdir not loaded!' >&2; exit 1"), cache)
    with pytest.raises(InstallError) as caught:
        await engine.solve(SolveRequest(specs=["mcr-clib"], channels=[server.url], platform=current_platform()))
    assert "credentials" in caught.value.hint


async def test_a_spec_that_only_micromamba_refuses_is_a_bad_spec(program: Program, cache: Path, channel: str) -> None:
    engine = stand_in(
        program("echo 'critical libmamba Error parsing MatchSpec x: Parentheses mismatch' >&2; exit 1"), cache
    )
    with pytest.raises(InstallError) as caught:
        await engine.solve(SolveRequest(specs=["mcr-clib"], channels=[channel], platform=current_platform()))
    assert caught.value.code == "bad-spec"


def test_trace_lines_are_no_complaints() -> None:
    noise = (
        "Backtrace Start\ntrace    libmamba loading\ninfo     libmamba x\nBacktrace End\ncritical libmamba it failed\n"
    )
    assert failed(noise).complaints() == ["critical libmamba it failed"]


@pytest.mark.parametrize(
    ("stderr", "is_broken"),
    [
        ("critical libmamba Found incorrect downloads. Aborting", True),
        ("Download error (18) Transferred a partial file [x]", True),
        ("Transfer finalized, status: 404 [x]\nFound incorrect downloads", False),
        ("Download error (7) Could not connect to server", False),
    ],
)
def test_only_what_broke_off_is_fetched_again(stderr: str, is_broken: bool) -> None:
    assert is_broken_download(stderr) is is_broken


# --- small parts ------------------------------------------------------------------------------------------------------


def test_an_explicit_list_holds_each_digest() -> None:
    assert explicit([SIX]) == f"@EXPLICIT\n{URL}#sha256:{'a' * 64}\n"


def test_a_pin_is_satisfied_by_one_package_only() -> None:
    assert exact(SIX) == "six ==1.17.0 pyh0_0"


def test_pip_is_left_out_unless_something_else_needs_it() -> None:
    python = replace(SIX, name="python", depends=("tzdata", "pip"))
    pip = replace(SIX, name="pip", depends=("python >=3.10", "setuptools"))
    tool = replace(SIX, name="tool", depends=("pip >=20", "__unix"))
    all_four = [python, pip, tool, replace(SIX, name="tzdata"), replace(SIX, name="setuptools")]
    assert {package.name for package in needed(all_four, ["python"])} == {"python", "tzdata"}
    assert {package.name for package in needed(all_four, ["tool"])} == {"tool", "pip", "python", "tzdata", "setuptools"}


def test_a_record_that_points_outside_of_its_prefix_removes_nothing_there(tmp_path: Path) -> None:
    outside = tmp_path / "precious"
    outside.write_text("x")
    prefix = tmp_path / "prefix"
    (prefix / "conda-meta").mkdir(parents=True)
    (prefix / "share").mkdir()
    (prefix / "share/own").write_text("x")
    record = {"files": ["../precious", str(outside), "share/own", "share/none"]}
    (prefix / "conda-meta/evil-1-0.json").write_text(json.dumps(record))
    unlink(prefix, "evil-1-0")
    assert outside.exists()
    assert not (prefix / "share").exists()


def test_the_programs_mode_does_not_matter_before_it_is_run(tmp_path: Path, program: Program) -> None:
    path = program()
    path.chmod(stat.S_IRUSR)
    assert "does not run" in tried(path, "given").problem
