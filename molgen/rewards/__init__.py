"""Rewards for molecules: what is measured, how, and what a user's own function may measure.

`table` lists the scorers, `graph` and `physics` compute them in worker processes, `scoring` runs the workers, `reward`
makes a `common.rewards.Reward` of states. Worker processes import this package, so it imports nothing itself.
"""
