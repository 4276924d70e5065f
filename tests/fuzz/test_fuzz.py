"""Odd input gives the right result, or one sentence with status 2: a few cases of each kind; `make fuzz` has more."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from tests.fuzz.examples import EXAMPLES
from tests.fuzz.kinds import KINDS
from tests.fuzz.oracle import Case, judge

CASES = 8  # of each kind


@pytest.mark.parametrize("case", EXAMPLES, ids=repr)
def test_what_failed_once(case, tmp_path):
    judge(case, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_odd_input_is_right_or_refused(kind, tmp_path):
    @settings(
        max_examples=CASES,
        derandomize=True,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(KINDS[kind])
    def run(case: Case) -> None:
        with TemporaryDirectory(dir=tmp_path) as folder:
            judge(case, Path(folder))

    run()
