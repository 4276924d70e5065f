"""Cases that failed once."""

from tests.fuzz.configs import EditedConfig
from tests.fuzz.headers import OddNifti
from tests.fuzz.hub_answers import OddHub
from tests.fuzz.metadata import EditedExport

EXAMPLES = [
    EditedConfig("info", (("set", 5, "@lists"),)),
    EditedConfig("predict", (("set", 5, "@objects"),)),
    OddHub(edits=(("set", 208, "@objects"),), verb="info"),
    EditedExport(raw="@lists"),
    EditedExport(edits=(("set", 267, '""'),)),
    EditedExport(external="secret.raw"),
    OddNifti(fields=((24, 24),)),  # a sform of another spacing than pixdim
]
