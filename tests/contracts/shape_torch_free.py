"""A worker's task that looks around after its work; apart from the tests, so that a worker imports nothing more."""

import sys

from shapegen.rewards.calculation import calculate


def calculate_and_look(item):
    """(whether torch was imported, what `calculate` gave)."""
    result = calculate(item)
    return "torch" in sys.modules, result
