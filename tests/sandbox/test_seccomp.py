"""The filter's tables against the kernel's own headers, and the filter against a small machine that runs it."""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
from pathlib import Path

import pytest

from mcp_conda_run.guest.seccomp import ARCHITECTURES, DENIED, METADATA, TRUNCATING, filter_program

HEADERS = {
    "x86_64": (Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), Path("/usr/include/asm/unistd_64.h")),
    "aarch64": (Path("/usr/include/asm-generic/unistd.h"),),
}
ALLOW, KILL, ERRNO = 0x7FFF_0000, 0x8000_0000, 0x0005_0000


def header(machine: str) -> dict[str, int]:
    for path in HEADERS[machine]:
        if path.exists():
            text = path.read_text()
            return {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)}
    pytest.skip("the kernel's headers are not installed")


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_the_numbers_are_the_kernels(machine: str):
    known = header(machine)
    column = list(ARCHITECTURES).index(machine)
    tables = {name: row[column] for name, row in {**DENIED, **METADATA, **TRUNCATING}.items()}
    special = ("clone", "clone3", "socket", "ioctl", "shmget")
    tables |= dict(zip(special, ARCHITECTURES[machine][1:], strict=True))
    wrong = {name: (ours, known[name]) for name, ours in tables.items() if name in known and ours != known[name]}
    assert wrong == {}


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_a_call_that_is_not_there_has_no_number(machine: str):
    known = header(machine)
    column = list(ARCHITECTURES).index(machine)
    missing = {name for name, row in {**DENIED, **METADATA, **TRUNCATING}.items() if row[column] is None}
    assert missing.isdisjoint(known)


def verdict(program: bytes, number: int, *arguments: int, arch: int = ARCHITECTURES["x86_64"][0]) -> int:
    """Run a filter as the kernel does (a classic BPF machine with the instructions that it uses)."""
    data = struct.pack("=iIQ6Q", number, arch, 0, *arguments, *[0] * (6 - len(arguments)))
    instructions = list(struct.iter_unpack("HBBI", program))
    at, accumulator = 0, 0
    while True:
        code, then, otherwise, value = instructions[at]
        at += 1
        if code == 0x20:
            accumulator = struct.unpack_from("=I", data, value)[0]
        elif code == 0x54:
            accumulator &= value
        elif code == 0x06:
            return value
        else:
            holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[code]
            at += then if holds else otherwise


def refused(number: int) -> int:
    return ERRNO | number


USUAL = filter_program("x86_64")
TCP = filter_program("x86_64", families=(socket.AF_INET,), only_tcp=True, freeze_metadata=True)
OFFLINE = filter_program("x86_64", families=(), freeze_metadata=True)


@pytest.mark.parametrize("program", [USUAL, TCP, OFFLINE])
@pytest.mark.parametrize("name", DENIED)
def test_every_denied_call_is_denied(program: bytes, name: str):
    number = DENIED[name][0]
    assert number is not None
    assert verdict(program, number) == refused(errno.EPERM)


@pytest.mark.parametrize("program", [USUAL, TCP, OFFLINE])
@pytest.mark.parametrize("number", [0, 1, 9, 53, 59, 202, 257])  # read write mmap socketpair execve futex openat
def test_ordinary_calls_are_allowed(program: bytes, number: int):
    assert verdict(program, number) == ALLOW


def test_a_foreign_architecture_is_killed():
    assert verdict(USUAL, 0, arch=0x4000_0003) == KILL


def test_the_x32_calls_are_denied():
    assert verdict(USUAL, 0x4000_0000) == refused(errno.EPERM)


@pytest.mark.parametrize("flag", [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000])
def test_clone_makes_no_namespace(flag: int):
    assert verdict(USUAL, 56, flag | 17) == refused(errno.EPERM)


def test_clone_makes_threads_and_processes():
    assert verdict(USUAL, 56, 0x3D0F00) == verdict(USUAL, 56, 17) == ALLOW


def test_clone3_does_not_exist():
    assert verdict(USUAL, 435) == refused(errno.ENOSYS)


@pytest.mark.parametrize(
    ("program", "arguments", "expected"),
    [
        (USUAL, (socket.AF_UNIX, 1), ALLOW),
        (USUAL, (socket.AF_INET, 2), ALLOW),
        (USUAL, (socket.AF_INET6, 1), ALLOW),
        (USUAL, (16, 3), ALLOW),
        (USUAL, (17, 3), refused(errno.EAFNOSUPPORT)),
        (USUAL, (40, 1), refused(errno.EAFNOSUPPORT)),
        (OFFLINE, (socket.AF_INET, 1), refused(errno.EAFNOSUPPORT)),
        (TCP, (socket.AF_INET, 1), ALLOW),
        (TCP, (socket.AF_INET, 1 | socket.SOCK_CLOEXEC, 6), ALLOW),
        (TCP, (socket.AF_INET, 2), refused(errno.EAFNOSUPPORT)),  # datagrams
        (TCP, (socket.AF_INET, 1, 262), refused(errno.EAFNOSUPPORT)),  # MPTCP
        (TCP, (socket.AF_INET, 1, 132), refused(errno.EAFNOSUPPORT)),  # SCTP
        (TCP, (socket.AF_UNIX, 1), refused(errno.EAFNOSUPPORT)),
    ],
)
def test_sockets_are_of_the_allowed_kinds_only(program: bytes, arguments: tuple[int, ...], expected: int):
    assert verdict(program, 41, *arguments) == expected


@pytest.mark.parametrize("command", [0x5412, 0x541C])
def test_nothing_can_be_put_into_a_terminal(command: int):
    assert verdict(USUAL, 16, 0, command) == refused(errno.EPERM)
    assert verdict(USUAL, 16, 0, command | 1 << 40) == refused(errno.EPERM)


def test_other_ioctls_are_allowed():
    assert verdict(USUAL, 16, 0, 0x5401) == ALLOW


@pytest.mark.parametrize("name", METADATA)
def test_frozen_metadata_seems_to_change(name: str):
    number = METADATA[name][0]
    assert number is not None
    assert verdict(TCP, number) == refused(0)
    assert verdict(USUAL, number) == ALLOW


HELD = filter_program("x86_64", hold_truncation=True)


@pytest.mark.parametrize(
    ("number", "arguments", "expected"),
    [
        (76, (), refused(errno.EACCES)),
        (437, (), refused(errno.ENOSYS)),
        (2, (0, os.O_TRUNC), refused(errno.EACCES)),
        (2, (0, os.O_TRUNC | os.O_WRONLY), ALLOW),
        (257, (0, 0, os.O_TRUNC), refused(errno.EACCES)),
        (257, (0, 0, os.O_TRUNC | os.O_CREAT | os.O_CLOEXEC), refused(errno.EACCES)),
        (257, (0, 0, os.O_TRUNC | os.O_ACCMODE), refused(errno.EACCES)),
        (257, (0, 0, os.O_TRUNC | os.O_WRONLY | os.O_CREAT), ALLOW),
        (257, (0, 0, os.O_TRUNC | os.O_RDWR), ALLOW),
        (257, (0, 0, os.O_RDONLY), ALLOW),
        (257, (0, os.O_TRUNC, os.O_CREAT), ALLOW),
        (77, (), ALLOW),  # ftruncate
        (165, (), refused(errno.EPERM)),  # what comes after it in the program
    ],
)
def test_only_who_may_write_to_a_file_can_empty_it(number: int, arguments: tuple[int, ...], expected: int):
    assert verdict(HELD, number, *arguments) == expected


def test_a_machine_without_a_table_has_no_filter():
    with pytest.raises(KeyError):
        filter_program("vax")


@pytest.mark.parametrize(
    ("size", "expected"),
    [(1, ALLOW), (65536, ALLOW), (65537, ERRNO | errno.EINVAL), (1 << 32, ERRNO | errno.EINVAL)],
)
def test_large_segments_of_shared_memory_that_belong_to_nobody_are_refused(size: int, expected: int):
    assert verdict(filter_program("x86_64"), 29, 0, size, 0o1600) == expected
