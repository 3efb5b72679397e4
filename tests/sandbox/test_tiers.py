"""What every tier promises, whatever it is made of: the contract of `tier.py`."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from .bubbles import OVERLAY
from .conftest import Host

pytestmark = pytest.mark.skipif(os.name != "posix", reason="runs are not started on Windows yet")

TIERS = ("none", "A", "A'", "B", OVERLAY, "C")


@pytest.fixture(params=TIERS)
def tier(request: pytest.FixtureRequest) -> str:
    return request.param


def said(host: Host, tier: str, code: str, **more) -> object:
    """Run code that prints a Python expression; return what that is."""
    answer = host.run(tier, code, **more)
    assert answer["exit"]["code"] == 0, answer["err"]
    return eval(answer["out"])


def fingerprint(prefix: Path) -> int:
    """Return what changes with any change of a prefix: of a name, a kind, a mode, an owner, a size or a time."""
    rows = []
    for directory, _, names in os.walk(prefix):
        for name in (".", *names):
            status = os.lstat(os.path.join(directory, name))
            kind = (status.st_ino, status.st_mode, status.st_uid)
            rows.append((directory, name, *kind, status.st_size, status.st_mtime_ns))
    return hash(tuple(sorted(rows)))


def contents(prefix: Path) -> str:
    """Return a digest of all bytes of a prefix."""
    digest = hashlib.sha256()
    for path in sorted(prefix.rglob("*")):
        digest.update(os.fsencode(path))
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def test_code_runs_in_the_environments_python(host: Host, tier: str):
    assert said(host, tier, "import numpy; print(int(numpy.arange(10).sum()))") == 45


def test_the_interpreter_believes_to_be_in_the_runs_prefix(host: Host, tier: str):
    code = "import sys, os; print((sys.prefix, os.environ['CONDA_PREFIX'], os.environ['DATA_OF_A_PACKAGE']))"
    prefix, conda_prefix, data = said(host, tier, code)
    assert conda_prefix == prefix
    assert data == f"{prefix}/share/data"
    assert (prefix == str(host.place.prefix)) == (tier in {"A", "A'", "B", "B overlay"})


def test_a_run_can_write_to_its_prefix(host: Host, tier: str):
    code = (
        "import sys; open(sys.prefix + '/lib/new', 'w').write('x'); print(open(sys.prefix + '/lib/new').read() == 'x')"
    )
    assert said(host, tier, code) is True


def test_the_next_run_sees_nothing_of_it(host: Host, tier: str):
    host.run(
        tier, "import sys, os; open(sys.prefix + '/left', 'w'); open('/tmp/left-' + str(os.getuid()), 'w').close()"
    )
    assert said(host, tier, "import sys, os; print(os.path.exists(sys.prefix + '/left'))") is False


def test_home_and_temporary_directory_are_empty_and_writable(host: Host, tier: str):
    code = (
        "import os, tempfile\nhome = os.path.expanduser('~')\nbefore = os.listdir(home), "
        "os.listdir(tempfile.gettempdir())\n"
        "open(home + '/x', 'w'); tempfile.NamedTemporaryFile(); print(before)"
    )
    home, temporary = said(host, tier, code)
    assert home == []
    assert [name for name in temporary if name != host.place.cache.parts[2]] == []


def test_a_packages_file_can_be_replaced_without_harm_to_the_environment(host: Host, tier: str):
    before = fingerprint(host.place.prefix)
    code = "import os, numpy; p = numpy.__file__; os.unlink(p); open(p, 'w').write('broken'); print(open(p).read())"
    assert host.run(tier, code)["out"] == "broken\n"
    assert fingerprint(host.place.prefix) == before


def test_the_environment_survives_the_removal_of_everything(host: Host, tier: str):
    before = contents(host.place.prefix)
    code = "import shutil, sys, os; p = sys.prefix; shutil.rmtree(p, True); print(os.path.exists(p + '/lib'))"
    assert said(host, tier, code) is False
    assert contents(host.place.prefix) == before


def test_nothing_of_a_run_stays_on_disk(host: Host, tier: str):
    host.run(tier, "import sys; open(sys.prefix + '/new', 'w').write('x' * 100000)")
    left = [path for name in ("runs", "scratch") for path in (host.place.cache / name).glob("*")]
    assert left == []


def test_the_working_directory_is_the_mount(host: Host, tier: str):
    (host.place.workspace / "data.txt").write_text("42")
    answer = said(host, tier, "print(int(open('data.txt').read()))", workspace=str(host.place.workspace))
    assert answer == 42


def test_what_a_run_writes_to_the_mount_belongs_to_the_server(host: Host, tier: str):
    code = "open('made.txt', 'w').write('hello')"
    host.run(tier, code, workspace=str(host.place.workspace))
    made = host.place.workspace / "made.txt"
    assert made.read_text() == "hello"
    assert made.stat().st_uid == host.place.workspace.stat().st_uid
    made.unlink()


def test_the_result_names_the_tier(host: Host, tier: str):
    assert host.run(tier, "pass")["isolation"]["tier"] == tier.removesuffix(" overlay")


def test_secrets_of_the_server_are_not_in_the_environment(host: Host, tier: str):
    names = set(said(host, tier, "import os; print(sorted(os.environ))"))
    expected = {"HOME", "LANG", "PATH", "TMPDIR", "CONDA_PREFIX", "MPLBACKEND"}
    assert expected <= names
    assert not {name for name in names if "TOKEN" in name or "KEY" in name or "SSH" in name}


MAKE_WHEEL = """
import importlib, os, subprocess, sys, zipfile
wheel = os.environ["HOME"] + "/tiny_thing-1.0-py3-none-any.whl"
info = "tiny_thing-1.0.dist-info"
with zipfile.ZipFile(wheel, "w") as archive:
    archive.writestr("tiny_thing.py", "VALUE = 7")
    archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: tiny-thing\\nVersion: 1.0\\n")
    archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
    archive.writestr(f"{info}/RECORD", "")
command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", wheel]
done = subprocess.run(command, capture_output=True, text=True)
importlib.invalidate_caches()
import tiny_thing
print((tiny_thing.VALUE, tiny_thing.__file__.startswith(sys.prefix)))
"""


def test_pip_installs_into_the_runs_prefix_only(host: Host, tier: str):
    before = fingerprint(host.place.prefix)
    assert said(host, tier, MAKE_WHEEL) == (7, True)
    assert fingerprint(host.place.prefix) == before
