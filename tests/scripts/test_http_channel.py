"""The test server: good answers, and each fault on demand."""

from __future__ import annotations

import http.client
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import prefixes
from tests.support.http_channel import ChannelServer

BODY = bytes(range(256)) * 40


@pytest.fixture
def server(http_channel: Callable[[Path], ChannelServer], tmp_path: Path) -> ChannelServer:
    (tmp_path / "a.conda").write_bytes(BODY)
    (tmp_path / "b.conda").write_bytes(BODY)
    return http_channel(tmp_path)


def get(server: ChannelServer, path: str = "/a.conda") -> bytes:
    with urllib.request.urlopen(server.url + path, timeout=20) as answer:
        return answer.read()


def status(server: ChannelServer, path: str = "/a.conda") -> int:
    with pytest.raises(urllib.error.HTTPError) as error:
        get(server, path)
    error.value.close()
    return error.value.code


def test_a_file_is_served(server: ChannelServer):
    assert get(server) == BODY


def test_a_file_that_is_absent_is_not_found(server: ChannelServer):
    assert status(server, "/c.conda") == 404


def test_nothing_outside_the_directory_is_served(server: ChannelServer):
    assert status(server, "/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd") == 404


def test_requests_are_recorded(server: ChannelServer):
    get(server)
    assert server.paths("*.conda") == ["/a.conda"]


def test_a_status_can_be_asked_for(server: ChannelServer):
    server.fail("/a*", 503)
    assert status(server) == 503
    assert get(server, "/b.conda") == BODY


def test_a_fault_can_end_by_itself(server: ChannelServer):
    server.fail("/a*", times=1)
    assert status(server) == 500
    assert get(server) == BODY


def test_faults_can_be_mended(server: ChannelServer):
    server.fail("*")
    server.mend()
    assert get(server) == BODY


def test_a_corrupted_answer_has_the_right_length(server: ChannelServer):
    server.corrupt("*")
    answer = get(server)
    assert (answer != BODY, len(answer)) == (True, len(BODY))


def test_a_truncated_answer_ends_early(server: ChannelServer):
    server.truncate("*", keep_bytes=100)
    with pytest.raises(http.client.IncompleteRead) as error:
        get(server)
    assert len(error.value.partial) == 100


def test_a_connection_can_be_cut(server: ChannelServer):
    server.disconnect("*")
    with pytest.raises(http.client.RemoteDisconnected):
        get(server)


def test_a_held_answer_comes_when_its_gate_is_opened(server: ChannelServer):
    gate = server.hold("/a.conda")
    answers: list[bytes] = []
    client = threading.Thread(target=lambda: answers.append(get(server)))
    client.start()
    gate.wait_until_reached()
    assert answers == []
    gate.open()
    client.join(20)
    assert answers == [BODY]


def test_a_slow_answer_is_still_a_whole_one(server: ChannelServer):
    server.slow("*", bytes_per_s=100_000)
    assert get(server) == BODY


def test_a_second_solve_over_http_works_from_the_cached_index(
    small_channel: Path, http_channel: Callable[[Path], ChannelServer], tmp_path: Path
):
    server = http_channel(small_channel)
    for _ in range(2):
        found = prefixes.install(server.url, tmp_path / "none", "mcr-two", cache=tmp_path / "cache", platform="win-64")
    assert any(package.startswith("mcr-two=2.0=") for package in found)
