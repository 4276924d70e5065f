"""Cases that failed once."""

from tests.fuzz.configs import EditedConfig
from tests.fuzz.headers import OddNifti, OddText
from tests.fuzz.hub_answers import OddHub
from tests.fuzz.images import OddPicture
from tests.fuzz.metadata import EditedExport

EXAMPLES = [
    EditedConfig("info", (("set", 5, "@lists"),)),
    EditedConfig("predict", (("set", 5, "@objects"),)),
    OddHub(edits=(("set", 208, "@objects"),), verb="info"),
    EditedExport(raw="@lists"),
    EditedExport(edits=(("set", 267, '""'),)),
    EditedExport(external="secret.raw"),
    EditedConfig("verify", (("set", 180, "65537"), ("set", 231, "3"))),
    OddText("mha", (("insert", 2, "data file: secret.raw"),)),
    OddPicture("LA", "TIFF", ".tif", tag=(317, 8, 65536, 65536)),
    OddNifti(fields=((24, 24),)),  # a sform of another spacing than pixdim
]
