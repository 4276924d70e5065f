"""Kinds of fuzzed input, each with what draws its cases."""

from hypothesis import strategies as st
from tests.fuzz import command_lines, configs, headers, hub_answers, images, metadata, volumes
from tests.fuzz.oracle import Case

KINDS: dict[str, st.SearchStrategy[Case]] = {
    "command lines": command_lines.cases,
    "configs": configs.cases,
    "images": images.cases,
    "headers": headers.cases,
    "volumes": volumes.cases,
    "ONNX metadata": metadata.cases,
    "hub answers": hub_answers.cases,
}
