"""Trials: what is done stays done, what fails says why and stops nobody, what is shared is made once."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from contracts.benchmark_world import judge_numbers

from common.benchmark.methods import Step, Trial
from common.benchmark.runner import Runner, TrialRecord, records_of
from common.errors import InputError

# What the program's verbs do, as a shell script: `sh stub.sh generate MODEL OUTPUT_DIR [--resume]`.
STUB = """
set -e
out="$3"
case "$2" in
  broken) echo "stub: error: got model 'broken', expected another" >&2; exit 2 ;;
  slow)
    mkdir -p "$out"; trap 'echo saved > "$out/saved"; exit 1' INT; touch "$out/run.json"
    # A shell that waits for one long command may miss a signal that comes just before.
    for _ in $(seq 600); do sleep 0.1; done ;;
  twice)
    mkdir -p "$out"
    if [ "$4" != --resume ]; then touch "$out/run.json"; echo "stub: incomplete: half" >&2; exit 3; fi ;;
esac
mkdir -p "$out"
echo "$2" >> "$out/calls"
echo "[1.0, 2.0]" > "$out/samples.json"; touch "$out/run.json"
"""


@pytest.fixture
def stub(tmp_path) -> Path:
    path = tmp_path / "stub.sh"
    path.write_text(STUB)
    return path


def runner(stub: Path, models: dict[str, str] | None = None, shared: bool = False) -> Runner:
    """A runner whose trials make their samples by the stub; `models`: method -> model."""

    def recipe(trial: Trial) -> list[Step]:
        output_dir = (trial.shared if shared else trial.directory) / "samples"
        model = (models or {}).get(trial.method, "good")
        return [Step("sampling", (str(stub), "generate", model, str(output_dir)), output_dir)]

    def judge(samples: Path, trial: Trial):
        return judge_numbers(np.array(json.loads((samples / "samples.json").read_text())), trial.target)

    # The verb is words[1] of a command; `sh` takes the words as they are.
    return Runner(recipe, judge, ("sh",))


def trials(folder: Path, *methods: str, targets: tuple[str, ...] = ("x=1",)) -> list[Trial]:
    return [Trial(method, target, 0, folder / "bench") for method in methods for target in targets]


def test_a_trial_is_run_judged_measured_and_written(stub, tmp_path):
    (trial,) = trials(tmp_path, "a")
    (record,) = runner(stub).run([trial])
    assert record.done
    assert record.verdict is not None
    assert record.verdict.n_samples == 2
    assert record.steps[0].spending.seconds > 0
    assert record.steps[0].spending.peak_memory_mb > 0
    # What the command does not state is unknown.
    assert np.isnan(record.steps[0].spending.evaluations)
    again = TrialRecord.read(trial.directory)
    assert again is not None
    assert again.verdict == record.verdict
    assert again.commands == record.commands


def test_what_is_done_is_not_done_again(stub, tmp_path):
    wanted = trials(tmp_path, "a", "b")
    runner(stub).run(wanted[:1])
    runner(stub).run(wanted)
    assert [(t.directory / "samples" / "calls").read_text() for t in wanted] == ["good\n", "good\n"]


def test_a_verdict_that_is_lost_costs_no_samples(stub, tmp_path):
    (trial,) = trials(tmp_path, "a")
    runner(stub).run([trial])
    (trial.directory / "trial.json").unlink()
    (record,) = runner(stub).run([trial])
    assert record.done
    assert (trial.directory / "samples" / "calls").read_text() == "good\n"


def test_a_failure_says_why_and_stops_nobody(stub, tmp_path):
    wanted = trials(tmp_path, "bad", "a")
    bad, good = runner(stub, {"bad": "broken"}).run(wanted)
    assert not bad.done
    assert bad.reason.startswith("stub: error: got model 'broken', expected another (exit code 2")
    assert good.done
    # Mended, it is tried again, and the good one is not.
    assert all(record.done for record in runner(stub).run(wanted))
    assert [(t.directory / "samples" / "calls").read_text() for t in wanted] == ["good\n", "good\n"]


def test_a_command_that_has_begun_goes_on(stub, tmp_path):
    (trial,) = trials(tmp_path, "a")
    (first,) = runner(stub, {"a": "twice"}).run([trial])
    assert not first.done
    assert "half" in first.reason
    before = json.loads((trial.directory / "samples.step.json").read_text())["seconds"]
    (second,) = runner(stub, {"a": "twice"}).run([trial])
    assert second.done
    # The command is what a user types; going on is the runner's word.
    assert "--resume" not in second.commands[0]
    assert second.steps[0].spending.seconds > before > 0


def test_a_shared_step_is_run_once_whoever_comes_first(stub, tmp_path):
    wanted = trials(tmp_path, "a", targets=("x=1", "x=2", "x=3"))
    records = runner(stub, shared=True).run(wanted, workers=3)
    assert all(record.done for record in records)
    assert (wanted[0].shared / "samples" / "calls").read_text() == "good\n"
    assert len({record.steps[0].output_dir for record in records}) == 1


def test_other_commands_in_the_same_place_are_refused(stub, tmp_path):
    wanted = trials(tmp_path, "a")
    runner(stub).run(wanted)
    with pytest.raises(InputError, match="made by other commands; --overwrite"):
        runner(stub, {"a": "twice"}).run(wanted)
    # A trial that is not done, but has samples that another command made.
    (wanted[0].directory / "trial.json").unlink()
    (record,) = runner(stub, {"a": "twice"}).run(wanted)
    assert "made by another command" in record.reason


def test_a_broken_record_is_one_line(stub, tmp_path):
    (trial,) = trials(tmp_path, "a")
    runner(stub).run([trial])
    (trial.directory / "trial.json").write_text('{"method": "a"}')
    with pytest.raises(InputError, match="not a trial of this version"):
        list(records_of(trial.folder))
    (trial.directory / "trial.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        runner(stub).run([trial])


def test_an_interruption_lets_commands_save(stub, tmp_path):
    slow, quick = trials(tmp_path, "slow", "quick")
    one = runner(stub, {"slow": "slow"})
    judge = one._judge

    def interrupt(samples: Path, trial: Trial):
        # As Ctrl-C would, once the slow command has begun.
        deadline = time.monotonic() + 30
        while not (slow.directory / "samples" / "run.json").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        raise KeyboardInterrupt

    one._judge = interrupt
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        one.run([slow, quick], workers=2)
    assert time.monotonic() - began < 40
    assert (slow.directory / "samples" / "saved").exists()
    assert TrialRecord.read(quick.directory) is None
    # What the quick one had made is still there.
    one = runner(stub)
    one._judge = judge
    assert one.run([quick])[0].done
    assert (quick.directory / "samples" / "calls").read_text() == "good\n"
