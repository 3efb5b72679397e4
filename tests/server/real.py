"""The real server over the real runtime and a real channel, as a process."""

import sys
from pathlib import Path

from tests.support.warm import small_settings

STDIO = [sys.executable, "-m", "mcp_conda_run", "stdio"]
HTTP = [sys.executable, "-m", "mcp_conda_run", "http", "--port", "0"]


def environment(cache: Path, channel: Path, working: Path) -> dict[str, str]:
    """Return the variables with which a server uses this cache and this channel, and runs see this directory."""
    settings = small_settings(cache, channel)
    return {
        "MCP_CONDA_RUN_CACHE_DIR": str(settings.cache_dir),
        "MCP_CONDA_RUN_CHANNELS": ",".join(settings.channels),
        "MCP_CONDA_RUN_TEMPLATE": settings.template,
        "MCP_CONDA_RUN_PATH": str(working),
    }
