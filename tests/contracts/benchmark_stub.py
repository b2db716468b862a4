"""A command for benchmark tests: `python -m contracts.benchmark_stub generate MODEL --output-dir D ...` writes numbers.

It does what `generate` and `finetune` leave behind, in no time, and can be told to fail.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("verb")
    parser.add_argument("model")
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--num-samples", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shift", type=float, default=0.0)
    parser.add_argument("--target", default="")
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    if "broken" in options.model:
        print("stub: error: got model 'broken', expected one that works", file=sys.stderr)
        return 2
    options.output_dir.mkdir(parents=True, exist_ok=True)
    (options.output_dir / "run.json").write_text("{}")
    count = options.num_samples
    # The benchmark samples with 1000 and more, another thousand for each target.
    values = [options.shift + options.seed % 1000 + k / count for k in range(count)]
    (options.output_dir / "samples.json").write_text(json.dumps(values))
    metrics = {"n_samples": count, "generation": {"network_evaluations": 10}}
    (options.output_dir / "metrics.json").write_text(json.dumps(metrics))
    return 0


if __name__ == "__main__":
    sys.exit(main())
