"""`tinylm export --push` against a hub on the loopback: what goes is what the dry run lists."""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml
from builders import byte_level_tokenizer, random_model

from tinylm.errors import InputError
from tinylm.export.card import write_card
from tinylm.export.push import uploads

TOKEN = "hf_made_up"


def card_problems(card: str) -> list[str]:
    """What the hub's rules for a model card's metadata refuse."""
    head = yaml.safe_load(card.split("---")[1])
    problems = []
    for base in [head["base_model"]] if isinstance(head.get("base_model"), str) else []:
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", base):
            problems.append(f'"base_model" with value "{base}" is not valid')
    if "model-index" in head and not all(one.get("results") for one in head["model-index"]):
        problems.append('"model-index" has no results')
    if not isinstance(head.get("license"), str):
        problems.append('"license" is not a string')
    return problems


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's interface that an upload uses. Weights go the way of large files."""

    def do_POST(self):
        if self.headers.get("authorization") != f"Bearer {TOKEN}":
            return self.answer({"error": "Invalid credentials"}, 401)
        path, body = self.path.partition("?")[0], self.body()
        if path == "/api/validate-yaml":
            problems = [{"message": word} for word in card_problems(json.loads(body)["content"])]
            return self.answer({"errors": problems, "warnings": []}, 400 if problems else 200)
        if path == "/api/repos/create":
            wanted = json.loads(body)
            if wanted.get("organization") == "others":
                return self.answer({"error": "no"}, 403)
            self.server.made.append(wanted)
            return self.answer({"url": f"{self.server.url}/me/tiny", "id": "me/tiny"})
        if path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            modes = {file["path"]: "regular" for file in files}
            modes |= {name: "lfs" for name in modes if name.endswith(("safetensors", "gguf"))}
            rows = [
                {"path": name, "uploadMode": mode, "shouldIgnore": False}
                for name, mode in modes.items()
            ]
            return self.answer({"files": rows})
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {
                    **one,
                    "actions": {"upload": {"href": f"{self.server.url}/store/{one['oid']}"}},
                }
                for one in json.loads(body)["objects"]
            ]
            return self.answer({"transfer": "basic", "objects": objects})
        if path.endswith("/commit/main"):
            for line in body.decode().splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    self.server.files[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    self.server.files[value["path"]] = self.server.large[value["oid"]]
            url = f"{self.server.url}/me/tiny/commit/{'0' * 40}"
            return self.answer({"commitUrl": url, "commitOid": "0" * 40, "pullRequestUrl": None})
        return self.answer({"error": path}, 404)

    def do_PUT(self):
        data = self.body()
        name = self.path.rpartition("/")[2]
        assert hashlib.sha256(data).hexdigest() == name
        self.server.large[name] = data
        self.answer({})

    def do_GET(self):
        self.answer({"error": self.path}, 404)

    def body(self) -> bytes:
        if self.headers.get("transfer-encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def answer(self, value, code=200):
        data = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.files, server.large, server.made = {}, {}, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("push") / "model"
    random_model(folder, "llama", byte_level_tokenizer())
    write_card(folder)
    (folder / ".cache").mkdir()
    (folder / ".cache" / "secret").write_text("stays here")
    return folder


def export(hub, *words, token=TOKEN) -> subprocess.CompletedProcess:
    offline = {"HF_HUB_OFFLINE", "HF_TOKEN"}
    kept = {name: value for name, value in os.environ.items() if name not in offline}
    return subprocess.run(
        [sys.executable, "-m", "tinylm", "export", *map(str, words)],
        env=kept
        | {"HF_ENDPOINT": hub.url, "HF_TOKEN": token, "COLUMNS": "200"}
        | {"HF_HUB_DISABLE_XET": "1"},  # large files by git-lfs, which a test can speak
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_what_goes_is_what_the_dry_run_lists(hub, model, tmp_path):
    out = tmp_path / "tiny-F16.gguf"
    words = ["--model", model, "--out", out, "--no-check", "--modelfile", "--push", "me/tiny"]
    dry = export(hub, *words, "--dry-run")  # of files that are not made yet
    assert dry.returncode == 0, dry.stderr
    assert not hub.files and not hub.made and not out.exists()
    done = export(hub, *words)
    assert done.returncode == 0, done.stderr
    assert f"{hub.url}/me/tiny/commit/" in done.stdout
    expected = {path.name: path for path in model.iterdir() if path.is_file()} | {out.name: out}
    expected["tiny-F16.Modelfile"] = tmp_path / "tiny-F16.Modelfile"
    assert hub.files == {name: path.read_bytes() for name, path in expected.items()}
    assert all(f" {name} " in dry.stdout for name in hub.files)
    assert "secret" not in dry.stdout


def test_a_model_alone_and_files_made_before(hub, model, tmp_path):
    (tmp_path / "old.gguf").write_bytes(b"GGUF")
    words = ["--model", model, "--push", "me/tiny", "--also", tmp_path / "old.gguf", "--private"]
    done = export(hub, *words)
    assert done.returncode == 0, done.stderr
    assert hub.files["old.gguf"] == b"GGUF" and "model.safetensors" in hub.files
    assert hub.made[0].get("visibility") == "private" or hub.made[0].get("private") is True


def test_a_card_written_by_the_same_command_goes_too(hub, model, tmp_path):
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("---\nlicense: mit\n---\nold")
    words = ["--model", tmp_path / "model", "--format", "card", "--overwrite"]
    done = export(hub, *words, "--push", "me/tiny")
    assert done.returncode == 0, done.stderr
    card = (tmp_path / "model" / "README.md").read_bytes()
    assert hub.files["README.md"] == card and not card.endswith(b"old")


@pytest.mark.parametrize(
    ("words", "token", "code", "line"),
    [
        (["--push", "me/tiny"], "hf_wrong", 2, "the hub does not know who you are: set HF_TOKEN"),
        (["--push", "others/tiny"], TOKEN, 2, "your token may not write there"),
        (["--push", "a/b/c"], TOKEN, 2, "--push a/b/c: the hub takes names like USER/NAME"),
        (["--push", "me/tiny", "--also", "missing.gguf"], TOKEN, 2, "missing.gguf does not exist"),
        (["--private"], TOKEN, 2, "--private goes with --push"),
    ],
)
def test_one_line_and_nothing_changed(hub, model, words, token, code, line):
    done = export(hub, "--model", model, *words, token=token)
    assert done.returncode == code
    assert line in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not hub.files


def test_a_card_that_the_hub_refuses(hub, model, tmp_path):
    shutil.copytree(model, tmp_path / "model")
    card = tmp_path / "model" / "README.md"
    card.write_text(card.read_text().replace("license:", "base_model: Not an id\nlicense:"))
    done = export(hub, "--model", tmp_path / "model", "--push", "me/tiny")
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert 'README.md: "base_model" with value "Not an id" is not valid' in done.stderr
    assert not hub.files


def test_a_hub_that_is_not_there(hub, model):
    hub.shutdown()
    hub.server_close()
    done = export(hub, "--model", model, "--push", "me/tiny")
    assert done.returncode == 1
    assert "the hub cannot be reached" in done.stderr and "Traceback" not in done.stderr


def test_a_model_without_card_and_two_files_of_one_name(model, tmp_path):
    with pytest.raises(InputError, match="has no card"):
        uploads(tmp_path, [])
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.gguf").write_bytes(b"")
    with pytest.raises(InputError, match=r"would both be x\.gguf"):
        uploads(model, [tmp_path / "a" / "x.gguf", tmp_path / "b" / "x.gguf"])
