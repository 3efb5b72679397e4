"""What is shipped: the wheel and the sdist, built as they are for a release."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = {f"env-templates/{path.name}" for path in (ROOT / "env-templates").glob("*.yml")}

pytestmark = pytest.mark.slow


def run(command: Sequence[str | Path], cwd: Path, **variables: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=cwd, env={**os.environ, **variables}, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def build(source: Path, kind: str, out: Path) -> Path:
    run([sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", out], source)
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names in the sdist, without its top directory."""
    with tarfile.open(build(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


def test_the_wheel_has_the_templates(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert TEMPLATES
    assert {f"mcp_conda_run/{name}" for name in TEMPLATES} <= names


def test_the_wheel_has_every_file_of_the_package(wheel: Path):
    paths = (path.relative_to(ROOT) for path in (ROOT / "mcp_conda_run").rglob("*") if path.is_file())
    files = {path.as_posix() for path in paths if not any(part.startswith((".", "__pycache__")) for part in path.parts)}
    with zipfile.ZipFile(wheel) as archive:
        assert files - set(archive.namelist()) == set()


def test_the_wheel_has_nothing_but_the_package(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"mcp_conda_run"}


def test_the_sdist_has_what_a_packager_needs(sdist: set[str]):
    needed = {"pyproject.toml", "LICENSE", "README.md", "CHANGELOG.md", ".ci/run", "scripts/test", "tests/conftest.py"}
    assert needed | TEMPLATES <= sdist


def test_an_installed_wheel_finds_its_templates(wheel: Path, tmp_path: Path):
    target = tmp_path / "site"
    run([sys.executable, "-m", "uv", "pip", "install", "--offline", "--no-deps", "--target", target, wheel], tmp_path)
    code = (
        "import mcp_conda_run.environments.templates as t\n"
        "print(t.__file__)\nprint(*sorted(str(path) for path in t.shipped_templates().values()), sep='\\n')"
    )
    module, *found = run([sys.executable, "-c", code], tmp_path, PYTHONPATH=str(target)).splitlines()
    assert Path(module).is_relative_to(target)
    assert {f"env-templates/{Path(path).name}" for path in found if Path(path).is_relative_to(target)} == TEMPLATES


def test_an_installed_wheel_has_its_command(wheel: Path, tmp_path: Path):
    target = tmp_path / "site"
    run([sys.executable, "-m", "uv", "pip", "install", "--offline", "--no-deps", "--target", target, wheel], tmp_path)
    help_text = run([sys.executable, "-m", "mcp_conda_run", "--help"], tmp_path, PYTHONPATH=str(target))
    assert "warmup" in help_text


def test_a_wheel_built_from_the_sdist_has_the_templates(tmp_path: Path):
    archive = build(ROOT, "sdist", tmp_path / "sdist")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    with zipfile.ZipFile(build(source, "wheel", tmp_path / "wheel")) as wheel:
        assert {f"mcp_conda_run/{name}" for name in TEMPLATES} <= set(wheel.namelist())
