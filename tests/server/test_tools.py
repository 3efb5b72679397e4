"""Calls of the tools, by a client in this process, over a scripted runner."""

import asyncio
import contextlib
import json

import pytest

from mcp_conda_run.errors import RequestError
from mcp_conda_run.models import Progress, RunRequest
from mcp_conda_run.server import heartbeat
from mcp_conda_run.server import runs as runs_module
from mcp_conda_run.server.app import instructions
from mcp_conda_run.server.runs import Run, Runs

from .conftest import serving, text
from .scripted import Scripted


async def call(settings, code="", **arguments):
    async with serving(settings) as served:
        return await served.call(**({"python_code": code} if code else {}), **arguments)


async def request_of(settings, tool="run_python_code", **arguments):
    async with serving(settings) as served:
        answer = await served.call(tool, **arguments)
        assert not answer.is_error, text(answer)
        return served.runner.requests[0]


async def test_code_runs_and_its_answer_comes_back(settings, era):
    async with serving(settings, mode=era) as served:
        answer = await served.call(python_code="echo hello")
    assert text(answer).startswith(
        "<status>success</status>\n<output>\nhello\n</output>\n<return_value>\nhello\n</return_value>"
    )
    assert answer.structured_content["stdout"] == "hello\n"


async def test_a_file_runs_with_its_arguments(settings):
    request = await request_of(settings, "run_python_file", file_path="/working/a.py", args=["-x", "1"])
    assert (request.file, request.args, request.code) == ("/working/a.py", ("-x", "1"), None)


async def test_empty_arguments_mean_the_configured_ones(settings):
    request = await request_of(settings, python_code="echo", python="", template="", timeout_s=0, network="")
    assert (request.python, request.template, request.timeout_s, request.network) == (None, None, None, None)


@pytest.mark.parametrize("free", ['{"a": 1}', "[1]", "echo", "null", "12", '"quoted"'])
async def test_code_that_looks_like_json_stays_text(settings, free):
    async with serving(settings) as served:
        await served.call(python_code=f"echo {free}")
        assert served.runner.requests[0].code == f"echo {free}"


async def test_a_template_that_looks_like_json_stays_text(settings):
    assert "There is no template '[1]'" in text(await call(settings, "echo", template="[1]"))


async def test_a_shipped_template_may_be_named(settings):
    assert (await request_of(settings, python_code="echo", template="base")).template == "base"


async def test_the_configured_template_may_be_named_by_its_file(settings, tmp_path):
    own = str(tmp_path / "own.yml")
    configured = settings.model_copy(update={"template": own})
    assert (await request_of(configured, python_code="echo", template=own)).template == own


@pytest.mark.parametrize("tool", ["run_python_code", "plan_python_code"])
async def test_a_template_cannot_be_a_path_of_the_host(settings, tmp_path, tool):
    secret = tmp_path / "secret.yml"
    secret.write_text("password: hunter2\n")
    async with serving(settings) as served:
        answer = await served.call(tool, python_code="echo", template=str(secret))
        assert served.runner.requests == []
    assert answer.is_error
    assert "unknown-template: There is no template" in text(answer)
    assert "hunter2" not in text(answer)


@pytest.mark.parametrize(
    ("sent", "understood"),
    [
        (["gdal>=3.8", "numpy"], ("gdal>=3.8", "numpy")),
        ('["numpy"]', ("numpy",)),
        ("numpy", ("numpy",)),
        ("numpy, gdal>=3.8,<4", ("numpy", "gdal>=3.8,<4")),
        ("numpy pandas", ("numpy", "pandas")),
        ("gdal >=3.8", ("gdal >=3.8",)),
        ("", ()),
    ],
)
async def test_packages_are_a_list_or_a_string(settings, sent, understood):
    assert (await request_of(settings, python_code="echo", packages=sent)).packages == understood


async def test_arguments_of_a_file_may_be_a_command_line(settings):
    request = await request_of(settings, "run_python_file", file_path="a.py", args="-n 'two words'")
    assert request.args == ("-n", "two words")


async def test_global_variables_may_be_a_json_text(settings):
    assert (await request_of(settings, python_code="echo", global_variables='{"a": [1]}')).global_variables == {
        "a": [1]
    }


async def test_an_unknown_argument_is_refused_with_the_nearest_name(settings):
    async with serving(settings) as served:
        answer = await served.call(python_code="echo", timeout=5)
        assert served.runner.requests == []
    assert answer.is_error
    assert "There is no argument 'timeout'; did you mean 'timeout_s'?" in text(answer)
    assert "run_python_code takes python_code, global_variables," in text(answer)


async def test_a_missing_argument_is_named(settings):
    assert "The argument 'python_code' is missing." in text(await call(settings, packages=["numpy"]))


@pytest.mark.parametrize("wrong", [{"timeout_s": -1}, {"timeout_s": "soon"}, {"packages": 3}, {"wait_s": 1e9}])
async def test_a_wrong_argument_is_refused_by_name(settings, wrong):
    answer = await call(settings, "echo", **wrong)
    assert answer.is_error
    assert f"The argument '{next(iter(wrong))}' cannot be used: Input should be" in text(answer)


async def test_a_longer_time_than_the_operator_allows_is_refused(settings):
    assert "timeout_s may be at most 3600 here" in text(await call(settings, "echo", timeout_s=3601))


async def test_a_call_cannot_widen_the_network_policy(settings):
    closed = settings.model_copy(update={"network": "none"})
    assert "cannot widen it" in text(await call(closed, "echo", network="full"))


async def test_a_call_can_narrow_the_network_policy(settings):
    assert (await request_of(settings, python_code="echo", network="none")).network == "none"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("bad", "bad-request: The code is empty.\nSend some."),
        ("broken", "broken-host: The disk is full.\nFree some space."),
        ("bug", "internal: The server failed: ZeroDivisionError.\nSee the server's log."),
    ],
)
async def test_what_cannot_be_served_is_an_error_that_says_why(settings, code, said):
    answer = await call(settings, code)
    assert answer.is_error
    assert text(answer) == f"<status>run-error</status>\n<error>\n{said}\n</error>"


async def test_packages_that_cannot_be_had_are_an_install_error(settings):
    answer = await call(settings, "uninstallable")
    assert answer.is_error
    assert text(answer).startswith("<status>install-error</status>\n<error>\nunsatisfiable: Nothing provides foo.\nfoo")


async def test_a_plan_runs_nothing(settings):
    async with serving(settings) as served:
        answer = await served.call("plan_python_code", python_code="from osgeo import gdal")
        assert served.runner.requests == []
    assert '<dependencies>["gdal"]</dependencies>' in text(answer)


async def test_a_plan_of_bad_code_is_refused(settings):
    async with serving(settings) as served:
        assert (await served.call("plan_python_code", python_code="bad")).is_error


# --- long work --------------------------------------------------------------------------------------------------------


async def test_a_run_longer_than_the_wait_gives_its_run_id(settings, era):
    async with serving(settings, mode=era) as served:
        answer = await served.call(python_code="hold", wait_s=0.05)
        assert answer.structured_content["status"] == "running"
        assert f'get_run with run_id="{answer.structured_content["run_id"]}"' in text(answer)
        assert answer.structured_content["progress"]["phase"] == "download"


async def test_a_run_that_goes_on_is_collected_by_its_run_id(settings, era):
    async with serving(settings, mode=era) as served:
        run_id = (await served.call(python_code="hold", wait_s=0)).structured_content["run_id"]
        served.runner.release.set()
        answer = await served.call("get_run", run_id=run_id)
        assert "released" in text(answer)
        assert answer.structured_content["run_id"] == run_id


async def test_an_answer_can_be_had_again(settings):
    async with serving(settings) as served:
        answer = await served.call(python_code="echo once")
        again = await served.call("get_run", run_id=answer.structured_content["run_id"])
        assert text(again) == text(answer)
        assert len(served.runner.requests) == 1


async def test_a_run_that_goes_on_can_be_cancelled(settings):
    async with serving(settings) as served:
        run_id = (await served.call(python_code="hold", wait_s=0.05)).structured_content["run_id"]
        answer = await served.call("cancel_run", run_id=run_id)
        assert served.runner.cancelled.is_set()
        assert text(answer).startswith("<status>cancelled</status>")
        assert not answer.is_error


async def test_cancelling_a_finished_run_gives_its_answer(settings):
    async with serving(settings) as served:
        run_id = (await served.call(python_code="echo done")).structured_content["run_id"]
        assert "done" in text(await served.call("cancel_run", run_id=run_id))


@pytest.mark.parametrize("tool", ["get_run", "cancel_run"])
async def test_an_unknown_run_is_refused(settings, tool):
    async with serving(settings) as served:
        answer = await served.call(tool, run_id="../../etc/passwd")
    assert answer.is_error
    assert "There is no run" in text(answer)


async def test_a_cancelled_call_kills_its_run(settings, era):
    async with serving(settings, mode=era) as served:
        waiting = asyncio.create_task(served.call(python_code="hold"))
        await served.runner.holding.wait()
        waiting.cancel()
        await asyncio.wait_for(served.runner.cancelled.wait(), 5)
        assert "still here" in await served.text("echo still here")


async def test_a_cancelled_wait_leaves_the_run_alone(settings):
    async with serving(settings) as served:
        run_id = (await served.call(python_code="hold", wait_s=0)).structured_content["run_id"]
        await served.runner.holding.wait()
        heard = asyncio.Event()

        async def listen(progress, total, message):
            heard.set()

        waiting = asyncio.create_task(served.client.call_tool("get_run", {"run_id": run_id}, progress_callback=listen))
        await asyncio.wait_for(heard.wait(), 10)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert "still here" in await served.text("echo still here")
        assert not served.runner.cancelled.is_set()


async def progress_of(settings, era, tool, count):
    """Return the first notifications that a call of `hold` sends."""
    heard: list[tuple[float, str]] = []
    enough = asyncio.Event()

    async def listen(progress, total, message):
        heard.append((progress, message))
        if len(heard) == count:
            enough.set()

    async with serving(settings, mode=era) as served:
        call = asyncio.create_task(served.client.call_tool(tool, {"python_code": "hold"}, progress_callback=listen))
        await asyncio.wait_for(enough.wait(), 20)
        served.runner.release.set()
        await call
    return heard


@pytest.mark.parametrize("tool", ["run_python_code", "plan_python_code"])
async def test_progress_says_what_is_going_on(settings, era, tool):
    [(_, message)] = await progress_of(settings, era, tool, 1)
    assert message == "download: numpy, 120 of 300 MB (1 s)"


async def test_progress_is_repeated_and_its_number_only_grows(settings, era, monkeypatch):
    monkeypatch.setattr(heartbeat, "HEARTBEAT_S", 0.6)
    numbers = [number for number, _ in await progress_of(settings, era, "run_python_code", 3)]
    assert numbers == sorted(set(numbers))


def test_how_long_is_told_of_what_is_done_now():
    run = Run()
    run.began -= 1000
    run.phase_began -= 1000
    run.note(Progress("run", "running"))
    assert run.phase_s < 500 < run.elapsed_s
    run.phase_began -= 600
    run.note(Progress("run", "running"))
    assert run.phase_s > 500


def test_the_heartbeat_is_within_every_clients_patience():
    assert heartbeat.HEARTBEAT_S + heartbeat.MIN_INTERVAL_S <= 5


@pytest.mark.parametrize(
    ("progress", "said"),
    [
        (Progress("run", "running"), "running"),
        (Progress("solve", "solving for gdal"), "solving for gdal"),
        (Progress("download", "", 1e6, 2e6, "bytes"), "download, 1 of 2 MB"),
        (Progress("compile", "compiling bytecode", 10, 400, "files"), "compiling bytecode, 10 of 400 files"),
    ],
)
def test_progress_is_described_in_a_line(progress, said):
    assert heartbeat.describe(progress) == said


async def test_more_runs_than_the_bound_are_refused(settings):
    async with serving(settings.model_copy(update={"slots": 1, "queue": 1})) as served:
        for _ in range(2):
            await served.call(python_code="hold", wait_s=0)
        assert "too-many-runs" in text(await served.call(python_code="echo", wait_s=0))


async def test_a_client_beyond_its_share_is_refused_and_others_are_not(settings):
    async with Runs(settings.model_copy(update={"client_runs": 2}), lambda: contextlib.nullcontext(Scripted())) as runs:
        greedy = [runs.start(RunRequest(code="hold"), client="192.0.2.1") for _ in range(2)]
        with pytest.raises(RequestError, match="This client has 2 runs under way or waiting") as refused:
            runs.start(RunRequest(code="echo"), client="192.0.2.1")
        assert refused.value.code == "too-many-runs"
        assert "get_run" in refused.value.hint
        runs.start(RunRequest(code="echo"), client="192.0.2.2")
        greedy[0].cancel()
        await greedy[0].finished.wait()
        runs.start(RunRequest(code="echo"), client="192.0.2.1")


async def test_old_answers_are_forgotten(settings, monkeypatch):
    monkeypatch.setattr(runs_module, "KEPT_RUNS", 2)
    async with serving(settings) as served:
        ids = [(await served.call(python_code="echo")).structured_content["run_id"] for _ in range(4)]
        kept = [not (await served.call("get_run", run_id=run_id)).is_error for run_id in ids]
    assert kept == [False, False, True, True]


async def test_large_answers_are_forgotten_first(settings, monkeypatch):
    monkeypatch.setattr(runs_module, "KEPT_BYTES", 1000)
    async with serving(settings) as served:
        large = (await served.call(python_code="big 2000")).structured_content["run_id"]
        small = (await served.call(python_code="echo")).structured_content["run_id"]
        assert (await served.call("get_run", run_id=large)).is_error
        assert not (await served.call("get_run", run_id=small)).is_error


async def test_closing_kills_all_runs(settings):
    async with serving(settings) as served:
        await served.call(python_code="hold", wait_s=0)
        await served.runner.holding.wait()
    assert served.runner.cancelled.is_set()


# --- what is published ------------------------------------------------------------------------------------------------


async def test_every_argument_is_described(settings):
    async with serving(settings) as served:
        tools = (await served.client.list_tools()).tools
    for tool in tools:
        for name, schema in tool.input_schema["properties"].items():
            assert schema.get("description"), f"{tool.name}.{name}"


async def test_every_tool_has_annotations_a_closed_input_and_an_output_schema(settings):
    async with serving(settings) as served:
        tools = (await served.client.list_tools()).tools
    assert {tool.name for tool in tools} == {
        "run_python_code",
        "run_python_file",
        "plan_python_code",
        "get_run",
        "cancel_run",
    }
    for tool in tools:
        assert tool.annotations is not None
        assert tool.input_schema["additionalProperties"] is False
        assert tool.output_schema["type"] == "object"
        assert tool.description


async def test_the_output_schema_names_every_part_and_repeats_nothing(settings):
    async with serving(settings) as served:
        tools = (await served.client.list_tools()).tools
    schema = next(tool.output_schema for tool in tools if tool.name == "run_python_code")
    assert schema["$defs"]["FigureReport"]["properties"]["title"] == {"type": "string"}
    assert schema["properties"]["output"].keys() == {"description", "type"}


async def test_the_tools_cost_a_model_few_tokens(settings):
    async with serving(settings) as served:
        tools = (await served.client.list_tools()).tools
    shown = json.dumps([[tool.name, tool.description, tool.input_schema] for tool in tools])
    assert len(shown) < 6000  # about 1500 tokens


async def test_the_instructions_say_what_is_there(settings):
    async with serving(settings) as served:
        said = served.client.instructions
    assert "numpy" in said
    assert "/working" in said


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"works": {"A": False, "C": True}}, "Isolation found here: Landlock and seccomp."),
        ({"works": {"A": True, "C": True}}, "Isolation found here: namespaces."),
        ({"works": []}, "Each answer says which isolation really held."),
        (None, "Each answer says which isolation really held."),
    ],
)
def test_the_instructions_say_what_isolation_was_found(settings, found, said):
    if found is not None:
        (settings.cache_dir / "sandbox").mkdir(parents=True)
        (settings.cache_dir / "sandbox" / "probe.json").write_text(json.dumps(found))
    assert said in instructions(settings)


def test_the_instructions_do_not_hide_that_runs_are_not_isolated(settings):
    assert "Runs are not isolated." in instructions(settings.model_copy(update={"isolation": "none"}))


async def test_an_unknown_template_is_said_and_does_not_stop_the_server(settings):
    async with serving(settings.model_copy(update={"template": "nonsense"})) as served:
        assert "There is no template 'nonsense'" in served.client.instructions


async def test_the_prompt_names_the_file(settings):
    async with serving(settings) as served:
        prompt = await served.client.get_prompt("analyse_file", {"file_path": "/working/a.csv"})
    assert "/working/a.csv" in prompt.messages[0].content.text


async def test_fifty_figures_arrive(settings, era):
    async with serving(settings, mode=era) as served:
        answer = await served.call(python_code="figures 50")
    assert 0 < sum(block.type == "image" for block in answer.content) < 50
