"""Where a script cannot be run by its name (Windows), a command stands in for the `conda` that conda-lock calls."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import subprocess, sys
from mcp_conda_run.conda.conda_lock_child import stand_in
stand_in(r"X:\\nowhere\\conda", sys.executable, "-c", "import sys; print('stood in for', sys.argv[1:])")
done = subprocess.run([r"X:\\nowhere\\conda", "create", "numpy>=1,<2"], stdout=subprocess.PIPE, text=True)
print(done.stdout.strip())
print(subprocess.check_output([sys.executable, "-c", "print('itself')"], text=True).strip())
"""


def test_only_the_calls_of_conda_are_taken():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["stood in for ['create', 'numpy>=1,<2']", "itself"], done.stderr
