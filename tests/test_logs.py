"""The log on standard error: lines for people or JSON for machines."""

import json
import logging
import subprocess
import sys

import pytest

from mcp_conda_run.logs import JsonFormatter


def formatted(message: str, *args: object, extra: dict[str, object] | None = None, error: bool = False) -> dict:
    logger = logging.getLogger("a.b")
    try:
        if error:
            raise ValueError("no good")
    except ValueError:
        information = sys.exc_info()
    else:
        information = None
    record = logger.makeRecord("a.b", logging.WARNING, "f.py", 1, message, args, information, extra=extra)
    line = JsonFormatter().format(record)
    assert "\n" not in line
    return json.loads(line)


def test_a_line_has_time_level_logger_and_message():
    line = formatted("run %s", "a")
    assert line.pop("time").endswith("+00:00")
    assert line == {"level": "warning", "logger": "a.b", "message": "run a"}


def test_further_fields_are_kept():
    assert formatted("x", extra={"run_id": "a", "seconds": 1.5})["seconds"] == 1.5


def test_an_exception_is_one_field():
    assert "ValueError: no good" in formatted("x", error=True)["exception"]


def test_what_is_no_json_is_its_text():
    assert formatted("x", extra={"path": {1}})["path"] == "{1}"


@pytest.mark.parametrize("message", ["two\nlines", "\ud800", "\x00"])
def test_every_message_is_one_line(message):
    assert formatted(message)["message"] == message


def test_the_server_logs_json_on_standard_error_if_asked(tmp_path):
    env = {"MCP_CONDA_RUN_CACHE_DIR": str(tmp_path), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    code = (
        "import logging, sys\nsys.argv = ['x', '--log-json', '--log-level', 'info', 'clean']\n"
        "from mcp_conda_run import cli\nimport typer\n"
        "try: cli.app(standalone_mode=False)\nexcept BaseException: pass\n"
        "logging.getLogger('x').info('said', extra={'a': 1})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert json.loads(done.stderr.splitlines()[-1])["a"] == 1
