"""Readers without worker processes, for the tests that are about something else."""

import pytest

from common.workers import Failure


def read_here(reader, items, workers):
    for index, item in enumerate(items):
        try:
            result = reader(item)
        except Exception as error:  # as a worker does
            result = Failure(type(error).__name__, str(error))
        yield index, result


@pytest.fixture
def in_process(monkeypatch):
    """Replace the pool of reading processes by a loop in this one."""
    monkeypatch.setattr("shapegen.data.files.run_readers", read_here)
    monkeypatch.setattr("shapegen.data.ldraw.run_readers", read_here)
