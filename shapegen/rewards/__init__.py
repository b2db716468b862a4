"""Rewards for shapes: what is measured, on points or on the mesh, and what a user's own function may measure.

`table` lists the scorers; `cloud`, `solid` and `surface` estimate them from points in torch, `body` computes them from
meshes in worker processes, `scoring` runs the workers, `reward` makes a `common.rewards.Reward` of states. Worker
processes import this package, so it imports nothing itself.
"""
