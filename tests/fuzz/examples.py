"""Cases that once failed, each with the kind of issue 28 that it belongs to."""

from tests.fuzz.oracle import Case

EXAMPLES: list[Case] = []
