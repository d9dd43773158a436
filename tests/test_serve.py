"""The reward service: answers, refusals, limits, and what it does under load."""

import asyncio
import base64
import gzip
import io
import json
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image
from typer.testing import CliRunner

from impasto.cli import app as cli
from impasto.rewards import GenEvalReward, LocalReward, RemoteReward, ServerError
from impasto.rewards.inputs import as_pictures, as_specs
from impasto.serve.app import make_app
from impasto.serve.limits import Limits
from impasto.serve.run import check_address
from impasto.zoo.registry import SCORERS
from tests.fakes import FakeRewards
from tests.test_rewards import DOG, IMAGES, LINES, PROMPTS, SCORES, STRICT, TWO

ROOT = Path(__file__).parent.parent


def encoded(value=255, kind="PNG", size=(16, 16)):
    buffer = io.BytesIO()
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(buffer, format=kind)
    return buffer.getvalue()


def text(data):
    return base64.b64encode(data).decode()


def question(*files, lines=None, **more):
    return {"images": [text(f) for f in files], "metadata": lines or [DOG] * len(files)} | more


def service(scorer=None, token=None, **limits):
    return TestClient(make_app(LocalReward(scorer or FakeRewards()), Limits(**limits), token),
                      raise_server_exceptions=False)  # fmt: skip


@pytest.fixture(scope="module")
def client():
    with service() as client:
        yield client


# Answers


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_json(client, kind):
    files = encoded(255, kind), encoded(255, kind), encoded(0, kind)
    answer = client.post("/v1/rewards", json=question(*files, lines=LINES))
    assert answer.status_code == 200, answer.text
    rewards = answer.json()["rewards"]
    assert [one["score"] for one in rewards] == SCORES
    assert [one["accuracy"] for one in rewards] == STRICT
    assert rewards[1]["reason"] == "expected cat==1, found 0"


def test_files(client):
    files = [("images", ("../../etc/passwd", encoded(v))) for v in (255, 0)]
    form = {"metadata": json.dumps([DOG, DOG]), "as_published": "true"}
    answer = client.post("/v1/rewards/files", files=files, data=form)
    assert answer.status_code == 200, answer.text
    assert [one["score"] for one in answer.json()["rewards"]] == [1, 0]


def test_health_metrics_and_document(client):
    assert client.get("/healthz").json() == {"ok": True, "scorer": "fake", "self_test": "passed",
                                             "waiting": 0}  # fmt: skip
    client.post("/v1/rewards", json=question(encoded()))
    lines = client.get("/metrics").text.splitlines()
    assert any(line.startswith('impasto_requests_total{path="/v1/rewards",status="200"} ')
               for line in lines)  # fmt: skip
    assert "impasto_requests_waiting 0" in lines
    document = client.get("/openapi.json").json()
    assert set(document["paths"]) == {"/healthz", "/metrics", "/v1/rewards", "/v1/rewards/files"}


# Refusals


BOMB = (b"\x89PNG\r\n\x1a\n" + b"".join(
    struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    for name, body in ((b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)),
                       (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
))  # fmt: skip

POSITION = {"class": "dog", "count": 1, "position": ["left of", 0]}


@pytest.mark.parametrize("body, words", [
    (question(encoded()[:60]), "damaged"),
    (question(BOMB), "pixels"),
    (question(b"GIF89a" + bytes(50)), "not a PNG, JPEG or WEBP"),
    (question(encoded(kind="BMP")), "not a PNG, JPEG or WEBP"),
    (question(pickle.dumps({"images": []})), "not a PNG, JPEG or WEBP"),
    ({"images": ["%%%"], "metadata": [DOG]}, "not base64"),
    ({"images": ["http://169.254.169.254/x.png"], "metadata": [DOG]}, "not base64"),
    ({"images": ["file:///etc/passwd"], "metadata": [DOG]}, "not base64"),
    (question(encoded(), encoded(), lines=[DOG]), "2 pictures, 1 lines"),
    (question(*[encoded()] * 65), "65"),
    (question(encoded(), lines=[{"tag": "x", "include": []}]), "include"),
    (question(encoded(), lines=[{"tag": "x", "include": [{"class": "mouse", "count": 1}]}]),
     "class"),
    (question(encoded(), lines=[{"tag": "x", "include": [POSITION]}]), "refers to"),
    (question(encoded(), lines=[DOG | {"include": [{"class": "dog", "count": True}]}]), "count"),
    (question(encoded(), lines=[DOG | {"include": [{"class": "dog", "count": 0}]}]), "count"),
    (question(encoded(), lines=[DOG | {"more": 1}]), "more"),
    (question(encoded(), url="http://x"), "url"),
    ({"metadata": [DOG]}, "images"),
    ([], "dictionary"),
])  # fmt: skip
def test_bad_requests_are_422_and_say_why(client, body, words):
    answer = client.post("/v1/rewards", json=body)
    assert answer.status_code == 422, answer.text
    assert set(answer.json()) == {"error", "given", "allowed", "todo"}
    assert words in answer.text and "Traceback" not in answer.text


@pytest.mark.parametrize("call, status", [
    (lambda c: c.get("/nothing"), 404),
    (lambda c: c.get("/docs"), 404),
    (lambda c: c.get("/v1/rewards"), 405),
    (lambda c: c.post("/v1/rewards", content=b"{"), 422),
    (lambda c: c.post("/v1/rewards", content=pickle.dumps([DOG])), 422),
    (lambda c: c.post("/v1/rewards", content=b"[" * 200_000,
                      headers={"content-type": "application/json"}), (400, 422)),
    (lambda c: c.post("/v1/rewards/files", data={"metadata": "["},
                      files=[("images", encoded())]), 422),
    (lambda c: c.post("/v1/rewards/files", data={"metadata": "[]"}), 422),
    (lambda c: c.post("/v1/rewards/files", content=b"x",
                      headers={"content-type": "multipart/form-data"}), 400),
])  # fmt: skip
def test_other_faults(client, call, status):
    answer = call(client)
    assert answer.status_code in np.atleast_1d(status), answer.text
    assert set(answer.json()) == {"error", "given", "allowed", "todo"}


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def pickles(canary):
    """The bomb as everything that some library's reader would set off."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([Bomb(canary)], dtype=object), allow_pickle=True)
    with_torch = io.BytesIO()
    torch.save(Bomb(canary), with_torch)
    return [pickle.dumps(Bomb(canary), protocol) for protocol in range(6)] + [
        buffer.getvalue(), with_torch.getvalue(), gzip.compress(pickle.dumps(Bomb(canary)))]


def test_nothing_is_unpickled(client, tmp_path):
    """Not as the body of flow_grpo's own reward servers, not as a picture, a file or a line."""
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(Bomb(canary)))
    canary.unlink()  # so the bombs do go off
    line = json.dumps([DOG])
    for data in pickles(canary):
        for kind in ("application/octet-stream", "application/x-pickle", "application/json"):
            answer = client.post("/v1/rewards", content=data, headers={"Content-Type": kind})
            assert answer.status_code in (400, 415, 422), answer.text
        asked = [client.post("/v1/rewards", json=question(data)),
                 client.post("/v1/rewards/files", files=[("images", data)],
                             data={"metadata": line}),
                 client.post("/v1/rewards/files", files=[("images", encoded())],
                             data={"metadata": text(data)})]  # fmt: skip
        assert [answer.status_code for answer in asked] == [422] * 3
    assert not canary.exists()


def test_a_token_is_asked_for():
    with service(token="secret") as client:
        assert client.get("/healthz").status_code == 200
        for given in ({}, {"Authorization": "Bearer secre"}, {"Authorization": "secret"},
                      {"Authorization": "Bearer sécret".encode()}):  # fmt: skip
            for path in ("/metrics", "/openapi.json", "/nothing"):
                answer = client.get(path, headers=given)
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"] == "Bearer"
        right = {"Authorization": "Bearer secret"}
        assert client.post("/v1/rewards", json=question(encoded()),
                           headers=right).status_code == 200  # fmt: skip


def test_bytes_are_limited_whether_or_not_the_length_is_told():
    with service(body=1000) as client:
        assert client.post("/v1/rewards", content=bytes(1001)).status_code == 413
        chunks = (bytes(100) for _ in range(1000))
        answer = client.post("/v1/rewards", content=chunks)
        assert answer.status_code == 413 and "1,000 bytes" in answer.json()["allowed"]


@pytest.mark.parametrize("head", [{}, {b"content-length": b"7"}])
def test_a_body_without_end_is_read_no_further_than_allowed(head):
    """Of one that tells no length, or a wrong one: ten chunks fit, the eleventh is the last."""
    read, sent = [], []

    async def receive():
        read.append(100)
        return {"type": "http.request", "body": bytes(100), "more_body": True}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/rewards", "query_string": b"",
             "headers": [(b"content-type", b"application/json"), *head.items()]}  # fmt: skip
    with service(body=1000, waiting=1000) as client:
        asyncio.run(client.app(scope, receive, send))
        assert (sent[0]["status"], len(read)) == (413, 11)
        answer = client.post("/v1/rewards", json={})
        assert answer.status_code == 422, "what was read is let go"


def test_a_million_pictures_are_refused_by_their_number(client):
    answer = client.post("/v1/rewards", json={"images": [""] * 10**6, "metadata": [DOG]})
    assert answer.status_code == 422 and "1000000" in answer.json()["given"]


def test_bytes_of_all_requests_are_limited():
    with service(body=1000, waiting=1000) as client:
        for _ in range(5):  # what is answered is let go
            assert client.post("/v1/rewards", content=bytes(900)).status_code == 422


def test_pixels_of_a_request_are_limited_together():
    with service(pixels=600) as client:
        assert client.post("/v1/rewards", json=question(*[encoded()] * 2)).status_code == 200
        answer = client.post("/v1/rewards", json=question(*[encoded()] * 3))
        assert answer.status_code == 422 and "picture 2" in answer.json()["given"]


class Slow(FakeRewards):
    """Waits for a sign."""

    def __init__(self):
        super().__init__()
        self.go = threading.Event()

    def _batch(self, images, specs, rule):
        self.go.wait(20)
        return super()._batch(images, specs, rule)


def test_a_full_queue_is_503_and_later_requests_share_a_batch():
    scorer = Slow()
    with service(scorer, queue=3) as client:
        answers, threads = [], []

        def ask():
            answers.append(client.post("/v1/rewards", json=question(encoded())))

        def start():
            threads.append(threading.Thread(target=ask))
            threads[-1].start()

        worker = client.app.state.worker
        start()
        while worker.waiting or not worker._jobs.unfinished_tasks:
            time.sleep(0.01)
        time.sleep(0.2)  # the first is with the scorer
        for _ in range(3):
            start()
        while worker.waiting < 3:
            time.sleep(0.01)
        refused = client.post("/v1/rewards", json=question(encoded()))
        assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
        scorer.go.set()
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in answers] == [200] * 4
        assert scorer.calls == [1, 3]


def test_a_picture_that_the_scorer_cannot_take_costs_nobody_else():
    scorer = Slow()
    scorer.widest = 20
    with service(scorer) as client:
        codes = {}

        def ask(i, wide):
            codes[i] = client.post("/v1/rewards", json=question(encoded(size=(16, wide))))

        threads = [threading.Thread(target=ask, args=(i, 32 if i == 2 else 16)) for i in range(4)]
        for thread in threads:
            thread.start()
            time.sleep(0.1)
        scorer.go.set()
        for thread in threads:
            thread.join()
        assert [codes[i].status_code for i in range(4)] == [200, 200, 422, 200]
        assert "too wide" in codes[2].json()["given"]


def test_a_failing_scorer_is_500_without_a_traceback(capsys):
    class Failing(FakeRewards):
        def _batch(self, images, specs, rule):
            raise RuntimeError("CUDA error: secret path")

    with service(Failing()) as client:
        answer = client.post("/v1/rewards", json=question(encoded()))
        assert answer.status_code == 500 and "secret" not in answer.text
        assert client.get("/healthz").json()["ok"]
        assert "impasto_failures_total 1" in client.get("/metrics").text
    assert "CUDA error" in capsys.readouterr().err


def test_after_its_end_the_service_says_so():
    client = service()
    client.app.state.worker.stop()
    assert client.get("/healthz").status_code == 503
    assert client.post("/v1/rewards", json=question(encoded())).status_code == 503


# A process of its own


@pytest.fixture(scope="module")
def process():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = subprocess.Popen([sys.executable, "-m", "tests.serve_fakes", str(port)], cwd=ROOT)
    url = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            httpx.get(url + "/healthz")
            break
        except httpx.TransportError:
            assert started.poll() is None
            time.sleep(0.1)
    yield url, started
    started.send_signal(signal.SIGTERM)
    assert started.wait(20) is not None


BODIES = [json.dumps(question(encoded(value), encoded(), lines=[DOG, TWO])) for value in (0, 255)]


def at_once(url, number):
    async def ask():
        limits = httpx.Limits(max_connections=number)
        async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60) as client:
            headers = {"Authorization": "Bearer secret", "Content-Type": "application/json"}
            return await asyncio.gather(*(
                client.post("/v1/rewards", headers=headers, content=BODIES[i % 2])
                for i in range(number)
            ))  # fmt: skip

    return asyncio.run(ask())


def resident(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_250_requests_at_once_and_memory_stays(process):
    url, started = process
    for answer, bright in zip(at_once(url, 250), [0, 1] * 125, strict=True):
        assert answer.status_code == 200, answer.text
        assert [one["score"] for one in answer.json()["rewards"]] == [bright, 0.5]
    if not Path("/proc/self/statm").exists():
        pytest.skip("memory is read from /proc")
    at_once(url, 50)
    before = resident(started.pid)
    for _ in range(6):
        at_once(url, 50)
    assert resident(started.pid) - before < 16 * 2**20


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="files are counted in /proc")
def test_clients_that_leave_cost_nothing(process):
    """Half of 100 leave in the middle of their body, half before they are answered."""
    url, started = process
    address = ("127.0.0.1", httpx.URL(url).port)
    files = Path(f"/proc/{started.pid}/fd")
    at_once(url, 4)
    time.sleep(0.2)
    before = len(list(files.iterdir()))
    body = BODIES[0].encode()
    head = (f"POST /v1/rewards HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n").encode()
    for i in range(100):
        with socket.create_connection(address) as leaving:
            leaving.sendall(head + (body if i % 2 else body[:100]))
    for _ in range(100):
        if httpx.get(url + "/healthz").json()["waiting"] == 0:
            break
        time.sleep(0.05)
    assert [answer.status_code for answer in at_once(url, 4)] == [200] * 4
    time.sleep(0.2)
    assert len(list(files.iterdir())) <= before + 4


def test_the_client_asks_the_process(process):
    url, _ = process
    reward = GenEvalReward(RemoteReward(url, token="secret", batch=2))
    scores, _ = reward(IMAGES, PROMPTS, LINES)
    assert scores["avg"] == SCORES and scores["strict_accuracy"] == STRICT
    with pytest.raises(ServerError, match="no token"):
        RemoteReward(url).rate(as_pictures(IMAGES[:1]), as_specs([DOG], ["x"]))


# The command line


@pytest.mark.parametrize("arguments, code, words", [
    ([], 2, "give --rewards"),
    (["--rewards", "--host", "0.0.0.0"], 2, "give --token"),
    (["--rewards", "--host", "192.168.0.1"], 2, "give --token"),
    (["--rewards", "--token", ""], 2, "token is empty"),
    (["--rewards", "--scorer", "stickr"], 2, "did you mean 'sticker'"),
    (["--rewards", "--scorer", "sticker-clip"], 2, "gives no reward"),
    (["--rewards", "--scorer", "fake-broken"], 5, "told to be broken"),
])  # fmt: skip
def test_faults_of_the_command(monkeypatch, arguments, code, words):
    monkeypatch.setattr("impasto.serve.run.run", lambda *_, **__: pytest.fail("it serves"))
    monkeypatch.setitem(SCORERS._factories, "fake-broken", lambda device: FakeRewards(True))
    done = CliRunner().invoke(cli, ["serve", "--device", "cpu", *arguments])
    assert done.exit_code == code and words in done.stderr, done.output


def test_without_the_extra_the_command_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    done = CliRunner().invoke(cli, ["serve", "--rewards"])
    assert done.exit_code == 2 and "pip install 'impasto[serve]'" in done.stderr


def test_a_taken_port_is_an_error_with_its_code(monkeypatch):
    monkeypatch.setitem(SCORERS._factories, "fake", lambda device: FakeRewards())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = CliRunner().invoke(cli, ["serve", "--rewards", "--scorer", "fake", "--port",
                                        str(taken.getsockname()[1])])  # fmt: skip
    assert done.exit_code == 4 and "give another --port" in done.stderr


def test_local_addresses_need_no_token():
    for host in ("127.0.0.1", "::1", "localhost", "127.0.0.9"):
        check_address(host, None)


@pytest.mark.parametrize("limits", [{"pictures": 0}, {"body": 10, "waiting": 9}])
def test_limits_that_are_none(limits):
    with pytest.raises(ValueError, match="limit"):
        Limits(**limits)
