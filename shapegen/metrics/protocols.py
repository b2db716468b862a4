"""How many shapes and points of each set an evaluation takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from common.errors import InputError
from shapegen.metrics.distances import Kind

# Below, a set says nothing about a distribution.
MIN_SHAPES = 5


@dataclass(frozen=True)
class Protocol:
    """How many shapes and points enter; None means all. Values under different protocols don't compare.

    Attributes:
        name: stands in the results.
        cd_shapes, cd_points: of each set for Chamfer metrics and JSD.
        emd_shapes, emd_points: of each set for the earth mover's, whose cost grows as the 2.5th power of the points.
        class_shapes, class_points: of each set for the Chamfer metrics of one class.
        class_kinds: distances that are taken by class.
        train_shapes, train_points: training shapes that novelty is measured against, and points of each.
    """

    name: str
    cd_shapes: int | None = None
    cd_points: int | None = None
    emd_shapes: int | None = None
    emd_points: int | None = None
    class_shapes: int | None = None
    class_points: int | None = None
    class_kinds: tuple[Kind, ...] = ("cd", "emd")
    train_shapes: int | None = None
    train_points: int | None = None

    def with_shapes(self, count: int) -> Protocol:
        """The same with `count` shapes of each set, and of each class, for Chamfer metrics and JSD.

        Raises:
            InputError: too few to compare sets.
        """
        if count < MIN_SHAPES:
            raise InputError(f"got {count} shapes, at least {MIN_SHAPES} are needed to compare sets")
        return replace(self, name=f"{self.name}, {count} shapes", cd_shapes=count, class_shapes=count)


# One to two minutes on two cores with a dozen classes; intervals of 1-NNA of about +-8 points, by class of +-13.
QUICK = Protocol("quick", 100, 1024, 48, 512, 40, 512, ("cd",), 256, 512)
FULL = Protocol("full")
PROTOCOLS: Mapping[str, Protocol] = {"quick": QUICK, "full": FULL}


def find_protocol(name: str) -> Protocol:
    """The protocol called `name`; an `InputError` lists them otherwise."""
    if name not in PROTOCOLS:
        raise InputError(f"got the mode '{name}', expected one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
