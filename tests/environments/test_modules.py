"""What an environment offers, read from file lists."""

from __future__ import annotations

from mcp_conda_run.environments.modules import offered_modules

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
