"""Cases that failed once; those that still do say which kind of issue 28 they belong to."""

import pytest
from tests.fuzz.configs import EditedConfig
from tests.fuzz.headers import OddNifti
from tests.fuzz.hub_answers import OddHub
from tests.fuzz.metadata import EditedExport


def open_kind(kind: int) -> pytest.MarkDecorator:
    """Mark a case that fails until its kind is mended, and must pass from then on."""
    return pytest.mark.xfail(strict=True, reason=f"kind {kind} of issue 28")


EXAMPLES = [
    EditedConfig("info", (("set", 5, "@lists"),)),
    EditedConfig("predict", (("set", 5, "@objects"),)),
    OddHub(edits=(("set", 208, "@objects"),), verb="info"),
    EditedExport(raw="@lists"),
    EditedExport(edits=(("set", 267, '""'),)),
    pytest.param(EditedExport(external="secret.raw"), marks=open_kind(4)),
    OddNifti(fields=((24, 24),)),  # a sform of another spacing than pixdim
]
