"""Whatever a guest says or leaves unsaid, `converse` returns in time, within bounds, and says what happened."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import textwrap
import time
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from mcp_conda_run.errors import HostError
from mcp_conda_run.sandbox import conversation
from mcp_conda_run.sandbox.conversation import GuestRequest, converse
from mcp_conda_run.sandbox.record import PNG_SIGNATURE, RecordLimits
from mcp_conda_run.sandbox.streams import FLOOD_FACTOR

from ..guest.harness import guest_process, make_limits, run_guest

GUEST = """
import base64, json, os, socket, struct, sys, time

channel = socket.socket(fileno=int(sys.argv[1]))

def send(body, length=None):
    channel.sendall(struct.pack(">Q", len(body) if length is None else length) + body)

def receive():
    size = struct.unpack(">Q", channel.recv(8, socket.MSG_WAITALL))[0]
    return json.loads(channel.recv(size, socket.MSG_WAITALL))

def ready():
    send(b'{"ready": true}')

RECORD = {"value": None, "error": None, "exit_code": 0, "figures": [], "mapped": 0, "notes": []}
VALUE = {"json": 1, "is_json": True, "text": "1", "type": "int", "truncated": False}

def record(**fields):
    send(json.dumps({**RECORD, **fields}).encode())

"""
POLITE = "ready(); receive()\n"


@pytest.fixture
def talk(tmp_path: Path):
    """Have a conversation with a guest that follows a script of its own instead of the protocol."""

    async def talk(script: str, *, code: str = "1", record_limits: RecordLimits | None = None, **bounds):
        path = tmp_path / "guest.py"
        path.write_text(GUEST + textwrap.dedent(script))
        fields = {"limits": record_limits} if record_limits else {}
        async with guest_process(tmp_path, script=path) as process:
            request = GuestRequest(code=code, filename="main.py", **fields)
            said = await converse(process, request, make_limits(**bounds))
            await assert_nothing_runs_in(tmp_path)
            return said

    return talk


async def assert_nothing_runs_in(directory: Path) -> None:
    """Wait until no process has its working directory there; the killed ones need a moment to go."""
    async with asyncio.timeout(10):
        while any(_runs_in(process, directory) for process in psutil.process_iter()):  # noqa: ASYNC110 - others' ends set no event
            await asyncio.sleep(0.01)


def _runs_in(process: psutil.Process, directory: Path) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and process.cwd() == str(directory)
    except (psutil.Error, OSError):
        return False


@asynccontextmanager
async def a_free_loop():
    """Fail if the event loop is blocked for long meanwhile."""
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.005)
            longest = max(longest, time.perf_counter() - began)

    watching = asyncio.ensure_future(watch())
    try:
        yield
    finally:
        watching.cancel()
    assert longest < 0.5


# --- an honest guest --------------------------------------------------------------------------------------------------


async def test_the_request_arrives_whole(talk):
    said = await talk("ready(); print(len(receive()['code'])); record()", code="# é€𝄞\ud800\n" * 200_000)
    assert said.stdout == "1400000\n"
    assert said.record is not None


async def test_a_record_becomes_typed_data(talk):
    said = await talk(
        POLITE + "error = {'type': 'E', 'message': 'm', 'traceback': 't', 'missing': ['a', 'b']}\n"
        "image = base64.b64encode(b'\\x89PNG\\r\\n\\x1a\\nrest').decode()\n"
        "record(value=VALUE, error=error, exit_code=3, mapped=2, notes=['n'],\n"
        "       figures=[{'mime_type': 'image/png', 'data': image, 'title': 'f'}]); sys.exit(3)"
    )
    record = said.record
    assert (record.value.json, record.value.text, record.value.type) == (1, "1", "int")
    assert (record.error.type, record.error.message, record.error.traceback) == ("E", "m", "t")
    assert (record.missing, record.error.missing_module) == (("a", "b"), "a")
    assert (record.exit_code, record.mapped, record.notes) == (3, 2, ("n",))
    assert [(figure.data, figure.title) for figure in record.figures] == [(PNG_SIGNATURE + b"rest", "f")]
    assert (said.exit.code, said.no_record, said.timed_out) == (3, "", False)


async def test_output_before_ready_counts_too(talk):
    said = await talk("print('early', file=sys.stderr, flush=True); " + POLITE + "record()")
    assert (said.stderr, said.output) == ("early\n", "early\n")


async def test_durations_are_apart(talk):
    said = await talk("time.sleep(0.3); ready(); receive(); time.sleep(0.1); record()")
    assert said.ready_s >= 0.3
    assert 0.1 <= said.run_s < said.ready_s


async def test_both_streams_are_kept_in_the_order_of_arrival(tmp_path):
    turns = "import sys\nfor i in range(50):\n    print(i)\n    print(-i, file=sys.stderr)\n    input_() if 0 else None"
    said = await run_guest(tmp_path, turns)
    assert said.stdout.split() == [str(i) for i in range(50)]
    assert said.stderr.split() == [str(-i) for i in range(50)]
    assert sorted(said.output.split()) == sorted(said.stdout.split() + said.stderr.split())


# --- a guest that does not start --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script",
    ["sys.exit('no library')", "os.kill(os.getpid(), 9)", "send(b'hello')", "send(b'', 1 << 40)", "channel.close()"],
)
async def test_a_guest_that_does_not_come_up_is_a_host_error(talk, script):
    with pytest.raises(HostError) as caught:
        await talk(script)
    assert caught.value.code == "guest-not-started"
    assert caught.value.hint


async def test_what_a_broken_interpreter_printed_is_in_the_error(talk):
    with pytest.raises(HostError) as caught:
        await talk("sys.exit('libpython is missing')")
    assert "libpython is missing" in caught.value.details
    assert "exit code 1" in caught.value.message


async def test_a_guest_that_is_never_ready_is_given_up(talk, monkeypatch):
    monkeypatch.setattr(conversation, "READY_S", 0.3)
    with pytest.raises(HostError, match="did not start in"):
        await talk("time.sleep(600)")


# --- the end ----------------------------------------------------------------------------------------------------------


OVER = "record(); send(b'{\"over\": 3}'); "


async def test_a_guest_that_says_that_all_is_done_is_not_waited_for(talk):
    said = await talk(POLITE + "print('x', flush=True); " + OVER + "time.sleep(600)", wall_s=30)
    assert (said.exit.code, said.exit.signal, said.timed_out) == (3, "", False)
    assert (said.stdout, said.record.exit_code) == ("x\n", 0)


async def test_what_was_printed_before_the_end_is_whole_even_in_the_largest_pipe(talk):
    script = "import fcntl; fcntl.fcntl(1, fcntl.F_SETPIPE_SZ, 1 << 20); os.write(1, b'x' * (1 << 20)); "
    said = await talk(POLITE + script + OVER + "time.sleep(600)", output_bytes=1 << 21)
    assert len(said.stdout) == 1 << 20


async def test_a_child_that_prints_on_and_on_does_not_hold_up_the_end(talk):
    script = POLITE + "print('parent', flush=True)\nif os.fork() == 0:\n    while True: os.write(1, b'x' * 512)\n"
    said = await talk(script + OVER, output_bytes=1 << 30, wall_s=30)
    assert (said.exit.code, said.timed_out, said.stdout[:7]) == (3, False, "parent\n")


@pytest.mark.parametrize("word", ["b'{}'", "b'{\"over\": true}'", "b'x'", "b'[1]'", "b'', 1 << 40"])
async def test_other_words_at_the_end_do_not_count(talk, word):
    said = await talk(POLITE + f"record(); send({word}); sys.exit(5)")
    assert said.exit.code == 5
    assert said.record is not None


async def test_a_crash_after_the_record_is_seen(talk):
    said = await talk(POLITE + "record(); os.abort()")
    assert said.exit.signal == "SIGABRT"
    assert said.record is not None


# --- records that are none --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "send(b'')",
        "send(b'null')",
        "send(b'[]')",
        "send(b'not json')",
        "send(b'\\xff\\xfe')",
        "send(b'[' * 100_000)",
        "send(b'{\"value\":' + b'9' * 10_000 + b'}')",
        "send(b'{}', 100)",
        "send(b'', 1 << 63)",
        "send(b'x' * 10, 1 << 30)",
        "channel.sendall(b'abc')",
        "channel.close()",
        "channel.shutdown(socket.SHUT_RDWR)",
        "record(value=5)",
        "record(value={})",
        "record(value={**VALUE, 'text': 1})",
        "record(value={**VALUE, 'is_json': 'yes'})",
        "record(error=[])",
        "record(error={'type': None, 'message': '', 'traceback': '', 'missing': []})",
        "record(exit_code=True)",
        "record(exit_code='0')",
        "record(exit_code=0.0)",
        "record(figures=None)",
        "record(figures=[1])",
        "record(figures=[{'data': 5}])",
        "record(notes=[1])",
        "record(mapped=None)",
    ],
)
async def test_what_is_no_record_is_told_as_none(talk, sent):
    said = await talk(POLITE + sent)
    assert said.record is None
    assert said.no_record
    assert said.exit.code == 0


async def test_a_guest_that_sends_on_and_on_after_a_lie_is_not_waited_for(talk):
    began = time.perf_counter()
    said = await talk(POLITE + "send(b'', 1 << 40)\nwhile True: channel.sendall(b'x' * 65536)", wall_s=30)
    assert said.record is None
    assert time.perf_counter() - began < 15


async def test_only_the_first_record_counts(talk):
    said = await talk(POLITE + "record(exit_code=1); record(exit_code=2)")
    assert said.record.exit_code == 1


async def test_a_large_record_does_not_block_the_event_loop(talk):
    script = POLITE + "record(value={**VALUE, 'json': ['\\u20ac'] * 20_000}, notes=['x' * 3_000_000])"
    async with a_free_loop():
        said = await talk(script)
    assert said.record.value.json == ["€"] * 20_000
    assert len(said.record.notes[0]) == 1000


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("{'json': float('nan')}", None),
        ("{'json': [float('inf')]}", [None]),
        ("{'json': 10**30}", str(10**30)),
        ("{'json': {'\\ud800': '\\udfff'}}", {"?": "?"}),
    ],
)
async def test_a_value_that_no_encoder_takes_is_made_harmless(talk, value, kept):
    said = await talk(POLITE + f"record(value={{**VALUE, **{value}}})")
    assert said.record.value.json == kept
    assert json.dumps(said.record.value.json, allow_nan=False, ensure_ascii=False).encode()


async def test_a_value_larger_than_allowed_is_left_out(talk):
    said = await talk(POLITE + "record(value={**VALUE, 'json': 'x' * 300_000})")
    assert (said.record.value.is_json, said.record.value.json, said.record.value.truncated) == (False, None, True)
    assert said.record.value.text == "1"


async def test_texts_longer_than_allowed_are_cut(talk):
    said = await talk(
        POLITE + "record(value={**VALUE, 'text': 'x' * 90_000}, error={'type': 'T' * 999, 'message': 'a\\nb',"
        " 'traceback': 'y' * 90_000, 'missing': ['m'] * 99})"
    )
    assert len(said.record.value.text) == len(said.record.error.traceback) == 64 * 1024
    assert (len(said.record.error.type), said.record.error.message, len(said.record.missing)) == (300, "a", 20)


async def test_images_that_are_none_or_too_many_are_left_out_with_a_note(talk):
    said = await talk(
        POLITE + "png = lambda n: base64.b64encode(b'\\x89PNG\\r\\n\\x1a\\n' + bytes(n)).decode()\n"
        "datas = [png(1), base64.b64encode(b'GIF89a').decode(), '%%%', png(200), png(2), png(3)]\n"
        "record(figures=[{'mime_type': 'image/png', 'data': d, 'title': ''} for d in datas])",
        record_limits=RecordLimits(figure_bytes=100, figures=5),
    )
    assert [len(figure.data) for figure in said.record.figures] == [9, 10]
    assert "4 figure(s) left out" in said.record.notes[-1]


# --- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script",
    [
        "time.sleep(600)",
        "while True: pass",
        "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65)); time.sleep(600)",
        "for _ in range(7): channel.send(b'\\0'); time.sleep(0.01)\ntime.sleep(600)",
        "channel.sendall(struct.pack('>Q', 5000))\nwhile True: channel.send(b' '); time.sleep(0.01)",
        "os.fork(); os.fork(); time.sleep(600)",
    ],
    ids=["sleep", "spin", "signals blocked", "drip header", "drip body", "children"],
)
async def test_a_run_without_end_is_ended_when_its_time_is_up(talk, script):
    said = await talk(POLITE + script, wall_s=0.5)
    assert said.timed_out
    assert (said.record, said.exit.signal) == (None, "SIGKILL")
    assert 0.5 <= said.run_s < 5


async def test_a_guest_that_never_reads_its_code_is_ended_in_time(talk):
    said = await talk("ready(); time.sleep(600)", code="#" * 4_000_000, wall_s=0.5)
    assert said.timed_out


async def test_the_time_to_get_ready_does_not_count(talk):
    said = await talk("time.sleep(0.6); " + POLITE + "record()", wall_s=0.5)
    assert not said.timed_out
    assert said.record is not None


async def test_what_was_said_before_the_time_was_up_is_kept(talk):
    said = await talk(POLITE + "print('so far', flush=True); record(value=VALUE); time.sleep(600)", wall_s=1)
    assert said.timed_out
    assert (said.stdout, said.record.value.json) == ("so far\n", 1)


async def test_a_child_that_keeps_everything_open_does_not_hold_up_the_end(talk):
    began = time.perf_counter()
    said = await talk(POLITE + "print('parent', flush=True); record(value=VALUE)\nif os.fork() == 0: time.sleep(600)")
    assert (said.stdout, said.record.value.json, said.exit.code) == ("parent\n", 1, 0)
    assert time.perf_counter() - began < 15


async def test_a_child_that_escaped_and_goes_on_printing_does_not_hold_up_the_end(talk, tmp_path):
    escape = """
        ready(); receive()
        if os.fork() == 0:
            os.setsid()
            open("pid", "w").write(str(os.getpid()))
            end = time.time() + 20
            while time.time() < end:
                os.write(1, b"x")
                time.sleep(0.001)
            os._exit(0)
        while not os.path.exists("pid") or not open("pid").read(): time.sleep(0.01)
        record()
        """
    path = tmp_path / "guest.py"
    path.write_text(GUEST + textwrap.dedent(escape))
    async with guest_process(tmp_path, script=path) as process:
        async with asyncio.timeout(10):
            said = await converse(process, GuestRequest(code="", filename="main.py"), make_limits())
        os.kill(int((tmp_path / "pid").read_text()), 9)
    assert said.record is not None
    assert set(said.stdout) == {"x"}


# --- output -----------------------------------------------------------------------------------------------------------


async def test_of_long_output_head_and_tail_are_kept(talk):
    script = POLITE + "print('first'); sys.stdout.write('é' * 100_000 + '\\n'); print('last'); record()"
    said = await talk(script, output_bytes=10_000)
    for text in (said.stdout, said.output):
        assert text.startswith("first\né")
        assert text.endswith("é\nlast\n")
        assert "\ufffd" not in text
        assert len(text.encode()) < 10_200
        assert f"[{said.dropped_bytes} bytes of output left out]" in text
    kept = said.output.replace(f"\n... [{said.dropped_bytes} bytes of output left out] ...\n", "")
    assert len(kept.encode()) + said.dropped_bytes == 6 + 200_001 + 5


async def test_output_that_just_fits_is_whole(talk):
    said = await talk(POLITE + "sys.stdout.write('x' * 10_000); record()", output_bytes=10_000)
    assert (said.stdout, said.dropped_bytes) == ("x" * 10_000, 0)


async def test_bytes_that_are_no_text_are_replaced(talk):
    said = await talk(POLITE + "os.write(1, b'a\\xff\\xc3'); os.write(2, b'\\0'); record()")
    assert (said.stdout, said.stderr) == ("a\ufffd\ufffd", "\0")


async def test_a_character_in_two_pieces_is_whole_even_if_the_other_stream_comes_between(talk):
    script = (
        POLITE
        + "for b, f in ((b'\\xe2\\x82', 1), (b'-', 2), (b'\\xac', 1)):\n    os.write(f, b); time.sleep(0.1)\nrecord()"
    )
    said = await talk(script)
    assert (said.stdout, said.stderr) == ("€", "-")
    assert sorted(said.output) == ["-", "€"]


@pytest.mark.parametrize("descriptor", [1, 2])
async def test_a_flood_is_ended_and_named(talk, descriptor):
    async with a_free_loop():
        said = await talk(POLITE + f"while True: os.write({descriptor}, b'x' * 65536)", output_bytes=16_384)
    assert (said.exit.limit, said.exit.signal, said.timed_out) == ("output", "SIGKILL", False)
    assert len(said.output) < 17_000
    assert said.dropped_bytes > 16_384 * FLOOD_FACTOR - 17_000


async def test_a_flood_before_ready_is_no_endless_wait(talk):
    with pytest.raises(HostError):
        await talk("while True: os.write(1, b'x' * 65536)", output_bytes=16_384)


async def test_a_guest_that_closes_its_output_is_no_trouble(talk):
    said = await talk(POLITE + "os.close(1); os.close(2); record()")
    assert (said.output, said.exit.code) == ("", 0)
    assert said.record is not None


# --- cancelling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script",
    ["open('here', 'w'); time.sleep(600)", POLITE + "os.fork(); open('here', 'w'); time.sleep(600)"],
    ids=["before ready", "in the code"],
)
async def test_a_cancelled_conversation_leaves_nothing_running(talk, tmp_path, script):
    task = asyncio.ensure_future(talk(script))
    while not (tmp_path / "here").exists():  # noqa: ASYNC110 - only the file says how far the guest is
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await assert_nothing_runs_in(tmp_path)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_many_conversations_leave_no_descriptor_and_no_task_behind(tmp_path):
    async def one(number: int) -> int:
        directory = tmp_path / str(number)
        directory.mkdir()
        said = await run_guest(directory, f"{number} * 2")
        return said.record.value.json

    await one(99)
    gc.collect()
    before = len(os.listdir("/dev/fd"))
    assert await asyncio.gather(*map(one, range(8))) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert len(os.listdir("/dev/fd")) == before
    assert asyncio.all_tasks() == {asyncio.current_task()}
