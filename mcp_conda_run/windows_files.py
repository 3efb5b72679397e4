"""What Windows can do with files and Python does not offer, by ctypes.

Called by `portability.py` only.
"""

from __future__ import annotations

import ctypes
import functools
import os
import stat
import sys
from ctypes import c_int32, c_uint32, c_void_p
from typing import Any

_DELETE = 0x0001_0000
_SHARE_EVERYTHING = 0x7
_OPEN_EXISTING = 3
_THE_NAME_ITSELF = 0x0200_0000 | 0x0020_0000  # directories too; not where a link leads
_DISPOSITION_EX = 21
_DELETE_AT_ONCE_THOUGH_READ_ONLY = 0x01 | 0x02 | 0x10
_NO_HANDLE = c_void_p(-1).value


def remove_protected(path: str) -> None:
    """Remove one name of a write-protected file; under its other names it stays protected.

    By FILE_DISPOSITION_INFO_EX, since Windows 10 1809. Where that is not known the protection is lifted first, for all
    names: it is one file.

    Raises:
        OSError: it cannot be removed, as when somebody has it open.
    """
    if not _remove(path):
        os.chmod(path, stat.S_IWRITE)
        os.unlink(path)


def _remove(path: str) -> bool:
    api = _api()
    handle = api.CreateFileW(path, _DELETE, _SHARE_EVERYTHING, None, _OPEN_EXISTING, _THE_NAME_ITSELF, None)
    if handle in {None, _NO_HANDLE}:
        return False
    how = c_uint32(_DELETE_AT_ONCE_THOUGH_READ_ONLY)
    try:
        return bool(api.SetFileInformationByHandle(handle, _DISPOSITION_EX, ctypes.byref(how), ctypes.sizeof(how)))
    finally:
        api.CloseHandle(handle)


@functools.cache
def _api() -> Any:
    if sys.platform == "win32":
        api = ctypes.WinDLL("kernel32", use_last_error=True)
        api.CreateFileW.restype = c_void_p
        api.CreateFileW.argtypes = (ctypes.c_wchar_p, c_uint32, c_uint32, c_void_p, c_uint32, c_uint32, c_void_p)
        api.SetFileInformationByHandle.argtypes = (c_void_p, c_int32, c_void_p, c_uint32)
        api.CloseHandle.argtypes = (c_void_p,)
        return api
    raise OSError("these are Windows'")
