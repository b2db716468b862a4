"""`molgen benchmark`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.cli.app import Verb
from common.cli.benchmark import benchmark_verb

if TYPE_CHECKING:
    from common.benchmark.domain import Domain


def _domain() -> Domain:
    from molgen.benchmark.tasks import DOMAIN

    return DOMAIN


def _verbs() -> list[Verb]:
    from molgen.cli import verbs

    return verbs()


VERB = benchmark_verb(_domain, _verbs, "molecules with wanted properties")
