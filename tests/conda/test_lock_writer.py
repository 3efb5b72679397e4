"""Locks that we write ourselves: read back by us and by conda-lock."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mcp_conda_run.conda.lock_writer import add_wheels, write_lock
from mcp_conda_run.conda.lockfile import load_lock, read_lock
from mcp_conda_run.errors import HostError, InstallError
from mcp_conda_run.models import LockedPackage

NUMPY = LockedPackage(
    name="numpy",
    version="2.1.3",
    build="py312h58c1407_0",
    subdir="linux-64",
    channel="conda-forge",
    url="https://channels.example/conda-forge/linux-64/numpy-2.1.3-py312h58c1407_0.conda",
    sha256="ab" * 32,
    md5="cd" * 16,
    depends=("python >=3.12,<3.13.0a0", "python_abi 3.12.* *_cp312", "python", "libblas >=3.9"),
)
WHEEL = LockedPackage(
    name="typing-extensions",
    version="4.12.2",
    channel="pypi",
    url="https://files.example/typing_extensions-4.12.2-py3-none-any.whl",
    sha256="ef" * 32,
    manager="pypi",
)


def written(path: Path, **rows: tuple[LockedPackage, ...]) -> Path:
    write_lock(path, {"linux-64": rows.get("rows", (NUMPY,))}, channels=("conda-forge",), sources=("pixi.lock",))
    return path


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    (package,) = read_lock(written(tmp_path / "x.yml"), "linux-64")
    assert (package.url, package.sha256, package.md5) == (NUMPY.url, NUMPY.sha256, NUMPY.md5)
    assert "python >=3.12,<3.13.0a0" in package.depends


def test_conda_lock_reads_it(tmp_path: Path) -> None:
    lock = written(tmp_path / "x.conda-lock.yml", rows=(NUMPY, WHEEL))
    command = [sys.executable, "-m", "conda_lock", "render", "-k", "explicit", "-p", "linux-64"]
    subprocess.run(
        [*command, "--filename-template", str(tmp_path / "{platform}.txt"), str(lock)], check=True, capture_output=True
    )
    assert NUMPY.url in (tmp_path / "linux-64.txt").read_text()


def test_wheels_join_what_is_there(tmp_path: Path) -> None:
    lock = written(tmp_path / "x.yml")
    add_wheels(lock, "linux-64", (WHEEL,))
    assert [package.manager for package in read_lock(lock, "linux-64")] == ["conda", "pypi"]
    assert read_lock(lock, "linux-64")[1] == WHEEL
    assert lock.read_text().startswith("# A lock")


def test_credentials_of_channels_are_not_written(tmp_path: Path) -> None:
    write_lock(tmp_path / "x.yml", {"linux-64": (NUMPY,)}, channels=("https://host/t/to-ken/c",))
    assert "to-ken" not in (tmp_path / "x.yml").read_text()


def test_the_digest_of_what_it_was_made_from_is_kept(tmp_path: Path) -> None:
    write_lock(tmp_path / "x.yml", {"linux-64": (NUMPY,)}, digest="abc")
    assert (load_lock(tmp_path / "x.yml").metadata.custom_metadata or {})["mcp-conda-run-input"] == "abc"


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError):
        written(tmp_path / "file" / "x.yml")


def test_nothing_else_is_left(tmp_path: Path) -> None:
    assert [path.name for path in written(tmp_path / "x.yml").parent.iterdir()] == ["x.yml"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"url": "https://files.example/x-1.0.tar.gz"}, "no wheel"),
        ({"url": "git+https://host/x@abc"}, "no wheel"),
        ({"url": "https://files.example/other-4.12.2-py3-none-any.whl"}, "another wheel"),
        ({"url": "https://files.example/bad.whl"}, "not that of a wheel"),
        ({"hash": {"sha256": "zz"}}, "digest"),
        ({"hash": {"md5": "cd" * 16}}, "digest"),
    ],
)
def test_a_row_of_pypi_that_cannot_be_verified_is_refused(tmp_path: Path, change: dict, words: str) -> None:
    lock = written(tmp_path / "x.yml", rows=(WHEEL,))
    document = yaml.safe_load(lock.read_text())
    document["package"][0] |= change
    lock.write_text(yaml.safe_dump(document))
    with pytest.raises(InstallError, match=words):
        read_lock(lock, "linux-64")
