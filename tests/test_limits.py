"""Limits: what is above one is refused in a sentence that names it, and another can be set."""

import subprocess
import sys

import pytest

from segzoo import SegzooError, limits

ALL = [value for value in vars(limits).values() if isinstance(value, limits.Limit)]


def test_every_limit_is_named_after_its_variable_and_gives_a_reason():
    assert len(ALL) > 10
    for limit in ALL:
        assert getattr(limits, limit.name) is limit
        assert limit.reason
        assert limit.unit


@pytest.mark.parametrize("limit", ALL, ids=lambda limit: limit.name)
def test_more_is_refused_and_can_be_allowed(monkeypatch, limit):
    limit.check(limit.default, "it has")
    with pytest.raises(SegzooError, match=f"{limit.variable}.*"):
        limit.check(limit.default + 1, "it has")
    with pytest.raises(SegzooError):
        limit.check(float("nan"), "it has")
    monkeypatch.setenv(limit.variable, str(limit.default + 1))
    limit.check(limit.default + 1, "it has")


@pytest.mark.parametrize("said", ["many", "0", "-5", "1.5", "\u00b2"])
def test_a_limit_must_be_a_number(monkeypatch, said):
    monkeypatch.setenv(limits.IMAGE_PIXELS.variable, said)
    with pytest.raises(SegzooError, match=limits.IMAGE_PIXELS.variable):
        limits.IMAGE_PIXELS.check(1, "it has")


def test_memory_is_that_of_the_container_where_it_has_less(monkeypatch, tmp_path):
    (tmp_path / "memory.max").write_text("5000000")
    (tmp_path / "memory.current").write_text("3000000")
    monkeypatch.setattr(limits, "CGROUP", tmp_path)
    assert limits.memory_left() == 2000000
    limits.require_memory(1999999, "scan.png")
    with pytest.raises(SegzooError, match="not enough memory"):
        limits.require_memory(2000001, "scan.png")
    (tmp_path / "memory.max").write_text("max")
    assert limits.memory_left() > 2000000


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_memory_is_that_of_the_process_where_it_has_less():
    code = (
        "import resource, segzoo.limits as limits; resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31)); "
        "print(limits.memory_left())"
    )
    left = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 0 < left < 2**31
