"""What an environment offers, read from file lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_conda_run.environments.modules import offered_modules, wheel_records

SITE = ("lib/python3.12/site-packages",)


def offered(*files: str) -> set[str]:
    return set(offered_modules([{"name": "p", "files": [f"{SITE[0]}/{file}" for file in files]}], SITE))


def test_a_package_is_offered_by_its_top_name_only():
    assert offered("numpy/__init__.py", "numpy/linalg/__init__.py", "numpy/version.py") == {"numpy"}


def test_a_single_module_is_offered():
    assert offered("six.py") == {"six"}


def test_an_extension_module_is_offered_without_its_tags():
    assert offered("_cffi_backend.cpython-312-x86_64-linux-gnu.so", "win.cp312-win_amd64.pyd") == {
        "_cffi_backend",
        "win",
    }


def test_a_namespace_package_is_offered_part_by_part():
    files = ("google/cloud/storage/__init__.py", "google/cloud/storage/blob.py", "google/auth/__init__.py")
    assert offered(*files) == {"google.cloud.storage", "google.auth"}


def test_metadata_and_data_offer_nothing():
    assert offered("x-1.0.dist-info/METADATA", "x/data.json", "distutils-precedence.pth", "a-b/c.py") == set()


def test_files_outside_of_site_packages_offer_nothing():
    assert offered_modules([{"name": "p", "files": ["bin/x.py", "lib/python3.12/os.py"]}], SITE) == {}


def test_each_module_names_its_package():
    records = [{"name": "pillow", "files": [f"{SITE[0]}/PIL/__init__.py"]}]
    assert offered_modules(records, SITE) == {"PIL": "pillow"}


def record_of(prefix: Path, listing: str) -> list[dict[str, object]]:
    site = prefix / SITE[0]
    (site / "my_wheel-1.0.dist-info").mkdir(parents=True)
    (site / "my_wheel-1.0.dist-info/RECORD").write_bytes(listing.encode("utf-8", "surrogateescape"))
    (site / "mine.py").touch()
    return wheel_records(prefix, SITE, [])


def test_a_wheels_modules_belong_to_its_distribution(tmp_path: Path):
    records = record_of(tmp_path, "mine.py,sha256=x,1\n../../../bin/mine,,\n")
    assert offered_modules(records, SITE) == {"mine": "my-wheel"}


def test_what_a_wheel_lists_and_does_not_have_is_not_offered(tmp_path: Path):
    assert offered_modules(record_of(tmp_path, "yours.py,,\nmine.py,,\n"), SITE) == {"mine": "my-wheel"}


@pytest.mark.parametrize(
    "listing", ["", "\0,,\n", '"mine.py', "\udcff\udcfe,,\n", "../../../../../../etc/passwd,,\n", "x" * 200_000]
)
def test_a_list_that_is_none_offers_nothing_and_harms_nobody(tmp_path: Path, listing: str):
    assert offered_modules(record_of(tmp_path, listing), SITE) in ({}, {"mine": "my-wheel"})


def test_what_conda_brought_is_not_counted_as_a_wheel(tmp_path: Path):
    record_of(tmp_path, "mine.py,,\n")
    conda = {"name": "theirs", "files": [f"{SITE[0]}/my_wheel-1.0.dist-info/RECORD"]}
    assert wheel_records(tmp_path, SITE, [conda]) == []
