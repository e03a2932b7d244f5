"Downloads from a server on this machine that works, fails, truncates, stalls, ignores ranges and lies"
import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from motiflab.download import download
from motiflab.errors import UserError

BODY = hashlib.sha256(b"seed").digest() * 8000 # 256,000 bytes
SHA = hashlib.sha256(BODY).hexdigest()


class Server:
    "A server whose answers follow a script, one step a request; the last step is repeated"
    def __init__(self): self.script, self.ranges, self.body, self.etag = ["ok"], [], BODY, None

    def __enter__(self):
        outer = self
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self): outer.answer(self)
            def log_message(self, *args): pass
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/data.bin"
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()

    def answer(self, request):
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        asked = request.headers.get("Range")
        self.ranges.append(asked)
        if isinstance(step, int): return request.send_error(step)
        if step == "hang": return time.sleep(3)
        changed = self.etag and request.headers.get("If-Range") not in (None, self.etag)
        start = int(asked[6:].rstrip("-")) if asked and "noranges" not in step and not changed else 0
        if start >= len(self.body): return request.send_error(416)
        wrong = 7 if step == "wrongpart" and start else 0
        request.send_response(206 if start else 200)
        if "nolength" not in step: request.send_header("Content-Length", str(len(self.body) - start))
        if "gzipped" in step: request.send_header("Content-Encoding", "gzip")
        if self.etag: request.send_header("ETag", self.etag)
        if start: request.send_header("Content-Range", f"bytes {start + wrong}-{len(self.body) - 1}/{len(self.body)}")
        request.end_headers()
        body = b"x" * len(self.body) if step == "lie" else self.body
        cut = {"truncate": 100_000, "stall": 50_000}.get(step.split()[0], len(body))
        request.wfile.write(body[start:min(len(body), start + cut)])
        request.wfile.flush()
        if step.startswith("stall"): time.sleep(3)


@pytest.fixture
def server():
    with Server() as s: yield s


def get(server, path, **how):
    return download(server.url, path, **{**dict(sha256=SHA, backoff=0.01, timeout=(1, 0.5), progress=False), **how})


def alone(path): return [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("script, requests", [
    (["ok"], 1), ([500, 503, "ok"], 3), ([429, "ok"], 2), (["truncate", "ok"], 2), (["truncate", "truncate", "ok"], 3), (["stall", "ok"], 2), (["hang", "ok"], 2),
    (["truncate noranges", "ok noranges"], 2), (["ok nolength"], 1), (["lie", "ok"], 2), (["truncate", "wrongpart", "ok"], 3), (["ok gzipped"], 1),
])
def test_arrives_whole(server, tmp_path, script, requests):
    server.script = script
    path = get(server, tmp_path / "sub" / "data.bin", size=len(BODY))
    assert path.read_bytes() == BODY and alone(path) and len(server.ranges) == requests


def test_resumes_where_it_stopped(server, tmp_path):
    server.script, server.etag = ["truncate", "ok"], '"v1"'
    get(server, tmp_path / "data.bin")
    assert server.ranges[0] is None and server.ranges[1].startswith("bytes=") and 0 < int(server.ranges[1][6:-1]) <= 100_000


def test_a_file_that_changes_is_not_patched_together(server, tmp_path):
    server.script, server.etag = ["truncate", "ok"], '"v1"'
    old, new = server.body, bytes(reversed(BODY))
    original = server.answer
    def answer(request):
        original(request)
        server.body, server.etag = new, '"v2"'
    server.answer = answer
    path = get(server, tmp_path / "data.bin", sha256=None)
    assert path.read_bytes() == new and old != new


def test_left_over_part(server, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(BODY[:1000])
    get(server, tmp_path / "data.bin")
    assert server.ranges == ["bytes=1000-"]
    (tmp_path / "other.bin.part").write_bytes(b"something else")
    server.ranges.clear()
    assert get(server, tmp_path / "other.bin").read_bytes() == BODY and server.ranges == ["bytes=14-", None] # the digest told
    (tmp_path / "long.bin.part").write_bytes(BODY + b"more")
    assert get(server, tmp_path / "long.bin").read_bytes() == BODY
    (tmp_path / "third.bin.part").write_bytes(b"something else")
    server.ranges.clear()
    assert get(server, tmp_path / "third.bin", sha256=None).read_bytes() == BODY and server.ranges == [None] # nothing to check with


def test_what_is_there_is_kept(server, tmp_path):
    path = tmp_path / "data.bin"
    path.write_bytes(BODY)
    get(server, path)
    assert not server.ranges
    path.write_bytes(BODY[:-1])
    assert get(server, path).read_bytes() == BODY and len(server.ranges) == 1


@pytest.mark.parametrize("script, words, requests", [([404], "404", 1), ([403], "403", 1), ([500], "500", 3), (["lie"], "SHA-256", 3), (["truncate noranges"], "broke off", 3)])
def test_gives_up_with_one_sentence(server, tmp_path, script, words, requests):
    server.script = script
    with pytest.raises(UserError, match=words) as error: get(server, tmp_path / "data.bin", retries=2)
    assert server.url in str(error.value) and "\n" not in str(error.value)
    assert len(server.ranges) == requests and not (tmp_path / "data.bin").exists()


def test_wrong_size(server, tmp_path):
    with pytest.raises(UserError, match="256,000 bytes instead of 7"): get(server, tmp_path / "data.bin", sha256=None, size=7, retries=1)


def test_no_network(tmp_path):
    with Server() as gone: url = gone.url
    with pytest.raises(UserError, match="check the network"): download(url, tmp_path / "x", retries=1, backoff=0.01, timeout=(0.5, 0.5), progress=False)
    with pytest.raises(UserError): download("https://motiflab.invalid/x", tmp_path / "x", retries=0, timeout=(0.5, 0.5), progress=False)
    assert not list(tmp_path.iterdir())


def test_interrupted_download_leaves_no_file(server, tmp_path, monkeypatch):
    import motiflab.download as module
    def interrupt(*args): raise KeyboardInterrupt
    monkeypatch.setattr(module, "_check", interrupt)
    with pytest.raises(KeyboardInterrupt): get(server, tmp_path / "data.bin")
    assert [p.name for p in tmp_path.iterdir()] == ["data.bin.part"]
