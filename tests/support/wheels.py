"""Small wheels made by hand, as a build backend would make them."""

from __future__ import annotations

import zipfile
from pathlib import Path


def make_wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    *,
    tag: str = "py3-none-any",
    requires: tuple[str, ...] = (),
    requires_python: str = "",
    scripts: dict[str, str] | None = None,
    files: dict[str, str] | None = None,
) -> Path:
    """Write a wheel with one module (or `files`) into the folder; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    metadata += [f"Requires-Dist: {text}" for text in requires]
    metadata += [f"Requires-Python: {requires_python}"] if requires_python else []
    contents = dict(files or {f"{name}.py": f"def main():\n    print({version!r})\n"})
    contents[f"{info}/METADATA"] = "\n".join(metadata) + "\n"
    contents[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n"
    if scripts:
        points = "".join(f"{key} = {value}\n" for key, value in scripts.items())
        contents[f"{info}/entry_points.txt"] = f"[console_scripts]\n{points}"
    contents[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in contents)
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in contents.items():
            archive.writestr(file, text)
    return path
