"""``segzoo web``: a site of static files. What the page in it does is tested in web/tests."""

import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import torch
import yaml

import segzoo
from segzoo.checkpoints.weights import sha256
from segzoo.cli import site as sites
from segzoo.cli import web
from segzoo.cli.command import main
from segzoo.errors import MissingFileError, SegzooError

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """An untrained network for images of 32 x 48, trained on breasts as it says."""
    return save(tmp_path_factory.mktemp("hub") / "tiny-busi")


def save(folder, seed=0):
    torch.manual_seed(seed)
    model = segzoo.create_model("cmunext_s").eval()
    model.preprocessing = segzoo.Preprocessing(image_size=(32, 48))
    model.class_names, model.data = ("background", "lesion"), {"dataset": "BUSI"}
    return model.save_pretrained(folder)


@pytest.fixture(autouse=True)
def page(tmp_path_factory, monkeypatch):
    """What Vite would build."""
    folder = tmp_path_factory.mktemp("dist")
    (folder / "assets").mkdir()
    (folder / "index.html").write_text("<!doctype html>", "utf-8")
    (folder / "assets" / "index.mjs").write_text("0", "utf-8")
    (folder / "assets" / "ort.wasm").write_bytes(b"\0asm")
    monkeypatch.setattr(sites, "PAGES", (folder / "not here", folder))
    return folder


@pytest.fixture(scope="module")
def written(checkpoint, tmp_path_factory):
    """A site, written once: with the export that later tests take from it."""
    folder, dist = tmp_path_factory.mktemp("sites") / "site", tmp_path_factory.mktemp("dist")
    (dist / "index.html").write_text("<!doctype html>", "utf-8")
    (dist / "old.js").write_text("0", "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sites, "PAGES", (dist,))
        assert main(["web", str(checkpoint), "--output", str(folder)]) == 0
    return folder


@pytest.fixture
def site(written, tmp_path):
    """A copy of it, to change."""
    return shutil.copytree(written, tmp_path / "site")


@pytest.fixture
def no_export(monkeypatch):
    """Nothing is exported any more."""

    def export(*arguments, **options):
        raise SegzooError("exported")

    monkeypatch.setattr(sites, "export", export)


def listed(site):
    return json.loads((site / "models" / "models.json").read_text("utf-8"))["models"]


def test_a_site_lists_each_model_with_what_it_says_of_itself(written, checkpoint):
    (entry,) = listed(written)
    file = written / "models" / "tiny-busi.onnx"
    assert entry == {
        "name": "tiny-busi",
        "file": "tiny-busi.onnx",
        "bytes": file.stat().st_size,
        "sha256": sha256(file),
        "task": "lesion in breast ultrasound",
        "dataset": "BUSI",
        "dimensions": 2,
        "size": [32, 48],
        "licence": segzoo.from_pretrained(checkpoint).licence or "",
    }
    assert (written / "index.html").is_file()


def test_a_site_is_a_space_as_it_is(written):
    header = yaml.safe_load((written / "README.md").read_text("utf-8").split("---\n")[1])
    assert (header["sdk"], header["app_file"]) == ("static", "index.html")
    assert header["custom_headers"]["cross-origin-opener-policy"] == "same-origin"
    assert header["custom_headers"]["cross-origin-embedder-policy"] == "require-corp"


def test_a_newer_site_replaces_the_earlier_one_and_leaves_the_rest(site, checkpoint, no_export, page):
    (site / "README.md").write_text("mine", "utf-8")
    (site / ".git").mkdir()
    (site / "models" / "older.onnx").touch()
    before = sha256(site / "models" / "tiny-busi.onnx")
    assert main(["web", str(checkpoint), "--output", str(site)]) == 0
    names = {path.relative_to(site).as_posix() for path in site.rglob("*")}
    built = {"index.html", "assets", "assets/index.mjs", "assets/ort.wasm"}
    assert names == {"README.md", ".git", "models", "models/models.json", "models/tiny-busi.onnx", *built}
    assert (site / "README.md").read_text("utf-8") == "mine"
    assert sha256(site / "models" / "tiny-busi.onnx") == before
    assert not [path for path in site.parent.iterdir() if path != site]


def test_another_checkpoint_of_the_name_is_exported_anew(site, tmp_path, no_export):
    other = save(tmp_path / "tiny-busi", seed=1)
    before = sha256(site / "models" / "models.json")
    assert main(["web", str(other), "--output", str(site)]) == 2
    assert sha256(site / "models" / "models.json") == before


def test_a_file_is_taken_as_it_is_under_a_name_that_addresses_take(written, tmp_path, no_export):
    file = shutil.copy(written / "models" / "tiny-busi.onnx", tmp_path / "50 % größer.onnx")
    assert main(["web", str(file), "--output", str(tmp_path / "site")]) == 0
    (entry,) = listed(tmp_path / "site")
    assert (entry["name"], entry["file"]) == ("50 % größer", "50-gr-er.onnx")
    assert sha256(tmp_path / "site" / "models" / entry["file"]) == entry["sha256"] == sha256(file)


def test_what_cannot_be_used_does_not_stop_the_others(written, tmp_path, no_export, capsys):
    good = written / "models" / "tiny-busi.onnx"
    damaged, text = tmp_path / "damaged.onnx", tmp_path / "notes.txt"
    damaged.write_bytes(good.read_bytes()[:1000])
    text.touch()
    sources = [damaged, text, tmp_path / "missing.onnx", "no-such-checkpoint", good, good]
    assert main(["web", *map(str, sources), "--output", str(tmp_path / "site")]) == 2
    assert [entry["name"] for entry in listed(tmp_path / "site")] == ["tiny-busi"]
    *told, last = capsys.readouterr().err.splitlines()
    for line, name in zip(
        told, ["damaged.onnx", "notes.txt", "missing.onnx", "no-such", "tiny-busi.onnx"], strict=True
    ):
        assert line.startswith("segzoo: not in the site: ")
        assert name in line
    assert "5 of 6" in last


def test_nothing_is_written_where_nothing_can_be_used(tmp_path, refused):
    with refused(SegzooError):
        sites.write_site(tmp_path / "site", [str(tmp_path / "missing.onnx")])
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("content", [None, "no JSON", "{}", '{"files": 3}'])
def test_a_folder_with_anything_else_is_left_alone(content, checkpoint, tmp_path, no_export, refused):
    (tmp_path / "site" / "models").mkdir(parents=True)
    (tmp_path / "site" / "thesis.tex").touch()
    if content is not None:
        (tmp_path / "site" / "models" / "models.json").write_text(content, "utf-8")
    with refused(SegzooError):
        sites.write_site(tmp_path / "site", [str(checkpoint)])
    assert (tmp_path / "site" / "thesis.tex").exists()


def test_without_the_page_it_is_said_how_to_get_it(checkpoint, tmp_path, monkeypatch, refused):
    monkeypatch.setattr(sites, "PAGES", (tmp_path / "page",))
    with refused(MissingFileError):
        sites.write_site(tmp_path / "site", [str(checkpoint)])
    assert not (tmp_path / "site").exists()


def test_a_site_needs_something_to_do(tmp_path, capsys):
    assert main(["web", "--output", str(tmp_path / "site")]) == 2
    assert "--serve" in capsys.readouterr().err


# ---- served


@pytest.fixture
def servers(monkeypatch):
    """Every server that is started, and ends with the test."""
    started = []

    class Server(web.Server):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            started.append(self)

    monkeypatch.setattr(web, "Server", Server)
    yield started
    for server in started:
        server.shutdown()


def test_the_server_isolates_the_page_and_names_the_right_types(site, page, checkpoint, no_export, servers):
    sites.write_site(site, [str(checkpoint)])
    with socket.socket() as free:
        free.bind((web.HOST, 0))
        port = free.getsockname()[1]
    threading.Thread(target=main, args=(["web", "--output", str(site), "--serve", str(port)],), daemon=True).start()
    for file, kind in [
        ("", "text/html"),
        ("assets/index.mjs", "text/javascript"),
        ("assets/ort.wasm", "application/wasm"),
        ("models/models.json", "application/json"),
        ("models/tiny-busi.onnx", "application/octet-stream"),
    ]:
        headers = fetched(f"http://{web.HOST}:{port}/{file}")
        assert headers["Content-Type"] == kind
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    with pytest.raises(SegzooError, match=f"{port}.*--serve"):
        web.serve(site, port)


def fetched(url):
    for _ in range(100):  # until it is up
        try:
            with urlopen(url, timeout=10) as answer:
                assert answer.read()
                return answer.headers
        except URLError:
            time.sleep(0.05)
    raise AssertionError(url)


@pytest.mark.parametrize(("error", "told"), [(ConnectionResetError, False), (BrokenPipeError, False), (KeyError, True)])
def test_a_browser_that_has_enough_of_a_file_is_no_error(error, told, capsys):
    with web.Server((web.HOST, 0), web.Handler) as server:
        try:
            raise error
        except Exception:
            server.handle_error(None, (web.HOST, 1))  # as the server does while it answers
    assert ("Traceback" in capsys.readouterr().err) == told


def test_what_is_no_site_is_not_served(tmp_path, refused):
    with refused(MissingFileError):
        web.serve(tmp_path / "site", 0)


@pytest.mark.parametrize("port", ["-1", "65536", "web"])
def test_a_port_is_a_number_that_there_is(port, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["web", "--output", str(tmp_path), "--serve", port])
    assert "--serve" in capsys.readouterr().err


def test_serving_needs_no_torch():
    code = "import sys, segzoo.cli.web; print({'torch', 'lightning', 'onnxruntime'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
