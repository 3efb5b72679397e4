"""`python -m mcp_conda_run` is the same as `mcp-conda-run`."""

from .cli import main

main()
