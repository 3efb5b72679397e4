"""The real server over the real runtime, spoken to over stdio: what an agent's call does to a machine."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from .conftest import text
from .real import STDIO, environment
from .wire import PROMPT_S, ROOT, SIGNALS, Wire, appears, is_alive, started, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture
def working(tmp_path) -> Path:
    directory = tmp_path / "working"
    directory.mkdir()
    return directory


@pytest.fixture
def env(warm_small_cache, small_channel, working) -> dict[str, str]:
    return environment(warm_small_cache, small_channel, working)


@pytest.fixture
def wire(env) -> Iterator[Wire]:
    with started(STDIO, env) as wire:
        wire.initialize()
        yield wire


def call_file(wire: Wire, path: str, **arguments) -> dict:
    params = {"name": "run_python_file", "arguments": {"file_path": path, **arguments}}
    return wire.answer(wire.send("tools/call", params))["result"]


def said(result: dict) -> str:
    return result["content"][0]["text"]


def of_this_run(marker: str) -> list[int]:
    """Return the living processes that have the marker on their command line or in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                known = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            except OSError:
                continue
            if marker.encode() in known and is_alive(int(entry.name)):
                found.append(int(entry.name))
    return found


def test_output_and_value_come_back(wire):
    result = wire.run("import numpy\nprint('sum', numpy.arange(4).sum())\n{'a': numpy.arange(3)}")
    assert said(result).startswith(
        "<status>success</status>\n<output>\nsum 6\n</output>\n<return_value>\n"
        '{\n  "a": [\n    0,\n    1,\n    2\n  ]\n}\n</return_value>'
    )
    assert result["isError"] is False
    assert result["structuredContent"]["return_value"] == {"a": [0, 1, 2]}


def test_a_missing_package_is_installed_and_named(wire):
    result = wire.run("import requests\nrequests.__name__")
    assert said(result).startswith('<status>success</status>\n<dependencies>["requests"]</dependencies>\n')
    assert result["structuredContent"]["packages"][0]["import_name"] == "requests"


def test_an_exception_is_a_result_with_a_traceback(wire):
    result = wire.run("def f():\n    return 1 / 0\nf()")
    assert result["isError"] is False
    assert "<status>run-error</status>" in said(result)
    assert "    return 1 / 0" in said(result)
    assert "ZeroDivisionError: division by zero" in said(result)
    assert "mcp_conda_run" not in said(result)


def test_a_timeout_is_a_result(wire):
    result = wire.run("print('begun', flush=True)\nwhile True: pass", timeout_s=1)
    assert said(result).startswith("<status>timeout</status>\n<output>\nbegun\n</output>\n<error>\nTimeout:")
    assert result["isError"] is False


def test_an_uninstallable_package_is_an_error_and_the_next_run_is_fine(wire):
    result = wire.run("1", packages=["mcr-unsat"])
    assert result["isError"] is True
    assert said(result).startswith("<status>install-error</status>")
    assert "<return_value>\n2\n</return_value>" in said(wire.run("1 + 1"))


@pytest.mark.parametrize("code", ["", "  \n", "\0", "def"])
def test_bad_code_is_one_clear_error_and_the_next_run_is_fine(wire, code):
    assert "<error>" in said(wire.run(code))
    assert "<return_value>\n2\n</return_value>" in said(wire.run("1 + 1"))


def test_global_variables_are_there(wire):
    assert "<return_value>\n6\n</return_value>" in said(wire.run("sum(x)", global_variables={"x": [1, 2, 3]}))


def test_a_file_runs_with_its_arguments_and_leaves_a_file(wire, working):
    (working / "main.py").write_text("import sys\nopen('/working/out.txt', 'w').write(sys.argv[1])\n")
    result = call_file(wire, "/working/main.py", args=["hello"])
    assert said(result).startswith("<status>success</status>")
    assert (working / "out.txt").read_text() == "hello"


def test_a_file_outside_the_mount_is_not_run(wire, working, tmp_path):
    outside = tmp_path / "outside.py"
    outside.write_text("print('escaped')\n")
    (working / "link.py").symlink_to(outside)
    (working / "up").symlink_to(tmp_path)
    os.mkfifo(working / "pipe.py")
    paths = (
        "/working/../outside.py",
        "../outside.py",
        str(outside),
        "/working/link.py",
        "/working/up/outside.py",
        "/working/pipe.py",
        "/working",
        "/working/absent.py",
        "/working/a\0.py",
        "/workingother/x.py",
    )
    for path in paths:
        result = call_file(wire, path)
        assert result["isError"] is True, path
        assert "escaped" not in json.dumps(result), path


def test_ten_megabytes_of_output_are_a_bounded_answer(wire):
    number = wire.begin("for i in range(100_000): print('x' * 99)\nprint('the end')")
    message = wire.answer(number)
    assert len(json.dumps(message)) < 700_000
    assert "the end" in said(message["result"])


def test_a_huge_value_is_a_bounded_answer(wire):
    message = wire.answer(wire.begin("[['\\x00' * 1000] * 1000]"))
    assert len(json.dumps(message)) < 700_000


def test_many_calls_at_once_are_all_answered(wire):
    numbers = [wire.begin(f"{i} * 10") for i in range(8)]
    answers = {}
    while len(answers) < len(numbers):
        message = wire.receive()
        if "id" in message:  # not news of the list of resources
            answers[message["id"]] = message["result"]["structuredContent"]["return_value"]
    assert answers == {number: i * 10 for i, number in enumerate(numbers)}


def hold(wire: Wire, working: Path) -> str:
    """Have a run with a grandchild in a session of its own; return what marks all its processes."""
    marker = f"mark-{working.parent.name}"
    code = (
        "import os, subprocess, time\n"
        f"os.environ['MARK'] = '{marker}'\n"
        "subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "open('/working/begun', 'w').write('yes')\n"
        "time.sleep(600)\n"
    )
    wire.begin(code)
    appears(working / "begun")
    wait_until(lambda: of_this_run(marker))
    return marker


def test_a_killed_server_leaves_no_process(wire, working):
    marker = hold(wire, working)
    wire.process.kill()
    wait_until(lambda: not of_this_run(marker), patience_s=5)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_leaves_no_process_and_no_prefix(wire, working, env, number):
    marker = hold(wire, working)
    wire.process.send_signal(number)
    code, seconds = wire.wait()
    assert (code, of_this_run(marker)) == (128 + number, [])
    assert seconds < PROMPT_S
    assert list((Path(env["MCP_CONDA_RUN_CACHE_DIR"]) / "runs").iterdir()) == []


def test_the_end_of_input_leaves_no_process_and_no_prefix(wire, working, env):
    marker = hold(wire, working)
    wire.close_input()
    code, seconds = wire.wait()
    assert (code, of_this_run(marker)) == (0, [])
    assert seconds < PROMPT_S
    assert list((Path(env["MCP_CONDA_RUN_CACHE_DIR"]) / "runs").iterdir()) == []


def test_a_cancel_notification_kills_all_of_the_run(wire, working):
    marker = hold(wire, working)
    wire.send("notifications/cancelled", {"requestId": 2}, answered=False)
    wait_until(lambda: not of_this_run(marker))
    assert "<return_value>\n2\n</return_value>" in said(wire.run("1 + 1"))


async def test_a_run_without_a_warmup_warms_up_and_tells_so(small_channel, tmp_path, working):
    heard: list[str] = []

    async def listen(progress, total, message):
        heard.append(message)

    env = environment(tmp_path / "cold", small_channel, working)
    server = StdioServerParameters(command=STDIO[0], args=STDIO[1:], env=dict(os.environ) | env, cwd=ROOT)
    async with Client(stdio_client(server)) as client:
        answer = await client.call_tool("run_python_code", {"python_code": "1 + 1"}, progress_callback=listen)
    assert "<return_value>\n2\n</return_value>" in text(answer)
    assert "was not ready; it was made now" in text(answer)
    assert heard


@pytest.mark.scientific
def test_fifty_figures_are_a_bounded_answer(warm_scientific_cache, scientific_channel, working):
    env = {
        "MCP_CONDA_RUN_CACHE_DIR": str(warm_scientific_cache),
        "MCP_CONDA_RUN_CHANNELS": scientific_channel.as_uri(),
        "MCP_CONDA_RUN_PATH": str(working),
    }
    code = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "import matplotlib.pyplot as plt, numpy as np\n"
        "for i in range(50):\n    plt.figure(); plt.imshow(np.random.rand(50, 50))\n"
    )
    with started(STDIO, env) as wire:
        wire.initialize()
        message = wire.answer(wire.begin(code, wait_s=120))
    assert len(json.dumps(message)) < 700_000
    assert any(block["type"] == "image" for block in message["result"]["content"])


def test_a_second_signal_ends_the_server_at_once(wire, working):
    hold(wire, working)
    wire.process.send_signal(signal.SIGTERM)
    wire.process.send_signal(signal.SIGINT)
    code, _ = wire.wait()
    assert code in {128 + signal.SIGTERM, 128 + signal.SIGINT}
