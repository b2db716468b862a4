"""A user's own reward, also where it crashes, hangs and answers nonsense: scoring completes, the counts are right."""

from __future__ import annotations

import json
import logging
from collections import Counter

import numpy as np
import pytest

from common.errors import InputError
from molgen.chemistry.perception import perceive
from molgen.data.gdb7_xtb import load
from molgen.rewards import table
from molgen.rewards.scoring import MoleculeScorer
from molgen.rewards.table import find_scorer

# What the README shows.
TEN_LINES = '''
"""Prefer molecules that carry much fluorine."""


def score(mols):
    """fluorine's share of the heavy atoms"""
    return [sum(a.GetSymbol() == "F" for a in m.GetAtoms()) / m.GetNumHeavyAtoms() for m in mols]


score.unit = ""
score.bounds = (0, 1)
'''

FAULTY = """
import json, os, signal, time
from pathlib import Path
from rdkit import Chem

FAULTS = json.loads((Path(__file__).parent / "faults.json").read_text())


def score(mols):
    return [one(mol) for mol in mols] + [0.0] * sum(fault(mol) == "long" for mol in mols)


def fault(mol):
    return FAULTS.get(Chem.MolToSmiles(Chem.RemoveHs(mol)))


def one(mol):
    kind = fault(mol)
    if kind == "hang":
        while True:
            pass
    if kind == "exit":
        os._exit(3)
    if kind == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if kind == "raise":
        raise RuntimeError("no such basis set")
    answers = {"none": None, "infinite": float("inf"), "text": "good"}
    return answers[kind] if kind in answers else float(mol.GetNumAtoms())
"""
DIES_ONCE = """
import os
from pathlib import Path

MARK = Path(__file__).parent / "died"


def score(mols):
    if MARK.exists():
        return [1.0 if mol.GetNumAtoms() == 14 else None for mol in mols]
    MARK.touch()
    os._exit(3)
"""
REASONS = {
    "hang": "time limit",
    "exit": "worker died",
    "segfault": "worker died",
    "raise": "RuntimeError",
    "none": "None",
    "infinite": "infinite",
    "text": "not a number",
    "long": "wrong length",
}


def test_ten_lines_are_a_reward(tmp_path, caplog):
    path = tmp_path / "my_score.py"
    path.write_text(TEN_LINES)
    assert len(TEN_LINES.strip().splitlines()) <= 10
    molecules = load().select(range(6))
    with caplog.at_level(logging.INFO):
        scorer = find_scorer(f"{path}:score")
    assert f"loaded {path}:score from {path}" in caplog.text
    assert (scorer.unit, scorer.bounds) == ("", (0.0, 1.0))
    with MoleculeScorer([scorer], workers=1) as engine:
        values = engine.score(molecules).values[scorer.name]
    fluorine = [(numbers == 9).sum() / (numbers > 1).sum() for numbers, _ in molecules]
    np.testing.assert_allclose(values, fluorine)


@pytest.mark.parametrize("batch_size", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_with_a_third_of_the_molecules_crashing_or_hanging_scoring_completes(tmp_path, batch_size):
    molecules = load().select(range(24))
    perceived = perceive(molecules, workers=1)
    # 8 of 24 take their worker down, 5 more answer nonsense.
    kinds = ["hang", "hang", "exit", "exit", "exit", "segfault", "segfault", "exit"]
    kinds += ["raise", "none", "infinite", "text", "long"]
    chosen = np.random.default_rng(0).permutation(24)[: len(kinds)].tolist()
    faults = {perceived[i].smiles: kind for i, kind in zip(chosen, kinds, strict=True)}
    assert len(faults) == len(kinds)
    (tmp_path / "faults.json").write_text(json.dumps(faults))
    # One too many makes a whole batch's answer useless; alone it costs one molecule.
    faulty = FAULTY if batch_size == 1 else FAULTY.replace('"long"', '"short"')
    (tmp_path / "faulty.py").write_text(f"{faulty}\n\nscore.batch_size = {batch_size}\n")

    scorer = find_scorer(f"{tmp_path / 'faulty.py'}:score")
    with MoleculeScorer([scorer, find_scorer("qed")], workers=2, time_limit_s=2.0) as engine:
        result = engine.score(molecules, perceived)
    values, reasons = result.values[scorer.name], result.reasons[scorer.name]
    healthy = [i for i in range(24) if i not in chosen]
    np.testing.assert_array_equal(values[healthy], molecules.num_atoms[healthy])
    expected = {i: REASONS[kind] for i, kind in zip(chosen, kinds, strict=True)}
    if batch_size > 1:
        expected = {i: reason for i, reason in expected.items() if reason != "wrong length"}
    assert {i: reason for i, reason in enumerate(reasons) if reason} == expected
    assert np.isnan(values).sum() == len(expected)
    assert result.failures == {f"{scorer.name}: {reason}": n for reason, n in Counter(expected.values()).items()}
    assert not np.isnan(result.values["qed"]).any()


def test_crashes_and_time_limits_are_tried_again_other_failures_are_kept(tmp_path):
    molecules = load().select(range(2))
    path = tmp_path / "once.py"
    path.write_text(DIES_ONCE)
    scorer = find_scorer(f"{path}:score")
    with MoleculeScorer([scorer], workers=1) as engine:
        assert engine.score(molecules).reasons[scorer.name] == ["worker died", "None"]
        assert len(engine.cache) == 1
        assert engine.score(molecules).reasons[scorer.name] == ["", "None"]
        assert engine.score(molecules).values[scorer.name][0] == 1


def test_installed_packages_are_found_by_name_and_loaded_only_when_named(monkeypatch):
    class Point:
        name, value = "logs", "absent_package:score"

    monkeypatch.setattr(table, "installed_functions", lambda group: {"logs": Point})
    with pytest.raises(InputError, match=r"did you mean 'logs'"):
        find_scorer("logz")
    with pytest.raises(InputError, match="takes no argument"):
        find_scorer("logs", "CCO")
    with pytest.raises(InputError, match="'logs' cannot be loaded"):
        find_scorer("logs")
