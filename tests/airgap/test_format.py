"""The bundle's file: the same bytes each time, and nothing of a hostile one gets anywhere."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_conda_run.airgap.format import Channel, Content, Manifest, repodata, write_bundle
from mcp_conda_run.airgap.unbundle import read_sha256, unpack_bundle
from mcp_conda_run.errors import RequestError
from mcp_conda_run.settings import Settings

URL = "https://example.org/c"
ID = "0123456789abcdef"
ENTRY = {"name": "six", "version": "1.0", "sha256": "ab" * 32}
INDEX = repodata("noarch", {"six-1.0-0.conda": ENTRY})
ARCHIVE = b"not looked into before it is installed"
HEAD = Manifest(platform="linux-64", channels=(Channel(url=URL, name=ID),))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache_dir=tmp_path / "cache", templates_dir=tmp_path / "templates")


def contents() -> list[Content]:
    """Return what a small bundle carries."""
    return [
        Content(f"channels/{ID}/noarch/repodata.json", INDEX),
        Content(f"channels/{ID}/noarch/six-1.0-0.conda", ARCHIVE),
        Content("templates/mine.yml", b"dependencies: [python]\n"),
    ]


def bundle(file: Path, *, head: Manifest = HEAD, some: list[Content] | None = None) -> Path:
    """Write a bundle."""
    with file.open("wb") as output:
        write_bundle(output, head, contents() if some is None else some)
    return file


def forged(file: Path, members: list[dict[str, object]], *objects: tuple[str, bytes], **more: object) -> Path:
    """Write a tar with a manifest and members of one's own."""
    manifest = {"platform": "linux-64", "channels": [{"url": URL, "name": ID}], "members": members, **more}
    with tarfile.open(file, "w", format=tarfile.USTAR_FORMAT) as output:
        for name, data in (("manifest.json", json.dumps(manifest).encode()), *objects):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            output.addfile(info, io.BytesIO(data))
    return file


def row(path: str, data: bytes) -> dict[str, object]:
    """Return a manifest's row."""
    return {"path": path, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}


def objects(data: bytes) -> tuple[str, bytes]:
    """Return the member that holds data."""
    return f"objects/{hashlib.sha256(data).hexdigest()}", data


def left_in(directory: Path) -> list[Path]:
    """Return the files that got a place."""
    return [path for path in directory.rglob("*") if path.is_file() and path.name != ".lock"]


def test_the_same_content_gives_the_same_bytes(tmp_path: Path):
    one, other = bundle(tmp_path / "one"), bundle(tmp_path / "other", some=contents()[::-1])
    assert one.read_bytes() == other.read_bytes()


def test_any_tar_can_list_it(tmp_path: Path):
    with tarfile.open(bundle(tmp_path / "b.tar")) as file:
        names = file.getnames()
    assert names[0] == "manifest.json"
    assert len(names) == 4


def test_everything_gets_its_place(tmp_path: Path, settings: Settings):
    unpack_bundle(bundle(tmp_path / "b.tar"), settings)
    channel = settings.cache_dir / "bundled/channels" / ID
    assert (channel / "noarch/six-1.0-0.conda").read_bytes() == ARCHIVE
    assert json.loads((channel / "noarch/repodata.json").read_bytes())["packages.conda"] == {"six-1.0-0.conda": ENTRY}
    assert (settings.templates_dir / "mine.yml").read_text() == "dependencies: [python]\n"
    assert json.loads((settings.cache_dir / "bundled/channels.json").read_bytes()) == {URL: ID}


def test_two_bundles_add_up(tmp_path: Path, settings: Settings):
    index = repodata("noarch", {"other-1.0-0.conda": {**ENTRY, "name": "other"}})
    unpack_bundle(bundle(tmp_path / "one"), settings)
    unpack_bundle(bundle(tmp_path / "two", some=[Content(f"channels/{ID}/noarch/repodata.json", index)]), settings)
    document = json.loads((settings.cache_dir / "bundled/channels" / ID / "noarch/repodata.json").read_bytes())
    assert set(document["packages.conda"]) == {"six-1.0-0.conda", "other-1.0-0.conda"}


def test_a_template_of_ones_own_is_not_replaced(tmp_path: Path, settings: Settings):
    settings.templates_dir.mkdir()
    (settings.templates_dir / "mine.yml").write_text("own")
    unpacked = unpack_bundle(bundle(tmp_path / "b.tar"), settings)
    assert (settings.templates_dir / "mine.yml").read_text() == "own"
    assert "stays as it is" in unpacked.notes[0]


def test_a_bundle_for_another_platform_says_so(tmp_path: Path, settings: Settings):
    head = HEAD.model_copy(update={"platform": "osx-arm64"})
    assert "is for osx-arm64" in unpack_bundle(bundle(tmp_path / "b.tar", head=head), settings).notes[0]


def test_the_digest_that_bundle_printed_can_be_demanded(tmp_path: Path, settings: Settings):
    file = bundle(tmp_path / "b.tar")
    right = unpack_bundle(file, settings).sha256
    assert unpack_bundle(file, settings, sha256=right).sha256 == right
    with pytest.raises(RequestError, match="not the expected one"):
        unpack_bundle(file, settings, sha256="ab" * 32)


@pytest.mark.parametrize("text", ["", "xyz", "ab" * 31, "g" * 64])
def test_what_is_no_digest_cannot_be_demanded(text: str):
    with pytest.raises(RequestError, match="no sha256"):
        read_sha256(text)


# --- damaged and hostile ones -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 100, 512, 1024, 2000, -1100, -2000])
def test_a_bundle_that_is_cut_off_leaves_nothing(tmp_path: Path, settings: Settings, keep: int):
    file = bundle(tmp_path / "b.tar")
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(RequestError, match="is not taken as a bundle"):
        unpack_bundle(file, settings)
    assert left_in(settings.cache_dir) == []


def test_a_changed_byte_is_noticed_and_leaves_nothing(tmp_path: Path, settings: Settings):
    file = bundle(tmp_path / "b.tar")
    file.write_bytes(file.read_bytes().replace(ARCHIVE, ARCHIVE.upper()))
    with pytest.raises(RequestError, match=r"six-1.0-0.conda is damaged"):
        unpack_bundle(file, settings)
    assert left_in(settings.cache_dir) == []


@pytest.mark.parametrize(
    "path",
    [
        "../evil",
        "/etc/evil",
        f"channels/{ID}/noarch/../../../evil.conda",
        f"channels/{ID}/../evil/six.conda",
        f"channels/{ID}/noarch/.hidden.conda",
        "templates/../evil.yml",
        "templates/evil.sh",
        "envs/0123456789abcdef.json",
        "locks/x",
        "pypi/wheels/evil.whl",
        "locks/a\nb.conda-lock.yml",
        "",
    ],
)
def test_a_path_that_no_bundle_has_is_refused(tmp_path: Path, settings: Settings, path: str):
    file = forged(tmp_path / "b.tar", [row(path, b"evil")], objects(b"evil"))
    with pytest.raises(RequestError, match="it would bring"):
        unpack_bundle(file, settings)
    assert left_in(tmp_path) == [file]


def test_two_files_of_one_place_are_refused(tmp_path: Path, settings: Settings):
    rows = [row("templates/a.yml", b"1"), row("templates/A.yml", b"2")]
    with pytest.raises(RequestError, match="two of one name"):
        unpack_bundle(forged(tmp_path / "b.tar", rows, objects(b"1"), objects(b"2")), settings)


def test_a_member_that_the_manifest_does_not_name_is_refused(tmp_path: Path, settings: Settings):
    with pytest.raises(RequestError, match="does not name"):
        unpack_bundle(forged(tmp_path / "b.tar", [], objects(b"more")), settings)


def test_a_member_of_another_size_is_refused(tmp_path: Path, settings: Settings):
    rows = [row("templates/a.yml", b"1") | {"size": 2}]
    with pytest.raises(RequestError, match="does not name"):
        unpack_bundle(forged(tmp_path / "b.tar", rows, objects(b"1")), settings)


def test_a_missing_member_is_named(tmp_path: Path, settings: Settings):
    with pytest.raises(RequestError, match=r"templates/a.yml is missing"):
        unpack_bundle(forged(tmp_path / "b.tar", [row("templates/a.yml", b"1")]), settings)


def change_link(info: tarfile.TarInfo) -> None:
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"


def change_hard_link(info: tarfile.TarInfo) -> None:
    info.type, info.linkname = tarfile.LNKTYPE, "manifest.json"


def change_device(info: tarfile.TarInfo) -> None:
    info.type = tarfile.CHRTYPE


def change_directory(info: tarfile.TarInfo) -> None:
    info.type = tarfile.DIRTYPE


def change_sparse(info: tarfile.TarInfo) -> None:
    info.type = tarfile.GNUTYPE_SPARSE


def change_long_name(info: tarfile.TarInfo) -> None:
    info.type = tarfile.GNUTYPE_LONGNAME


def change_extended(info: tarfile.TarInfo) -> None:
    info.type = tarfile.XHDTYPE


@pytest.mark.parametrize(
    "change",
    [
        *(change_link, change_hard_link, change_device, change_directory),
        *(change_sparse, change_long_name, change_extended),
    ],
)
def test_members_other_than_plain_files_are_refused(
    tmp_path: Path, settings: Settings, change: Callable[[tarfile.TarInfo], None]
):
    file = forged(tmp_path / "b.tar", [row("templates/a.yml", b"1")])
    info = tarfile.TarInfo(f"objects/{hashlib.sha256(b'1').hexdigest()}")
    change(info)
    data = file.read_bytes().rstrip(b"\0")
    data += b"\0" * (-len(data) % 512)
    file.write_bytes(data + info.tobuf(tarfile.USTAR_FORMAT) + b"\0" * 1024)
    with pytest.raises(RequestError, match="not a plain file"):
        unpack_bundle(file, settings)


@pytest.mark.parametrize("data", [b"", b"\x1f\x8b\x08" + b"x" * 2000, b"PK\x03\x04" * 500, b"\0" * 4096])
def test_what_is_no_tar_is_refused(tmp_path: Path, settings: Settings, data: bytes):
    (tmp_path / "b.tar").write_bytes(data)
    with pytest.raises(RequestError, match="is not taken as a bundle"):
        unpack_bundle(tmp_path / "b.tar", settings)


def test_a_manifest_that_is_too_long_is_not_read(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mcp_conda_run.airgap.format.MAX_MANIFEST_BYTES", 10)
    with pytest.raises(RequestError, match="does not begin with a manifest"):
        unpack_bundle(bundle(tmp_path / "b.tar"), settings)


@pytest.mark.parametrize("more", [{"platform": "../x"}, {"format": "other"}, {"channels": [{"url": "x", "name": ID}]}])
def test_a_manifest_with_other_things_in_it_is_refused(tmp_path: Path, settings: Settings, more: dict[str, object]):
    with pytest.raises(RequestError, match="its manifest at"):
        unpack_bundle(forged(tmp_path / "b.tar", [], **more), settings)


@pytest.mark.parametrize(
    ("path", "data"),
    [
        (f"channels/{ID}/noarch/repodata.json", b"{}"),
        (f"channels/{ID}/noarch/repodata.json", b"[" * 100_000),
        (f"channels/{ID}/noarch/repodata.json", b'{"packages": {"../x.conda": {}}, "packages.conda": {}}'),
        ("locks/base-1.conda-lock.yml", b"version: 7"),
        ("channels/ffffffffffffffff/noarch/six-1.0-0.conda", b"of no channel"),
    ],
)
def test_what_is_interpreted_later_is_checked_first(tmp_path: Path, settings: Settings, path: str, data: bytes):
    with pytest.raises(RequestError, match="is not taken as a bundle"):
        unpack_bundle(forged(tmp_path / "b.tar", [row(path, data)], objects(data)), settings)
    assert left_in(settings.cache_dir) == []


def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path, settings: Settings):
    from mcp_conda_run.errors import HostError

    with pytest.raises(HostError, match="No such file"):
        unpack_bundle(tmp_path / "nowhere.tar", settings)
