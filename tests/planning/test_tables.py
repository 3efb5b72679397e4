"""The facts themselves: their shape, and that they do not contradict each other."""

from __future__ import annotations

import re
from collections import Counter

from mcp_conda_run.planning.failures import load_patterns
from mcp_conda_run.planning.resolver import Resolver
from mcp_conda_run.planning.tables import Entry, load_tables, read, read_entry, rows, spelled

CONDA_NAME = re.compile(r"[a-z0-9_][a-z0-9_.-]*")
PROJECT = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def same_names() -> dict[str, list[str]]:
    return {field: text.split() for field, text in read("names.toml")["same"].items()}


def test_every_row_names_a_package_or_says_why_there_is_none():
    for key, entry in load_tables().imports.items():
        assert MODULE.fullmatch(key), key
        assert entry.conda or entry.pypi or entry.why_not, key
        assert all(CONDA_NAME.fullmatch(name) for name in (*entry.conda, *entry.companions)), key
        assert re.fullmatch(r"[a-z0-9-]*", entry.channel), key


def test_projects_of_pypi_have_names_that_pypi_would_take():
    for key, entry in load_tables().imports.items():
        assert not entry.pypi or PROJECT.fullmatch(entry.pypi), key


def test_names_of_the_same_are_in_order():
    for field, names in same_names().items():
        assert names == sorted(names, key=lambda name: (name.lower(), name)), field


def test_no_name_is_listed_twice_or_beside_a_row():
    names = [name for field in same_names().values() for name in field]
    assert [name for name, times in Counter(names).items() if times > 1] == []
    assert not set(names) & load_tables().imports.keys()


def test_no_import_has_two_rows():
    document = read("overrides.toml")
    fields = {field: value for field, value in document.items() if field not in {"lists", "namespaces"}}
    keys = Counter(key for key, _ in rows(fields))
    assert [key for key, times in keys.items() if times > 1] == []


def test_names_of_the_same_are_imports():
    for field in same_names().values():
        assert all(MODULE.fullmatch(name) for name in field)


def test_a_module_of_a_regular_family_comes_from_the_project_named_after_it():
    entry = load_tables().entry("aliyunsdkr_kvstore.request")
    assert entry is not None
    assert entry[1].pypi == "aliyun-python-sdk-r-kvstore"


def test_a_line_in_brief_says_conda_names_channel_and_project():
    assert read_entry("bioconda::a b | C") == Entry(("a", "b"), "bioconda", "C")
    assert read_entry("a") == Entry(("a",), pypi="a")
    assert read_entry("a |") == Entry(("a",))
    assert read_entry("| c") == Entry(pypi="c")


def test_a_name_that_people_know_as_a_project_is_no_trap():
    traps = load_tables().traps
    assert "sklearn" in traps
    assert not traps & {"ninja", "psycopg2", "llama-index"}


def test_every_honest_name_is_an_import_of_another_project():
    tables = load_tables()
    aliases = {spelled(key) for key in tables.imports}
    assert set(tables.honest) <= aliases


def test_a_root_under_which_packages_share_names_does_not_swallow_them():
    tables = load_tables()
    for namespace in tables.namespaces:
        found = Resolver(tables).proposals(f"{namespace}.nosuchpart")
        assert found[0].decision == "namespace", namespace


def test_every_pattern_of_a_failure_ends_quickly_on_hostile_text():
    hostile = ["requires " * 3000, "a" * 20_000, "install " * 2500, "'" * 20_000, "conda install " * 1400, " : " * 6000]
    patterns = load_patterns()
    for pattern in (*(message.pattern for message in patterns.messages), *patterns.programs):
        for text in hostile:
            pattern.search(text)


def test_executables_name_conda_packages():
    assert all(CONDA_NAME.fullmatch(name) for name in load_patterns().executables.values())


def proposed(module: str) -> list[str]:
    return [name for proposal in Resolver(load_tables()).proposals(module) for name in proposal.names]


def test_a_version_of_an_interface_comes_from_the_package_of_the_interface():
    entry = load_tables().entry("google.cloud.workflows.executions_v1.types")
    assert entry is not None
    assert entry[1].pypi == "google-cloud-workflows"
    found = load_tables().entry("google.cloud.language_v1beta2")
    assert found is not None
    assert found[1].pypi == "google-cloud-language"


def test_a_version_in_a_name_that_nothing_is_known_of_says_nothing():
    assert load_tables().entry("nosuch.part_v1") is None


def test_modules_that_begin_as_those_of_one_project_do_come_from_it():
    entry = load_tables().entry("volcenginesdksomethingnew.api")
    assert entry is not None
    assert (entry[0], entry[1].pypi) == ("volcenginesdksomethingnew", "volcengine-python-sdk")


def test_an_unknown_part_of_a_bare_root_is_not_served_by_the_roots_own_package():
    tables = load_tables()
    for root in tables.bare:
        own = tables.imports[root]
        assert not {*own.conda, own.pypi} & set(proposed(f"{root}.nosuchpart")), root


def test_a_bare_root_by_itself_is_served():
    assert "google-api-core" in proposed("google")


def test_an_unknown_part_of_another_shared_root_is_looked_for_in_the_roots_own_package():
    assert "apache-airflow" in proposed("airflow.nosuchpart")


def test_a_regular_family_whose_modules_have_dots_has_dashes_in_its_projects():
    entry = load_tables().entry("airflow.providers.apache.spark.hooks")
    assert entry is not None
    assert entry[1].pypi == "apache-airflow-providers-apache-spark"
