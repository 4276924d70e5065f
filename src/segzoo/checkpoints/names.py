"""Names of a checkpoint's files."""

CARD = "README.md"
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
RECIPE = "train.yaml"
PROBE = "probe.safetensors"
PICTURE = "example.png"
