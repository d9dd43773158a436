"""An OpenAI-compatible image API as a generator, against a real server on this machine."""

import base64
import io
import json
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from impasto.images import ImageError, to_pil
from impasto.models import ImageAPI, load_generator
from impasto.models.foreign.api import ServerError
from impasto.run.evaluate import evaluate
from impasto.sample.protocol import Request, Sampling, generate
from impasto.search import NoSearch
from tests import tiny


def png(prompt, seed, size=(16, 16)):
    generator = torch.Generator().manual_seed(zlib.crc32(f"{prompt} {seed}".encode()))
    buffer = io.BytesIO()
    to_pil(torch.rand(3, size[1], size[0], generator=generator)).save(buffer, format="PNG")
    return buffer.getvalue()


class Server(ThreadingHTTPServer):
    """Draws noise from prompt and seed. answers: statuses or bodies to give first instead."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies, self.keys, self.answers = [], [], []
        self.now = self.most = 0
        self.pause, self.location = 0.02, None
        self.guard = threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.guard:
            self.server.bodies.append(body)
            self.server.keys.append(self.headers.get("Authorization"))
            self.server.now += 1
            self.server.most = max(self.server.most, self.server.now)
            status, answer = self.server.answers.pop(0) if self.server.answers else (200, None)
        threading.Event().wait(self.server.pause)
        if answer is None:
            size = [int(n) for n in body.get("size", "16x16").split("x")]
            data = base64.b64encode(png(body["prompt"], body.get("seed"), size)).decode()
            answer = {"created": 0, "data": [{"b64_json": data}]}
        with self.server.guard:
            self.server.now -= 1
        text = json.dumps(answer).encode()
        self.send_response(status if self.path == "/v1/images/generations" else 404)
        if self.server.location is not None:
            self.send_header("Location", self.server.location)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def api(server, **options):
    return ImageAPI(server.url, "m", **({"pause": 0.01} | options))


def draw(model, n=3, **settings):
    texts = [f"prompt {i}" for i in range(n)]
    return generate(model, [Request.of(t) for t in texts], range(n), Sampling(**settings))[0]


def test_pictures_come_in_the_order_of_the_prompts(server):
    images = draw(api(server), 6, height=8, width=24)
    for i, image in enumerate(images):
        assert base64.b64encode(png(f"prompt {i}", i, (24, 8))) == base64.b64encode(_png(image))
    assert {b["size"] for b in server.bodies} == {"24x8"}
    body = next(b for b in server.bodies if b["prompt"] == "prompt 2")
    assert body == {"model": "m", "prompt": "prompt 2", "n": 1, "response_format": "b64_json",
                    "size": "24x8", "seed": 2}  # fmt: skip


def _png(image):
    buffer = io.BytesIO()
    to_pil(image).save(buffer, format="PNG")
    return buffer.getvalue()


def test_no_more_requests_at_a_time_than_allowed(server):
    draw(api(server, concurrency=2), 8)
    assert server.most == 2 and len(server.bodies) == 8


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(server, status):
    server.answers = [(status, {"error": "busy"})] * 2
    assert len(draw(api(server), 1)) == 1 and len(server.bodies) == 3


def test_after_the_last_try_it_says_what_was_last(server):
    server.answers = [(503, {"error": "overloaded"})] * 9
    with pytest.raises(ServerError, match=r"'m' at http.* failed 3 times, .*503.*overloaded"):
        draw(api(server, tries=3), 1)
    assert len(server.bodies) == 3


def test_a_server_that_is_not_there_is_named():
    with pytest.raises(ServerError, match=r"127\.0\.0\.1:9/v1 failed 2 times, last with Connect"):
        draw(ImageAPI("http://127.0.0.1:9/v1", "m", tries=2, pause=0.01), 1)


def test_a_refusal_is_not_repeated(server):
    server.answers = [(400, {"error": {"message": "content policy"}})]
    with pytest.raises(ServerError, match=r"refused 'prompt 0', status 400: .*content policy"):
        draw(api(server), 1)
    assert len(server.bodies) == 1


def test_a_server_without_seeds_says_what_to_give(server):
    server.answers = [(400, {"error": {"message": "Unknown parameter: 'seed'."}})]
    with pytest.raises(ServerError, match="give seeded=false"):
        draw(api(server), 1)
    unseeded = load_generator(f"openai-images:base_url={server.url},model=m,seeded=false")
    draw(unseeded, 1)
    assert "seed" not in server.bodies[-1] and unseeded.provenance()["seeded"] is False


def test_a_server_that_refuses_response_format_says_what_to_give(server):
    server.answers = [(400, {"error": {"message": "Unknown parameter: 'response_format'."}})]
    with pytest.raises(ServerError, match="give ask_base64=false"):
        draw(api(server), 1)
    draw(api(server, ask_base64=False), 1)
    assert set(server.bodies[-1]) == {"model", "prompt", "n", "seed"}


def test_a_redirect_is_a_refusal_and_nobody_else_is_asked(server):
    with Server() as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        server.location = f"{other.url}/images/generations"
        server.answers = [(307, {})]
        with pytest.raises(ServerError, match="refused 'prompt 0', status 307"):
            draw(api(server), 1)
        other.shutdown()
        assert not other.bodies and len(server.bodies) == 1


def test_a_server_that_hangs_is_given_up(server):
    server.pause = 1.0
    begun = time.monotonic()
    with pytest.raises(ServerError, match="failed 2 times, last with ReadTimeout"):
        draw(api(server, tries=2, timeout=0.1), 1)
    assert time.monotonic() - begun < 1


@pytest.mark.parametrize("answer", [{}, {"data": []}, {"data": [{"url": "http://x/y.png"}]},
                                    {"data": [{"b64_json": "%%%"}]}, [1]])  # fmt: skip
def test_answers_without_a_picture_are_refused(server, answer):
    server.answers = [(200, answer)]
    with pytest.raises(ServerError, match=r"without a picture in data\[0\]\.b64_json"):
        draw(api(server), 1)


def test_a_damaged_picture_is_refused(server):
    server.answers = [(200, {"data": [{"b64_json": base64.b64encode(b"GIF89a").decode()}]})]
    with pytest.raises(ImageError, match=r"the answer of 'm' at .* to 'prompt 0': not a PNG"):
        draw(api(server), 1)


@pytest.mark.parametrize("settings, message", [
    ({"steps": 3}, "no setting steps"), ({"guidance": 2.0}, "no setting guidance"),
    ({"height": 8}, "height and width together"),
])  # fmt: skip
def test_settings_that_the_api_has_not_are_refused(server, settings, message):
    with pytest.raises(ValueError, match=message):
        draw(api(server), 1, **settings)
    assert not server.bodies


@pytest.mark.parametrize("url", ["file:///etc", "localhost:80", "http://me:pw@host/v1",
                                 "http://host/v1?key=1"])  # fmt: skip
def test_bad_addresses_are_refused(url):
    with pytest.raises(ValueError, match="base_url"):
        ImageAPI(url, "m")


def test_a_run_goes_on_after_the_server_failed_and_keeps_no_key(server, tmp_path):
    settings = tiny.settings(samples=1)
    server.answers = [(200, None)] * 3 + [(400, {"error": "no"})]
    with pytest.raises(ServerError):
        evaluate(settings, api(server, concurrency=1), NoSearch(), tmp_path / "run", batch_size=2)
    done = evaluate(settings, api(server), NoSearch(), tmp_path / "run", batch_size=2)
    assert len(server.bodies) == 4 + 4, "two pictures were kept"
    whole = evaluate(settings, api(server), NoSearch(), tmp_path / "whole")
    assert tiny.tree(done.path) == tiny.tree(whole.path)
    assert set(server.keys) == {"Bearer sk-secret"}
    assert not any(b"sk-secret" in path.read_bytes() for path in tmp_path.rglob("*")
                   if path.is_file())  # fmt: skip
    assert done.record["model"]["base_url"] == server.url
