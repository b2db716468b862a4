"""A user's function that crashes, hangs and answers nonsense, for the rewards of both domains."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

# `key` says which sample it is, `healthy` what it is worth. One answer too many makes a batch's answer useless.
_FAULTY = """
import json, os, signal
from pathlib import Path
{imports}

FAULTS = json.loads((Path(__file__).parent / "faults.json").read_text())


def score(samples):
    return [one(sample) for sample in samples] + [0.0] * sum(fault(sample) == "long" for sample in samples)


def fault(sample):
    return FAULTS.get({key})


def one(sample):
    kind = fault(sample)
    if kind == "hang":
        while True:
            pass
    if kind == "exit":
        os._exit(3)
    if kind == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if kind == "raise":
        raise RuntimeError("no such basis set")
    answers = {{"none": None, "infinite": float("inf"), "text": "good"}}
    return answers[kind] if kind in answers else float({healthy})


score.batch_size = {batch_size}
"""
_REASONS = {
    "hang": "time limit",
    "exit": "worker died",
    "segfault": "worker died",
    "raise": "RuntimeError",
    "none": "None",
    "infinite": "infinite",
    "text": "not a number",
    "long": "wrong length",
}


def write_faulty(
    folder: Path, faults: Mapping[str, str], key: str, healthy: str, imports: str = "", batch_size: int = 1
) -> str:
    """Write the function into `folder`; its name as a reward.

    Args:
        folder: an empty one.
        faults: value of `key` -> kind of fault.
        key, healthy: expressions of `sample`.
        imports: that they need.
        batch_size: samples a call.
    """
    (folder / "faults.json").write_text(json.dumps(faults))
    text = _FAULTY.format(imports=imports, key=key, healthy=healthy, batch_size=batch_size)
    (folder / "faulty.py").write_text(text)
    return f"{folder / 'faulty.py'}:score"


def check_faulty(
    name: str,
    values: np.ndarray,
    reasons: Sequence[str],
    failures: Mapping[str, int],
    kinds: Mapping[int, str],
    healthy: np.ndarray,
) -> None:
    """Every fault is NaN, said and counted; every other sample has its value.

    Args:
        name: of the scorer.
        values, reasons, failures: what scoring gave.
        kinds: place of a sample -> its fault.
        healthy: what each sample is worth.
    """
    whole = [place for place in range(len(values)) if place not in kinds]
    np.testing.assert_array_equal(values[whole], healthy[whole])
    expected = {place: _REASONS[kind] for place, kind in kinds.items()}
    assert {place: reason for place, reason in enumerate(reasons) if reason} == expected
    assert np.isnan(values).sum() == len(expected)
    assert failures == {f"{name}: {reason}": n for reason, n in Counter(expected.values()).items()}
