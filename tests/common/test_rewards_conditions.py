"""What people type is read as they mean it, or refused in one line that says how to mend it."""

from __future__ import annotations

import logging

import pytest

from common.errors import InputError
from common.rewards import (
    Category,
    Maximise,
    Quantity,
    Range,
    Target,
    find_quantity,
    parse,
    rewarded,
    warn_outside,
    without_predictors,
)

KNOWN = (
    Quantity(name="gap_ev", unit="eV", aliases=("gap",), tolerance=0.1),
    Quantity(name="alpha_bohr3", unit="Bohr^3", aliases=("alpha",), tolerance=1.0),
    Quantity(name="energy_hartree", unit="Hartree", aliases=("energy",)),
    Quantity(name="qed", bounds=(0.0, 1.0), tolerance=0.05),
    Quantity(name="strain", unit=None),
    Quantity(name="class", categories=("chair", "wheel", "garden chair", "03001627")),
)


def find(name, argument):
    if name in ("substructure", "similarity"):
        return Quantity(name=f"{name}({argument})", bounds=(0.0, 1.0), tolerance=0.05)
    if ":" in name:
        return Quantity(name=name, unit=None)
    return find_quantity(name, KNOWN)


def read(text):
    (condition,) = parse(text, find)
    return condition


@pytest.mark.parametrize(
    ("text", "name", "goal"),
    [
        ("gap=4.5", "gap_ev", Target(4.5, 0.1)),
        ("gap=4.5±0.2", "gap_ev", Target(4.5, 0.2)),
        ("gap=4.5+-0.2", "gap_ev", Target(4.5, 0.2)),
        ("gap = 4.5 +/- 0.2 eV", "gap_ev", Target(4.5, 0.2)),
        ("gap=4.5eV", "gap_ev", Target(4.5, 0.1)),
        ("GAP_EV=-4.5e-1", "gap_ev", Target(-0.45, 0.1)),
        ("gap=4.5±10%", "gap_ev", Target(4.5, 0.1, relative=True)),
        ("gap=4.5 ± 2.5 % eV", "gap_ev", Target(4.5, 0.025, relative=True)),
        ("4<gap<5±10%", "gap_ev", Range(4, 5, 0.1, relative=True)),
        ("energy=-40", "energy_hartree", Target(-40, None)),
        ("alpha<70", "alpha_bohr3", Range(None, 70, 1.0)),
        ("alpha <= 70", "alpha_bohr3", Range(None, 70, 1.0)),
        ("alpha≤70±5", "alpha_bohr3", Range(None, 70, 5.0)),
        ("alpha>70", "alpha_bohr3", Range(70, None, 1.0)),
        ("70<alpha", "alpha_bohr3", Range(70, None, 1.0)),
        ("70>alpha", "alpha_bohr3", Range(None, 70, 1.0)),
        ("4<gap<5", "gap_ev", Range(4, 5, 0.1)),
        ("5 > gap > 4 eV", "gap_ev", Range(4, 5, 0.1)),
        ("maximise qed", "qed", Maximise(1, 0.0, 1.0)),
        ("maximize gap", "gap_ev", Maximise(1)),
        ("minimise gap from 6 to 2 eV", "gap_ev", Maximise(-1, 2, 6)),
        ("class=wheel", "class", Category("wheel", 1)),
        ("class = garden chair", "class", Category("garden chair", 2)),
        ("class=03001627", "class", Category("03001627", 3)),
        ("gap", "gap_ev", None),
        ("similarity(CC(=O)O)=0.5±0.1", "similarity(CC(=O)O)", Target(0.5, 0.1)),
        ("maximise similarity(CC(=O)O)", "similarity(CC(=O)O)", Maximise(1, 0.0, 1.0)),
        ("my_score.py:score", "my_score.py:score", Maximise(1)),
        ("minimise dir/my-score.py:score", "dir/my-score.py:score", Maximise(-1)),
        ("require gap>4", "gap_ev", Range(4, None, 0.1)),
        ("require qed", "qed", Range(0.5, None)),
        ("forbid substructure([N,O;R])", "substructure([N,O;R])", Range(None, 0.5)),
    ],
)
def test_readings(text, name, goal):
    condition = read(text)
    assert (condition.quantity.name, condition.goal) == (name, goal)
    assert condition.required == text.startswith(("require", "forbid"))


def test_several_at_once_in_order_with_weights():
    conditions = parse(["gap=4.5±0.2 weight 2, alpha<70", "forbid substructure([N,O])", "qed"], find)
    assert [c.quantity.name for c in conditions] == ["gap_ev", "alpha_bohr3", "substructure([N,O])", "qed"]
    assert [c.weight for c in conditions] == [2, 1, 1, 1]
    assert [c.quantity.name for c in rewarded(conditions)] == ["gap_ev", "alpha_bohr3"]


def test_what_was_understood_is_said_with_units():
    shown = [str(c) for c in parse("gap=4.5±0.2 weight 2, 4<gap, maximise qed, require alpha<70±5%, energy", find)]
    assert shown == [
        "gap_ev = 4.5 ± 0.2 eV, weight 2",
        "gap_ev > 4 ± 0.1 eV",
        "maximise qed from 0 to 1",
        "require alpha_bohr3 < 70 ± 5 % Bohr^3",
        "measure energy_hartree in Hartree",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpa=4.5", r"unknown quantity 'gpa' \(did you mean 'gap'\?\)"),
        ("gap=4.5 meV", "gap_ev is in eV; convert"),
        ("qed=0.5 eV", "qed is a pure number"),
        ("strain<3 kcal", "states no unit"),
        ("gap==4.5", "one '=' is enough"),
        ("gap 4.5", "cannot read 'gap 4.5'; expected such as"),
        ("gap=4.5±", "cannot read"),
        ("gap=4.5±0", "a tolerance is positive"),
        ("gap=4.5±-1", "a tolerance is positive"),
        ("gap=0±10%", "a share of 0 is no tolerance"),
        ("energy=-40±10%", "a share of -40 is no tolerance"),
        ("-1<gap<4±10%", "a share of -1 is no tolerance"),
        ("gap=4.5±0%", "a tolerance is positive"),
        ("gap=4.5%", "cannot read"),
        ("5<gap<4", "no value lies between"),
        ("gap=wheel", "gap_ev is a number in eV"),
        ("gap=nan", "gap_ev is a number in eV"),
        ("class=weel", r"no class 'weel' \(did you mean 'wheel'\?\)"),
        ("class<3", "class is one of chair, wheel"),
        ("class=3", "no class '3'; known: chair, wheel"),
        ("gap=4.5 weight 0", "a weight is positive"),
        ("gap weight 2", "only a goal has a weight"),
        ("require gap>4 weight 2", "only a goal has a weight"),
        ("require gap", "say what is required"),
        ("require energy=-3", "needs a tolerance"),
        ("require maximise qed", "say what is required"),
        ("forbid gap<4", "yes-or-no"),
        ("maximise gap from 3 to 3", "both ends"),
        ("similarity(CC", "a bracket is not closed"),
        ("gap=4,,qed", "nothing stands beside a comma"),
        ("gap=4, gap=5", "one quantity, two aims"),
        ("gap=4, maximise gap", "one quantity, two aims"),
        ("", "no condition was given"),
    ],
)
def test_refusals_say_how_to_mend_it(text, message):
    with pytest.raises(InputError, match=message) as error:
        parse(text, find)
    assert "\n" not in str(error.value)


def test_a_reward_needs_an_aim_and_a_tolerance():
    with pytest.raises(InputError, match="say 'maximise gap_ev'"):
        rewarded(parse("gap, require qed>0.5", find))
    with pytest.raises(InputError, match=r"'energy=-40±\.\.\.'"):
        rewarded(parse("energy=-40", find))


def test_a_target_outside_the_training_data_warns_with_the_range(caplog):
    conditions = parse("gap=40, alpha<70, maximise qed, energy=-40", find)
    with caplog.at_level(logging.WARNING):
        lines = warn_outside(conditions, {"gap_ev": (1, 12), "alpha_bohr3": (20, 90), "qed": (0, 1)})
    assert len(lines) == 1
    assert "from 1 to 12 eV" in caplog.text
    assert not warn_outside(parse("4<gap<100", find), {"gap_ev": (1, 12)})
    assert warn_outside(parse("gap<0.5", find), {"gap_ev": (1, 12)})


@pytest.mark.parametrize(
    ("text", "judged"),
    [
        ("predicted_gap=4±0.2", ["gap=4±0.2"]),
        ("predicted_gap(runs/mine)=4±0.2 eV weight 2", ["gap=4±0.2 eV weight 2"]),
        ("predicted_gap=4±0.2, maximise predicted_qed, gap<3±1", ["gap=4±0.2", "maximise qed"]),
        ("3<predicted_gap(a (b))<5", ["3<gap<5"]),
        ("maximise predicted_secret", []),
        ("gap=4±0.2", []),
    ],
)
def test_predictions_are_judged_by_the_quantities_themselves(text, judged):
    """Without the predictor's folder; what nobody else knows cannot be judged."""
    predicted = [Quantity(name=f"predicted_{name}", unit="eV") for name in ("gap", "qed", "secret")]

    def look(name, argument):
        return find_quantity(name, (*KNOWN, *predicted))

    assert without_predictors([text], look) == judged
    assert without_predictors([], look) == []
