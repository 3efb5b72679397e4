"""The score: the script itself on rows of ours, and the public rows where they are at hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "score_imports"
EVALUATION = ROOT.parent / "shared" / "eval"


def score(*arguments: str | Path) -> dict[str, dict[str, float]]:
    command = [sys.executable, str(SCRIPT), "--json", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return json.loads(done.stdout)


def row(module: str, conda: list[str], pypi: list[str], rank: int | None = 1) -> str:
    return json.dumps({
        "import_name": module, "conda_names": conda, "pypi_names": pypi, "channel": "conda-forge" if conda else "pip",
        "rank": rank, "scientific": True,
    })  # fmt: skip


def test_each_kind_of_answer_is_counted(tmp_path: Path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "\n".join(
            [
                row("yaml", ["pyyaml"], ["PyYAML"]),
                row("frob", ["right-frob"], ["frob"]),
                row("gurobipy", [], ["Gurobipy"]),
                row("drake_x", [], ["drake"], None),
            ]
        )
    )
    index = tmp_path / "index.json"
    index.write_text(json.dumps({"pyyaml": True, "yaml": False, "frob": True, "right-frob": True}))
    line = score(rows, "--index", index)["all"]
    assert line == {"rows": 4, "right": 50.0, "wrong-conda": 25.0, "wrong-pip": 0.0, "unknown": 25.0}


@pytest.mark.skipif(not EVALUATION.is_dir(), reason="the public evaluation rows are not here")
def test_the_public_rows_are_known():
    table = score(EVALUATION / "imports-dev.jsonl", EVALUATION / "scientific-dev.jsonl")
    assert table["scientific"]["right"] >= 97
    assert table["scientific"]["wrong-conda"] <= 0.5
    assert table["scientific"]["wrong-pip"] == 0
    assert table["top 5000, in conda"]["right"] >= 96.5
    assert table["top 5000, in conda"]["wrong-conda"] <= 0.5
    assert table["top 5000"]["wrong-pip"] == 0
