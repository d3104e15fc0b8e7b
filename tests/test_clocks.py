"""No verdict of a test depends on how long something took: that is a matter of what else runs."""

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings


TESTS = Path(__file__).parent
MEASURED = r"\b(time|monotonic|perf_counter|process_time)(_ns)?\(\)"
LIMITED = (
    r"\btimeout ?= ?\d|mark\.timeout|\.(wait|join|communicate|get|result)\(\d|\bdeadline ?= ?\d"
)


@pytest.mark.parametrize("line", ["x = time.time()", "perf_counter()", "p.wait(timeout=60)",
                                  "event.wait(30)", "@settings(deadline=200)"])  # fmt: skip
def test_such_lines_are_found(line):
    assert re.search(f"{MEASURED}|{LIMITED}", line)


def test_no_test_measures_time_or_gives_anybody_a_limit_of_it():
    found = [
        f"{path.relative_to(TESTS)}:{number}: {line.strip()}"
        for path in sorted(TESTS.rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if path != Path(__file__) and re.search(f"{MEASURED}|{LIMITED}", line)
    ]
    assert not found, "\n".join(found)


def test_an_example_may_take_as_long_as_it_takes():
    assert settings().deadline is None
    assert HealthCheck.too_slow in settings().suppress_health_check
