"""The one direction of flow: who may import whom. Imports are read from the source, also those inside functions."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def imports(package: str) -> dict[str, set[str]]:
    """file -> dotted names that it imports, for all files below a package."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        names = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        found[str(path.relative_to(ROOT))] = names
    return found


def offenders(package: str, forbidden: str) -> list[str]:
    return [
        f"{path} imports {name}"
        for path, names in imports(package).items()
        for name in names
        if name == forbidden or name.startswith(forbidden + ".")
    ]


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("common", "molgen"),
        ("common", "shapegen"),
        ("molgen", "shapegen"),
        ("shapegen", "molgen"),
        ("common/diffusion", "common.training"),
        ("common/diffusion", "common.algorithms"),
        ("common/diffusion", "lightning"),
        ("common/algorithms", "common.training"),
        ("common/diffusion", "common.guidance"),
        ("common/guidance", "common.algorithms"),
        ("common/guidance", "common.training"),
        ("common/rewards", "common.algorithms"),
        ("common/rewards", "common.training"),
        ("common/predictors", "common.training"),
        ("common/predictors", "lightning"),
        ("molgen/predictors", "common.training"),
        ("shapegen/predictors", "common.training"),
        ("molgen/chemistry", "torch"),
        ("molgen/metrics", "torch"),
        ("shapegen/families", "torch"),
        ("shapegen/geometry", "torch"),
    ],
)
def test_nothing_flows_backwards(package, forbidden):
    assert imports(package), f"{package} has no files"
    assert offenders(package, forbidden) == []


def test_sampling_never_imports_training():
    for path in ("molgen/model.py", "molgen/cli/generate.py", "molgen/pretrained/__init__.py", "shapegen/model.py"):
        names = imports(path.split("/")[0])[path]
        assert not {name for name in names if name.startswith(("common.training", "lightning"))}


@pytest.mark.parametrize(
    ("package", "files"),
    [
        ("molgen", ("calculation", "graph", "physics")),
        ("shapegen", ("calculation", "body")),
    ],
)
def test_scoring_workers_import_no_torch(package, files):
    """`common.rewards` counts as torch: importing it does so. One function of tensors asks for torch by name."""
    found = imports(f"{package}/rewards")
    for file in files:
        names = found[f"{package}/rewards/{file}.py"]
        top = {name.split(".")[0] if not name.startswith("common.rewards") else "common.rewards" for name in names}
        allowed = {"torch"} if (package, file) == ("shapegen", "calculation") else set()
        assert not top & {"torch", "common.rewards"} - allowed, file
