"""Valid molecules a second: the shipped model with its own sampler against EDM's sampling (arXiv 2203.17003).

    python benchmarks/bench_sampling.py [--model gdb7-xtb] [--cpu-seconds]

EDM evaluates its network (EGNN, hidden 256, 9 layers; here in the original's formulation) 1,000 times for a sample.
One evaluation of 64 molecules by each side is timed, in turns, at equal sizes: QM9's, and the shipped model's own. The
counts of evaluations and the shares of valid molecules are those of the model's card and of EDM's paper (91.9 %, QM9).
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from bench_egnn import N_FEATURES, compare, forward, make_batch, sizes_like_qm9
from egnn_reference import ReferenceEGNN

from common.allocator import tune_allocator
from common.diffusion import State, size_mask
from molgen import load_pretrained

EDM_EVALUATIONS, EDM_VALID = 1000, 0.919
BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="gdb7-xtb")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--cpu-seconds", action="store_true", help="one thread, timed by its CPU seconds: for a busy machine"
    )
    options = parser.parse_args()
    torch.set_num_threads(1 if options.cpu_seconds else options.threads)
    tune_allocator()
    model = load_pretrained(options.model)
    valid = float(model.description["quality"]["validity"].rstrip(" %")) / 100
    reference = ReferenceEGNN(n_features=N_FEATURES, hidden_nf=256, n_layers=9)
    print(f"{'sizes':18s} {'EDM, valid/s':>13s} {'ours, valid/s':>14s} {'times':>6s} {'one evaluation':>15s}")
    for name, sizes in (
        ("QM9's", sizes_like_qm9(BATCH, np.random.default_rng(0))),
        ("the model's own", model.size_law.draw(0, 0, BATCH)),
    ):
        mask = size_mask(torch.from_numpy(np.asarray(sizes)))
        noise = torch.randn(*mask.shape, model.codec.n_channels, generator=torch.Generator().manual_seed(0))
        state = State(noise * mask[..., None], mask)
        times = torch.rand(BATCH, generator=torch.Generator().manual_seed(1))

        def ours(state: State = state, times: torch.Tensor = times) -> None:
            with torch.no_grad():
                model.denoiser(state, times)

        seconds = compare(
            {"EDM": forward(reference, make_batch(np.asarray(sizes), 0), autocast=False), "ours": ours},
            options.repeats,
            time.process_time if options.cpu_seconds else time.perf_counter,
        )
        edm, own = (statistics.median(seconds[side]) for side in ("EDM", "ours"))
        rates = BATCH * EDM_VALID / (EDM_EVALUATIONS * edm), BATCH * valid / (model.sampler.steps * own)
        print(f"{name:18s} {rates[0]:13.4f} {rates[1]:14.2f} {rates[1] / rates[0]:6.0f} {edm / own:14.1f}x")


if __name__ == "__main__":
    main()
