"""Every block of code on the pages for people runs, or says why it is not run."""

import re
import sys
from collections import Counter
from pathlib import Path

import pytest
import timm
from safetensors.torch import save

import processes
import segzoo
from hub_server import HubServer, client_environment
from pages import LIKE_THEM, PAGES, ROOT, blocks_of, code_of, shell_lines

RUNNER = Path(__file__).with_name("run_page.py")


@pytest.fixture(scope="module")
def server():
    """A Hub that has what the pages fetch from it."""
    with HubServer() as server:
        files = (ROOT / "model_cards" / "lv-unet-busi").iterdir()
        commit = server.add("user/repo", {file.name: file.read_bytes() for file in files})
        server.repositories["user/repo"].tags["v1.0"] = commit
        name = "tf_mobilenetv3_large_minimal_100"  # whose weights are a stand-in, too
        server.add(timm.get_pretrained_cfg(name).hf_hub_id, {"model.safetensors": save(timm.create_model(name).state_dict())})
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_run(page, server, tmp_path, request):
    everything = request.config.getoption("--all-blocks")
    wanted = [block for block in code_of(page) if block.mark == "" or (everything and block.mark == "long")]
    if not wanted:
        pytest.skip("no block of this page is run here")
    done = processes.run(
        [sys.executable, RUNNER, page, tmp_path, *["--all"] * everything],
        cwd=tmp_path,
        env=client_environment(server.url, tmp_path / "home"),
        timeout=3600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
