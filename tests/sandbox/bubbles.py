"""What the bubblewrap of this machine can do, for tests that need more of it than tier B does."""

from __future__ import annotations

import subprocess

import pytest

from mcp_conda_run.sandbox.bubblewrapped import find


def makes_overlays() -> bool:
    """Say whether there is a bubblewrap that knows overlays: it does since version 0.11."""
    if not find():
        return False
    return "--overlay-src" in subprocess.run([find(), "--help"], capture_output=True, text=True, check=False).stdout


needs_overlays = pytest.mark.skipif(not makes_overlays(), reason="bubblewrap cannot make overlays (before 0.11)")
OVERLAY = pytest.param("B overlay", marks=needs_overlays)
"""The name of tier B with an overlay, for `host.make`."""
