"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast
import hashlib
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from pydantic import BaseModel

from benchmarks.tables import PAGE, generated
from models.settings import Settings
from search.spec import BudgetSpec, EvaluationSpec, FineTuneSpec, JobSpec, RoundingSpec
from search.strategy_specs import (
    AllocateSpec,
    AmcSpec,
    NetAdaptSpec,
    OptunaSpec,
    RandomSpec,
    RewardSpec,
    SensitivitySpec,
)

ROOT = Path(__file__).parent.parent
PACKAGES = ["api", "espalier", "migrations", "models", "search", "worker"]


@pytest.mark.parametrize("package", PACKAGES)
def test_our_packages_are_the_ones_imported(package: str) -> None:
    """An editable install stands behind site-packages: a stray `models` there would win."""
    file = import_module(package).__file__
    assert file is not None
    assert Path(file).is_relative_to(ROOT)


def test_the_license_travels_with_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (project["license"], project["license-files"]) == ("Apache-2.0", ["LICENSE"])
    text = hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest()
    assert (
        text == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
    )  # apache.org's
    assert "LICENSE" in (ROOT / "Dockerfile").read_text()  # the build of the package demands it


def test_no_test_takes_the_time_of_its_work() -> None:
    """What a busy machine makes longer: count operations, or compare within the process."""
    clocks = re.compile(r"perf_counter|process_time|thread_time|getrusage")
    for path in (ROOT / "tests").rglob("*.py"):
        if path != Path(__file__):
            text = path.read_text()
            assert not clocks.search(text), path
            assert text.count("@settings(") <= text.count("deadline=None"), path


def test_test_folders_have_no_init_files() -> None:
    """One in `tests/search` would shadow the package `search`."""
    assert not list((ROOT / "tests").rglob("__init__.py"))


@pytest.mark.parametrize(
    "module",
    ["espalier", "espalier.client", "espalier.cli", "espalier.format.package", "search.spec",
     "search.graph", "search.cost", "search.evaluation.data", "models.settings", "api.app"],
)  # fmt: skip
def test_what_the_api_needs_imports_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_a_module_can_be_held_in_mind() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 450
    }
    assert not long


def test_the_guide_names_every_setting() -> None:
    guide = (ROOT / "docs" / "guide.md").read_text()
    parts: list[type[BaseModel]] = [JobSpec, EvaluationSpec, FineTuneSpec, RoundingSpec]
    parts += [
        AllocateSpec,
        AmcSpec,
        RewardSpec,
        BudgetSpec,
        NetAdaptSpec,
        OptunaSpec,
        RandomSpec,
        SensitivitySpec,
    ]
    names = {name for part in parts for name in part.model_fields}
    names |= {name.upper() for name in Settings.model_fields}
    assert not {name for name in names if not re.search(rf"\b{name}\b", guide)}


def test_the_benchmarks_tables_are_those_of_the_recorded_results() -> None:
    page = PAGE.read_text()
    assert generated(page) == page


def test_the_api_commits_in_one_place() -> None:
    """`api.writing.committed` encodes the answer first; see there."""
    begun = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in (ROOT / "api").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "transaction"
        and [(key.arg, ast.unparse(key.value)) for key in node.keywords] != [("write", "False")]
    ]
    assert [place.partition(":")[0] for place in begun] == ["api/writing.py"]
