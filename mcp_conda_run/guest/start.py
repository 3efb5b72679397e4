"""The file that a tier has an environment's Python run: loads `execute.py` as a module, so that its bytecode counts.

Python compiles the script that it is given anew each time, and only modules come from `__pycache__`; this script is
short. Usage: start.py FD, or start.py IN OUT (see PROTOCOL.md).
"""

import os
import sys
from _frozen_importlib_external import SourceFileLoader  # importlib itself is not loaded yet

_PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "execute.py")
_MODULE = type(sys)("mcp_conda_run_execute")
_MODULE.__file__ = _PATH
_CODE = SourceFileLoader(_MODULE.__name__, _PATH).get_code(_MODULE.__name__)
assert _CODE is not None  # noqa: S101 - for mypy: a source file has code
exec(_CODE, _MODULE.__dict__)
_MODULE.serve(*map(int, sys.argv[1:]))
