import json
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import huggingface_hub
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hub_server import HubServer, client_environment

CONFIG = b'{"name": "small"}'
WEIGHTS = random.Random(0).randbytes(100_000)
REPO = "org/model"


@pytest.fixture(autouse=True)
def client(monkeypatch):
    """The client in this process, which `endpoint=` alone doesn't keep from asking the real Hub for this and that."""
    for name in ("DISABLE_XET", "DISABLE_TELEMETRY", "DISABLE_IMPLICIT_TOKEN"):
        monkeypatch.setattr(constants, f"HF_HUB_{name}", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    huggingface_hub.close_session()


@pytest.fixture
def server():
    with HubServer() as server:
        yield server


@pytest.fixture
def api(server):
    return HfApi(endpoint=server.url, token=HubServer.TOKEN)


@pytest.fixture
def download(server, tmp_path):
    def download(filename, **options):
        options = {"endpoint": server.url, "cache_dir": tmp_path / "cache", "token": HubServer.TOKEN, **options}
        return Path(hf_hub_download(options.pop("repo_id", REPO), filename, **options))

    return download


@pytest.fixture
def commit(server):
    """A repository with a small file, a large one and one in a folder, and the commit that has them."""
    return server.add(REPO, {"config.json": CONFIG, "model.safetensors": WEIGHTS, "logs/a b.txt": b""})


def paths(server, method):
    return [path for asked, path in server.requests if asked == method]


# Uploads


def test_a_folder_is_uploaded_large_files_apart_from_the_commit(server, api, download, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Model\n")
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    url = api.create_repo(REPO)
    assert (url.repo_id, url.endpoint) == (REPO, server.url)
    commit = api.upload_folder(repo_id=REPO, folder_path=folder)
    assert re.fullmatch("[0-9a-f]{40}", commit.oid)
    assert commit.repo_url.repo_id == REPO
    assert api.model_info(REPO).sha == commit.oid
    assert api.list_repo_files(REPO) == [".gitattributes", "README.md", "model.safetensors"]
    assert [path.split("/")[1] for path in paths(server, "PUT")] == ["storage"]
    assert f"/{REPO}.git/info/lfs/objects/verify" in paths(server, "POST")
    assert download("model.safetensors").read_bytes() == WEIGHTS
    assert download("README.md").read_bytes() == (folder / "README.md").read_bytes()


def test_unchanged_files_are_neither_sent_nor_committed_again(server, api, commit):
    operations = [CommitOperationAdd("config.json", CONFIG), CommitOperationAdd("model.safetensors", WEIGHTS)]
    assert api.create_commit(REPO, operations, commit_message="nothing new").oid == commit
    elsewhere = CommitOperationAdd("copy.safetensors", WEIGHTS)
    assert api.create_commit(REPO, [elsewhere], commit_message="the same bytes").oid != commit
    assert not paths(server, "PUT")


def test_a_commit_adds_and_deletes_and_leaves_older_ones_alone(server, api, commit, download):
    operations = [
        CommitOperationAdd("config.json", b"{}"),
        CommitOperationDelete("model.safetensors"),
        CommitOperationDelete("logs/"),
    ]
    new = api.create_commit(REPO, operations, commit_message="change", parent_commit=commit).oid
    assert api.list_repo_files(REPO) == [".gitattributes", "config.json"]
    assert download("config.json").read_bytes() == b"{}"
    assert download("config.json", revision=new).read_bytes() == b"{}"
    assert download("config.json", revision=commit).read_bytes() == CONFIG
    with pytest.raises(HfHubHTTPError, match="412"):
        api.create_commit(REPO, [CommitOperationAdd("a", b"a")], commit_message="late", parent_commit=commit)


def test_damaged_and_missing_uploads_are_refused(server, api, commit):
    def status(method, path, data):
        token = {"Authorization": f"Bearer {HubServer.TOKEN}"}
        return huggingface_hub.get_session().request(method, server.url + path, content=data, headers=token).status_code

    oid = "0" * 64
    line = json.dumps({"key": "lfsFile", "value": {"path": "a", "oid": oid}})
    assert status("PUT", f"/storage/{REPO}/{oid}", b"other bytes") == 400
    assert status("POST", f"/api/models/{REPO}/commit/main", line) == 400
    assert api.model_info(REPO).sha == commit


def test_creating_what_exists(api, commit):
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo(REPO)
    assert api.create_repo(REPO, exist_ok=True).repo_id == REPO
    assert api.model_info(REPO).sha == commit
    assert api.create_repo("alone").repo_id == f"{HubServer.USER}/alone"


# Names of commits


def test_tags_stay_and_branches_move(server, api, commit, download):
    api.create_tag(REPO, tag="v1")
    main = server.add(REPO, {"config.json": b"main"})
    api.create_branch(REPO, branch="try/out", revision="v1")
    assert download("config.json", revision="try/out").read_bytes() == CONFIG
    added = CommitOperationAdd("config.json", b"try")
    tried = api.create_commit(REPO, [added], commit_message="try", revision="try/out").oid
    refs = api.list_repo_refs(REPO)
    assert {ref.name: ref.target_commit for ref in refs.branches} == {"main": main, "try/out": tried}
    assert {ref.name: ref.target_commit for ref in refs.tags} == {"v1": commit}
    assert download("config.json").read_bytes() == b"main"
    assert download("config.json", revision="v1").read_bytes() == CONFIG
    assert download("config.json", revision="try/out").read_bytes() == b"try"


def test_a_tag_is_given_once(server, api, commit):
    server.add(REPO, {"config.json": b"{}"})
    api.create_tag(REPO, tag="v1", revision=commit)
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_tag(REPO, tag="v1")
    api.create_tag(REPO, tag="v1", exist_ok=True)
    assert api.list_repo_refs(REPO).tags[0].target_commit == commit
    with pytest.raises(RevisionNotFoundError):
        api.create_tag(REPO, tag="v2", revision="nowhere")


# Listings and downloads


def test_listings_describe_files(api, commit):
    info = api.model_info(REPO, files_metadata=True)
    assert (info.id, info.sha, info.private, info.gated) == (REPO, commit, False, False)
    weights = next(file for file in info.siblings if file.rfilename == "model.safetensors")
    assert (weights.size, weights.lfs.size) == (len(WEIGHTS), len(WEIGHTS))
    assert [file.size for file in api.model_info(REPO).siblings] == [None] * 4  # not unless asked for, as on the Hub
    assert api.repo_exists(REPO)
    assert not api.repo_exists("org/other")
    assert api.file_exists(REPO, "logs/a b.txt")
    assert not api.file_exists(REPO, "other")


def test_a_small_file_comes_from_the_hub_and_a_large_one_from_elsewhere(server, commit, download):
    config, weights = download("config.json"), download("model.safetensors")
    assert config.read_bytes() == CONFIG
    assert weights.read_bytes() == WEIGHTS
    assert weights.parent.name == commit
    sha256 = weights.resolve().name  # the cache names large files so
    assert server.requests == [
        ("HEAD", f"/{REPO}/resolve/main/config.json"),
        ("GET", f"/{REPO}/resolve/main/config.json"),
        ("HEAD", f"/{REPO}/resolve/main/model.safetensors"),
        ("GET", f"/storage/{REPO}/{sha256}"),  # which refuses a token, so the client has sent none
    ]
    assert server.bytes_sent == len(CONFIG) + len(WEIGHTS)
    download("config.json", revision=commit)
    assert len(server.requests) == 4


def test_a_snapshot_passes_the_clients_own_verification(server, api, commit, tmp_path):
    folder = Path(api.snapshot_download(REPO, cache_dir=tmp_path))
    assert (folder / "logs" / "a b.txt").read_bytes() == b""
    result = api.verify_repo_checksums(REPO, cache_dir=tmp_path)
    assert (result.checked_count, result.mismatches, result.missing_paths) == (4, [], [])


def test_the_card_loads_in_a_process_with_the_servers_environment(server, tmp_path):
    server.add(REPO, {"README.md": b"---\nlicense: mit\n---\n# Model\n"}, private=True)
    code = f"from huggingface_hub import ModelCard; print(ModelCard.load({REPO!r}).data.license)"
    environment = client_environment(server.url, tmp_path)
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert result.stdout == "mit\n", result.stderr
    assert (tmp_path / "hub" / "models--org--model").is_dir()


def test_parts_of_a_file(server, commit):
    def part(asked):
        url = f"{server.url}/{REPO}/resolve/main/model.safetensors"
        answer = huggingface_hub.get_session().get(url, headers={"Range": asked})
        return answer.status_code, answer.headers["Content-Range"], answer.content

    assert part("bytes=10-19") == (206, "bytes 10-19/100000", WEIGHTS[10:20])
    assert part("bytes=99990-") == (206, "bytes 99990-99999/100000", WEIGHTS[-10:])
    assert part("bytes=100000-")[:2] == (416, "bytes */100000")


# Refusals


def test_what_does_not_exist(server, api, commit, download):
    with pytest.raises(RepositoryNotFoundError):
        download("config.json", repo_id="org/other")
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("org/other", token=False)
    with pytest.raises(RevisionNotFoundError):
        download("config.json", revision="other")
    api.create_tag(REPO, tag="v1")
    for revision in ("other", "v1"):  # only branches take commits
        with pytest.raises(RevisionNotFoundError):
            api.create_commit(REPO, [CommitOperationAdd("a", b"a")], commit_message="a", revision=revision)
    with pytest.raises(RemoteEntryNotFoundError):
        download("other")
    with pytest.raises(HfHubHTTPError, match="404") as error:
        api.whoami()
    assert type(error.value) is HfHubHTTPError


@pytest.mark.parametrize("token", [False, HubServer.GUEST])
def test_a_private_repository_is_not_found_by_others(server, api, download, token):
    api.create_repo(REPO, private=True)
    assert api.model_info(REPO).private
    assert download(".gitattributes").is_file()
    assert not api.repo_exists(REPO, token=token)
    with pytest.raises(RepositoryNotFoundError):
        download("config.json", token=token)


@pytest.mark.parametrize("token", [False, HubServer.GUEST])
def test_a_gated_repository_is_listed_to_all_and_opened_to_its_owner(server, api, download, token):
    server.add(REPO, {"config.json": CONFIG}, gated=True)
    assert api.model_info(REPO, token=token).gated == "manual"
    assert api.list_repo_files(REPO, token=token) == [".gitattributes", "config.json"]
    with pytest.raises(GatedRepoError):
        download("config.json", token=token)
    with pytest.raises(GatedRepoError):
        api.file_exists(REPO, "config.json", token=token)
    assert download("config.json").read_bytes() == CONFIG


@pytest.mark.parametrize(("token", "status"), [(False, 401), (HubServer.GUEST, 403), ("hf_unknown", 401)])
def test_only_the_owner_writes(server, api, commit, token, status):
    operation = CommitOperationAdd("a", b"a")
    for write in (
        lambda: api.create_repo("org/new", token=token),
        lambda: api.create_tag(REPO, tag="v1", token=token),
        lambda: api.create_commit(REPO, [operation], commit_message="a", token=token),
    ):
        with pytest.raises(HfHubHTTPError) as error:
            write()
        assert error.value.response.status_code == status
    assert api.model_info(REPO).sha == commit
    assert not api.list_repo_refs(REPO).tags


def test_an_unknown_token_opens_nothing(api, commit):
    with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
        api.model_info(REPO, token="hf_unknown")


# Misbehaviour


def test_other_bytes_under_the_same_name_and_hash(server, api, commit, download, tmp_path):
    before = download("model.safetensors").resolve().name
    server.tamper(REPO, "model.safetensors", WEIGHTS[::-1])
    server.tamper(REPO, "config.json", CONFIG[::-1])
    weights = download("model.safetensors", force_download=True)
    assert weights.read_bytes() == WEIGHTS[::-1]
    assert weights.resolve().name == before
    assert download("config.json").read_bytes() == CONFIG[::-1]
    mismatches = api.verify_repo_checksums(REPO, cache_dir=tmp_path / "cache").mismatches
    assert {mismatch["path"] for mismatch in mismatches} == {"model.safetensors", "config.json"}
    server.tamper(REPO, "model.safetensors", WEIGHTS[1:])
    with pytest.raises(OSError, match="should be of size 100000 but has size 99999"):
        download("model.safetensors", force_download=True)


def test_a_cut_download_is_resumed(server, download, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)  # what comes in smaller pieces is never resumed
    server.add(REPO, {"model.safetensors": WEIGHTS})
    server.interrupt(after=65_000)
    assert download("model.safetensors").read_bytes() == WEIGHTS
    assert server.interrupted.is_set()
    assert [path.split("/")[1] for path in paths(server, "GET")] == ["storage", "storage"]
    assert server.bytes_sent == 65_000 + 40_000


def test_a_reset_download_fails(server, commit, download):
    server.interrupt(after=65_000, how="reset", times=2)
    for _ in range(2):
        with pytest.raises(Exception, match="reset by peer"):
            download("model.safetensors")
    assert download("model.safetensors").read_bytes() == WEIGHTS


def test_a_download_hangs_until_its_process_is_killed(server, commit, tmp_path):
    server.interrupt(after=65_000, how="hang")
    with pytest.raises(Exception, match="timed out"):
        huggingface_hub.get_session().get(f"{server.url}/{REPO}/resolve/main/model.safetensors", timeout=0.3)
    server.interrupt(after=65_000, how="hang")
    command = [
        sys.executable,
        "-c",
        f"import huggingface_hub as h; print(h.hf_hub_download({REPO!r}, 'model.safetensors'))",
    ]
    environment = client_environment(server.url, tmp_path)
    with subprocess.Popen(command, env=environment) as process:
        assert server.interrupted.wait(30)
        assert process.poll() is None
        process.kill()
    assert not list(tmp_path.rglob("model.safetensors"))
    path = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    assert Path(path).read_bytes() == WEIGHTS


def test_a_slow_server_and_a_stopped_one(server, api, commit, download):
    server.delay = 0.3
    with pytest.raises(Exception, match="timed out"):
        api.model_info(REPO, timeout=0.1)
    started = time.monotonic()
    path = download("config.json", etag_timeout=5)
    assert time.monotonic() - started > 0.6
    server.stop()
    assert download("config.json") == path  # from the cache
    with pytest.raises(Exception, match="refused"):
        api.model_info(REPO)
    with pytest.raises(LocalEntryNotFoundError):
        download("model.safetensors", local_files_only=True)


# By hand


def test_repositories_from_a_folder(tmp_path):
    (tmp_path / REPO / "logs").mkdir(parents=True)
    (tmp_path / REPO / "logs" / "a.txt").write_bytes(b"a")
    with HubServer(tmp_path) as server:
        assert HfApi(endpoint=server.url).list_repo_files(REPO) == [".gitattributes", "logs/a.txt"]


def test_run_as_a_module():
    command = [sys.executable, "-m", "tests.hub_server", "--port", "0"]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True) as process:
        try:
            name, url = process.stdout.readline().removeprefix("export ").strip().split("=")
            assert name == "HF_ENDPOINT"
            with pytest.raises(Exception, match="401"):
                urlopen(f"{url}/api/models/{REPO}")
        finally:
            process.kill()
