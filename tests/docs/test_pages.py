"""Every block of code on the pages for people runs, or says why it is not run."""

import os
import re
import sys
from pathlib import Path

import pytest
import timm
from pages import LIKE_THEM, PAGES, ROOT, blocks_of, code_of, shell_lines
from run_page import WrongBlockError, run_python, run_shell, shortened
from safetensors.torch import save

import processes
from hub_server import HubServer, client_environment

RUNNER = Path(__file__).with_name("run_page.py")
# what a block may lack here
NEEDS = r"needs (a|all of|another) (network|GPU|processor|camera|cluster|[A-Z]\w+|environment)"


@pytest.fixture(scope="module")
def server():
    """A Hub that has what the pages fetch from it."""
    with HubServer() as server:
        files = (ROOT / "model_cards" / "lv-unet-busi").iterdir()
        commit = server.add("user/repo", {file.name: file.read_bytes() for file in files})
        server.repositories["user/repo"].tags["v1.0"] = commit
        name = "tf_mobilenetv3_large_minimal_100"  # whose weights are random here
        weights = save(timm.create_model(name).state_dict())
        server.add(timm.get_pretrained_cfg(name).hf_hub_id, {"model.safetensors": weights})
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_run(page, server, tmp_path, request):
    everything = request.config.getoption("--all-blocks")
    if not [block for block in code_of(page) if block.mark == "" or (everything and block.mark == "long")]:
        pytest.skip("no block of this page is run here")
    environment = client_environment(server.url, tmp_path / "home") | {
        "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT / 'tests'}"
    }
    (tmp_path / "work").mkdir()
    command = [sys.executable, RUNNER, page, tmp_path / "work", *["--all"] * everything]
    done = processes.run(command, env=environment, cwd=tmp_path / "work", timeout=3600)
    print(done.stdout)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_mark_stands_above_a_block_and_gives_a_reason(page):
    text, blocks = page.read_text(encoding="utf-8"), code_of(page)
    assert len(re.findall("<!-- *(?:not run|long)", text)) == len([block for block in blocks if block.mark])
    assert [block.reason for block in blocks if block.mark == "not run" and not re.search(NEEDS, block.reason)] == []
    assert {block.language for block in blocks_of(text)} & LIKE_THEM == set()  # else they would not be run


def test_blocks_are_found_with_their_marks():
    text = "```text\nnone\n```\n\n<!-- not run: needs a GPU -->\n```shell\na \\\n  b\n\nc\n```\n"
    text += "<!-- long: x -->\n\n```python\n1\n```\n"
    none, shell, python = blocks_of(text)
    assert (none.language, shell.language, python.language) == ("text", "shell", "python")
    assert (shell.line, shell.mark, shell.reason) == (7, "not run", "needs a GPU")
    assert (python.line, python.mark) == (15, "")  # not right above
    assert list(shell_lines(shell.code)) == [(0, "a   b"), (3, "c")]


@pytest.mark.parametrize(
    "line", ["segzoo info no-such-model", "pip install other", "pip install -e '.[none]'", "false | true; exit 3"]
)
def test_wrong_commands_are_found(line, capsys):
    (block,) = blocks_of(f"```shell\n{line}\n```\n")
    with pytest.raises(WrongBlockError, match="line 2"):
        run_shell(block, everything=False)


def test_sessions_are_run_with_what_they_print(capsys):
    right, wrong = blocks_of("```python\n>>> a = 1\n>>> a\n1\n```\n\n```python\n>>> a + 1\n3\n```\n")
    run_python(right, PAGES[0], names := {})
    with pytest.raises(WrongBlockError, match="line 8"):
        run_python(wrong, PAGES[0], names)


def test_trainings_are_short(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "lv_unet-folder"
    for more, there in (["--ckpt_path", "last"], True), ([], False):
        run.mkdir(parents=True, exist_ok=True)
        words = shortened(["fit", "--model", "lv_unet", "--data", "Folder", "--trainer.max_epochs", "9", *more], False)
        assert words[len(words) - words[::-1].index("--trainer.max_epochs")] == "1"
        assert run.exists() == there
