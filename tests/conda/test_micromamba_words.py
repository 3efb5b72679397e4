"""How what micromamba says is read. The texts are what libmamba 2.8.1 wrote; nothing is called here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mcp_conda_run.conda.micromamba_calls import Said, as_document
from mcp_conda_run.conda.micromamba_faults import explain_channel, explain_install, is_broken_download, lacks_subdir
from mcp_conda_run.conda.micromamba_installing import explicit, unlink
from mcp_conda_run.conda.micromamba_solving import exact, is_closed, needed
from mcp_conda_run.models import LockedPackage

URL = "https://host/c/noarch/six-1.17.0-pyh0_0.conda"
SIX = LockedPackage(name="six", version="1.17.0", build="pyh0_0", url=URL, sha256="a" * 64)
PKGS, PREFIX = Path("/cache/pkgs"), Path("/envs/x")


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


def test_a_set_of_packages_is_closed_when_it_has_all_that_its_packages_need() -> None:
    tool = replace(SIX, name="tool", depends=("Six >=1.16", "__unix"))
    assert is_closed([tool, SIX], ["tool"])
    assert not is_closed([tool], ["tool"])
    assert not is_closed([SIX], ["tool"])
