"""How far the estimates from points are off: `shapegen.rewards.surface` against the exact values of the meshes.

    python benchmarks/scorers.py [--points 512,2048] [--per-family 4] [--noise 0,0.005] [--families bolt,mug]

Over solids of the procedural families, with points spread at random over the surface and moved by Gaussian noise (its
standard deviation as a share of the diagonal). Errors are relative, but for those that are marked: of shares and of the
symmetry error they are absolute, of the stability margin a share of the height, of the tip angle in degrees.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
import torch

from shapegen.families import FAMILIES, build
from shapegen.families.surface import sample_surface
from shapegen.rewards.body import FUNCTIONS, Body
from shapegen.rewards.cloud import Cloud
from shapegen.rewards.scoring import estimate
from shapegen.rewards.table import REWARDS, Place

SCORERS = [s for s in REWARDS.values() if s.place is Place.POINTS and not s.takes]
ABSOLUTE = {"symmetry_error": "absolute", "overhang_share": "absolute", "fill": "absolute", "uniformity": "absolute",
            "stability_margin_m": "of the height", "tip_angle_deg": "degrees"}  # fmt: skip
# What the files of a data set do not have: shapes that no default configuration trains on.
FIRST_SEED = 900_000_000
BATCH = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--points", default="512,2048")
    parser.add_argument("--noise", default="0,0.005", help="shares of the diagonal")
    parser.add_argument("--per-family", type=int, default=4)
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    families = options.families.split(",")
    meshes = [build(family, FIRST_SEED + k).mesh for family in families for k in range(options.per_family)]
    exact = [_exact(Body(mesh)) for mesh in meshes]
    settings = [(int(n), float(s)) for s in options.noise.split(",") for n in options.points.split(",")]
    found = {}
    for number, noise in settings:
        clouds = np.stack([_points(mesh, number, noise, k) for k, mesh in enumerate(meshes)])
        found[number, noise] = _estimates(clouds, options.device)

    heads = " | ".join(f"{n:,} points" + (f", noise {100 * s:g} %" if s else "") for n, s in settings)
    print(
        f"\n{len(meshes)} solids of {len(families)} families; |error|: median (90 % are below), then the median error\n"
    )
    print(f"| scorer | error | {heads} |\n|---|---|{'---|' * len(settings)}")
    for scorer in SCORERS:
        cells = []
        for setting in settings:
            errors = np.array([_error(scorer.name, found[setting][scorer.name][k], e) for k, e in enumerate(exact)])
            errors = errors[np.isfinite(errors)]
            median, most, bias = np.median(np.abs(errors)), np.quantile(np.abs(errors), 0.9), np.median(errors)
            cells.append(f"{_text(scorer.name, median)} ({_text(scorer.name, most)}), {_text(scorer.name, bias, '+')}")
        print(f"| {scorer.name} | {ABSOLUTE.get(scorer.name, 'relative')} | {' | '.join(cells)} |")
    print(f"\n| median error of volume_m3 | {heads} |\n|---|{'---|' * len(settings)}")
    for f, family in enumerate(families):
        rows = range(f * options.per_family, (f + 1) * options.per_family)
        cells = [np.median([_error("volume_m3", found[s]["volume_m3"][k], exact[k]) for k in rows]) for s in settings]
        print(f"| {family} | " + " | ".join(f"{100 * cell:+.1f} %" for cell in cells) + " |")


def _exact(body: Body) -> dict[str, float]:
    values = {s.name: float(FUNCTIONS[s.exact](body)) for s in SCORERS if s.exact}  # type: ignore[arg-type]
    # Points at random have this, whatever the surface.
    return values | {"uniformity": math.pi / 4}


def _points(mesh, number: int, noise: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    points = sample_surface(mesh, number, rng)[0]
    return points + noise * float(np.linalg.norm(mesh.extents)) * rng.standard_normal(points.shape)


def _estimates(clouds: np.ndarray, device: str) -> dict[str, np.ndarray]:
    parts = []
    for start in range(0, len(clouds), BATCH):
        points = torch.from_numpy(clouds[start : start + BATCH]).to(device, torch.float32)
        mask = torch.ones(points.shape[:2], dtype=torch.bool, device=device)
        with torch.no_grad():
            parts.append(estimate(SCORERS, Cloud.of_points(points, mask)))
    return {s.name: torch.cat([part[s.name] for part in parts]).cpu().double().numpy() for s in SCORERS}


def _error(name: str, value: float, exact: dict[str, float]) -> float:
    difference = value - exact[name]
    if name == "stability_margin_m":
        return difference / exact["height_m"]
    return difference if name in ABSOLUTE else difference / exact[name]


def _text(name: str, error: float, sign: str = "") -> str:
    if ABSOLUTE.get(name) == "absolute":
        return f"{error:{sign}.3f}"
    return f"{error:{sign}.1f}°" if name == "tip_angle_deg" else f"{100 * error:{sign}.1f} %"


if __name__ == "__main__":
    main()
