"""PoseBusters' checks of chemistry and geometry (Buttenschoen et al., Chem. Sci. 2024, 15, 3130), as an extra.

Its Python interface is used, not its command, which logs errors and exits with 0. The energy check embeds 50
conformers and can take minutes on a cage, so the checks run in killable workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from rdkit import Chem, RDLogger

from common.errors import InputError
from common.metrics import Metric, proportion
from common.workers import TIME_LIMIT, Failure, WorkerPool
from molgen.chemistry.perception import Perceived

INSTALL = "pip install 'reward-guided-diffusion[evaluation]'"


def installed_version() -> str | None:
    """The version of PoseBusters, None if it is not installed."""
    try:
        return version("posebusters")
    except PackageNotFoundError:
        return None


def posebusters_metrics(
    perceived: Sequence[Perceived], limit: int, seed: int = 0, workers: int | None = None, time_limit: float = 60.0
) -> tuple[list[Metric], dict[int, bool]]:
    """`posebusters` (all checks pass) and one row for each check, over at most `limit` samples drawn at random.

    Samples without a valid perceived molecule, and molecules that take over `time_limit` seconds, fail every check.
    A check that PoseBusters leaves undecided (no conformer ensemble for the energy ratio) does not fail a molecule,
    as in its own tables; `rule` counts these.

    Returns the rows and, by index of the sample, whether it passed. Raises `InputError` if it is not installed.
    """
    release = installed_version()
    if release is None:
        raise InputError(f"PoseBusters is not installed; {INSTALL}")
    rng = np.random.default_rng(seed)
    drawn = np.sort(rng.choice(len(perceived), min(limit, len(perceived)), replace=False))
    tried = [int(i) for i in drawn if perceived[i].valid]
    results: dict[int, dict[str, bool | None]] = {}
    timed_out = 0
    if tried:
        with WorkerPool(check_one, workers, time_limit) as pool:
            for k, result in pool.map([perceived[i].mol.ToBinary() for i in tried]):  # type: ignore[union-attr]
                if isinstance(result, Failure):
                    timed_out += result.reason == TIME_LIMIT
                else:
                    results[tried[k]] = result
    checks = list(dict.fromkeys(check for result in results.values() for check in result))
    passed = {int(i): i in results and False not in results[int(i)].values() for i in drawn}
    undecided = sum(None in result.values() for result in results.values())
    rule = f"PoseBusters {release} 'mol', unperceived fail; {undecided} undecided in a check, {timed_out} over time"
    n = len(drawn)
    rows = [proportion("posebusters", sum(passed.values()), n, rule)]
    rows += [
        proportion(f"posebusters[{check}]", sum(r[check] is not False for r in results.values()), n, rule)
        for check in checks
    ]
    return rows, passed


def check_one(binary: bytes) -> dict[str, bool | None]:
    """A worker's task: PoseBusters' `mol` checks of one binary molecule; None stands for an undecided check."""
    from posebusters import PoseBusters

    RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]
    busters = PoseBusters(config="mol")
    # Its `mol` list holds the costly energy check twice, once without asking for a result.
    busters.config["modules"] = [m for m in busters.config["modules"] if m.get("chosen_binary_test_output")]
    row = busters.bust(Chem.Mol(binary)).iloc[0]  # type: ignore[call-overload]
    return {str(check): None if value is None or value != value else bool(value) for check, value in row.items()}
