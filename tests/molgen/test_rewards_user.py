"""A user's own reward, also where it crashes, hangs and answers nonsense: scoring completes, the counts are right."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from contracts.user_faults import check_faulty, write_faulty

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
    faults = dict(zip(chosen, kinds, strict=True))
    if batch_size > 1:
        # One too many makes a whole batch's answer useless; alone it costs one molecule.
        faults = {i: kind for i, kind in faults.items() if kind != "long"}
    name = write_faulty(
        tmp_path, {perceived[i].smiles: kind for i, kind in faults.items()},
        "Chem.MolToSmiles(Chem.RemoveHs(sample))", "sample.GetNumAtoms()", "from rdkit import Chem", batch_size,
    )  # fmt: skip

    scorer = find_scorer(name)
    with MoleculeScorer([scorer, find_scorer("qed")], workers=2, time_limit_s=2.0) as engine:
        result = engine.score(molecules, perceived)
    check_faulty(
        scorer.name, result.values[scorer.name], result.reasons[scorer.name], result.failures, faults,
        molecules.num_atoms,
    )  # fmt: skip
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
