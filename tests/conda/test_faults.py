"""How the texts of py-rattler 0.28, as it really wrote them, become errors; and what never gets through."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_conda_run.conda.faults import explain_channel, explain_install
from mcp_conda_run.conda.redact import redact

PKGS = Path("/cache/pkgs")
CACHE_LAYER = "failed to fetch six-1.17.0-pyh0_0.conda\nCaused by: failed to interact with the package cache layer.\n"
REFUSED = (
    "error sending request for url (http://me:secret@127.0.0.1:9/t/to-ken/c/linux-64/repodata_shards.msgpack.zst)\n"
    "Caused by: client error (Connect)\nCaused by: tcp connect error\nCaused by: Connection refused (os error 111)"
)
UNTRUSTED = (
    "error sending request for url (https://host/c/linux-64/repodata_shards.msgpack.zst)\n"
    "Caused by: client error (Connect)\nCaused by: invalid peer certificate: UnknownIssuer"
)


@pytest.mark.parametrize(
    ("cause", "code"),
    [
        ("Caused by: hash mismatch when extracting http://h/x to /c: expected aa, got bb", "checksum-mismatch"),
        ("Caused by: an io error occurred: Invalid checksum\nCaused by: Invalid checksum", "checksum-mismatch"),
        ("Caused by: an io error occurred: archive header checksum mismatch", "checksum-mismatch"),
        (
            "Caused by: an io error occurred: error decoding response body\nCaused by: end of file",
            "download-failed",
        ),
        ("Caused by: HTTP status client error (404 Not Found) for url (http://h/x.conda)", "download-failed"),
        ("Caused by: error sending request for url (http://h/x)\nCaused by: Connection refused", "download-failed"),
        ("Caused by: an io error occurred: No space left on device (os error 28)", "disk-full"),
        ("Caused by: an io error occurred: Disk quota exceeded (os error 122)", "disk-full"),
        ("Caused by: failed to create file: Read-only file system (os error 30)", "cache-read-only"),
        ("Caused by: failed to create directory: Permission denied (os error 13)", "cache-read-only"),
        ("Caused by: something that nobody has seen before", "install-failed"),
    ],
)
def test_a_failed_installation_gets_its_code(cause: str, code: str) -> None:
    error = explain_install(CACHE_LAYER + cause, PKGS, offline=False)
    assert error.code == code
    assert "six-1.17.0-pyh0_0" in error.message or str(PKGS) in error.message


def test_an_unknown_failure_still_says_what_the_engine_said() -> None:
    error = explain_install("failed to link x\nCaused by: entirely new trouble", PKGS, offline=False)
    assert "entirely new trouble" in error.message


def test_an_empty_text_is_an_error_too() -> None:
    assert explain_install("", PKGS, offline=False).message


def test_offline_a_download_is_what_is_missing() -> None:
    text = CACHE_LAYER + "Caused by: error sending request for url (http://h/x)\nCaused by: Connection refused"
    assert explain_install(text, PKGS, offline=True).code == "offline-missing"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (REFUSED, "HTTPS_PROXY"),
        (UNTRUSTED, "SSL_CERT_FILE"),
        ("HTTP status client error (401 Unauthorized) for url (https://host/c/x)", "credentials"),
        ("HTTP status client error (404 Not Found) for url (https://host/c/x)", "name or URL"),
        ("could not find subdir 'noarch' in channel 'file:///tmp/nochan/'", "name or URL"),
    ],
)
def test_an_unreachable_channel_gets_the_hint_that_helps(text: str, hint: str) -> None:
    error = explain_channel(text, ["conda-forge"], PKGS, offline=False)
    assert error.code == "channel-unreachable"
    assert hint in error.hint


def test_the_channel_that_failed_is_named_without_credentials() -> None:
    error = explain_channel(REFUSED, ["http://me:secret@127.0.0.1:9/t/to-ken/c"], PKGS, offline=False)
    assert "127.0.0.1:9/t/***/c" in error.message
    assert "secret" not in str(error)
    assert "to-ken" not in str(error)


def test_offline_a_shard_that_is_missing_names_its_package() -> None:
    error = explain_channel("the shard for package 'scipy' is not in the cache", ["c"], PKGS, offline=True)
    assert error.code == "offline-missing"
    assert "scipy" in error.message


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:secret@host/c", "https://host/c"),
        ("https://me:se@cret@host/c", "https://host/c"),
        ("https://token@host", "https://host"),
        ("https://host/t/to-ken/c", "https://host/t/***/c"),
        ("https://host/t/to-ken", "https://host/t/***"),
        ("a https://a:b@c/t/x/y and http://d:e@f/g", "a https://c/t/***/y and http://f/g"),
        ("https://host/c/noarch/x.conda", "https://host/c/noarch/x.conda"),
        ("mail me@host about it", "mail me@host about it"),
    ],
)
def test_credentials_are_cut_out_and_nothing_else(text: str, shown: str) -> None:
    assert redact(text) == shown
