"""The command line: names, exit codes, messages; the work behind it is tested elsewhere."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch
import typer.main
from PIL import Image
from typer.testing import CliRunner

from impasto import files
from impasto.bench import Bench
from impasto.cli import app
from impasto.cli.errors import EXIT_CODES
from impasto.cli.options import named_after
from impasto.images import png_bytes, write_png
from impasto.score.features import Extractor
from impasto.spec import Item, Spec
from impasto.zoo.registry import BENCHES, FEATURES, MODELS, SCORERS
from tests import tiny
from tests.fakes import FakeGenerator, FakeScorer, FakeSecond

FLAGS = Path(__file__).with_name("cli_flags.txt")
JUDGES = ["--scorer", "fake", "--second", "fake-second"]
EVAL = ["eval", "fake", "--model", "fake", *JUDGES]


def call(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


FACTORIES = (
    (MODELS, "fake", lambda memory=None, name="fake", **_: FakeGenerator(memory, name)),
    (SCORERS, "fake", lambda device, broken=False: FakeScorer(broken)),
    (SCORERS, "fake-second", lambda device: FakeSecond()),
    (BENCHES, "fake", lambda: tiny.BENCH),
)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder, with the fakes registered for as long as the test runs."""
    monkeypatch.chdir(tmp_path)
    for registry, name, factory in FACTORIES:
        monkeypatch.setitem(registry._factories, name, factory)
    return tmp_path


# Names


def commands(group, path="impasto"):
    for name, command in group.commands.items():
        yield from ((f"{path} {name} {word}", own)
                    for word, own in getattr(command, "inner", {}).items())
        if hasattr(command, "commands"):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def words(parameter):
    if parameter.param_type_name == "argument":
        return [parameter.name.upper()]
    return [*parameter.opts, *parameter.secondary_opts]


def test_names_of_commands_and_flags_stay():
    """Scripts depend on them. A change here is a change for users: say so in the commit."""
    found = [f"{path}: {' '.join(w for p in command.params for w in words(p))}"
             for path, command in commands(typer.main.get_command(app))]  # fmt: skip
    assert "\n".join(sorted(found)) + "\n" == FLAGS.read_text()


@pytest.mark.parametrize("path, name", [
    ("recipes/tts-var/sticker.yaml", "tts-var-sticker"), ("recipes/own.yaml", "own"),
    ("mine.yaml", "mine"), ("/data/experiments/mine.v2.yaml", "mine.v2"),
    ("/src/recipes/old/recipes/sticker/clip.yaml", "sticker-clip"),
])  # fmt: skip
def test_results_are_called_after_their_recipe(path, name):
    assert named_after(Path(path)) == name


def test_help_lists_commands_and_exit_codes():
    text = re.sub(r"[\s│]+", " ", call("--help").output)
    for word in ("generate", "eval", "compare", "doctor", "demo", "train", "bench", "scorers"):
        assert word in text
    for code in EXIT_CODES:
        assert f"{code} " in text.split("Exit codes:")[1]


@pytest.mark.parametrize("path", [path for path, _ in commands(typer.main.get_command(app))])
def test_every_command_has_help_for_every_option(path):
    command = dict(commands(typer.main.get_command(app)))[path]
    assert command.help
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{path}: {parameter.name}"


# generate


def test_generate(here):
    done = call("generate", "a dog", "a cat", "--model", "fake", "-n", 2, "--out", "x")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == ["x/00000-00.png", "x/00000-01.png", "x/00001-00.png",
                                        "x/00001-01.png"]  # fmt: skip
    assert "drawing: 4/4" in done.stderr


def test_generate_again_finds_its_folder(here):
    first, again = (call("generate", "a dog", "--model", "fake") for _ in range(2))
    assert first.stdout == again.stdout and first.stdout.startswith("runs/generate-")


def test_prompts_from_a_file(here):
    Path("p.txt").write_bytes(b"\xef\xbb\xbfa dog\r\na cat\r\n")
    done = call("generate", "--prompts", "p.txt", "--model", "fake", "--out", "x")
    assert done.exit_code == 0 and len(done.stdout.splitlines()) == 2
    assert json.loads(Path("x/run.json").read_text())["texts"] == ["a dog", "a cat"]


@pytest.mark.parametrize("arguments, message", [
    (["a dog", "--model", "fale"], "unknown model 'fale'"),
    (["a dog", "--model", "fale"], "did you mean 'fake'"),
    (["a dog", "--model", "fake:nam=x"], "key 'nam' for model 'fake': did you mean 'name'"),
    (["a dog", "-n", "0"], "-n"),
    (["a dog", "--steps", "-1"], "--steps"),
    (["a dog", "--guidance", "-0.5"], "--guidance"),
    (["a dog", "--batch-size", "0"], "--batch-size"),
    (["a dog", "--seed", "x"], "--seed"),
    (["a dog", "--stepz", "3"], "--steps"),
    (["a dog", "--device", "abacus"], "device 'abacus' cannot be used"),
    ([""], "an empty prompt"),
    ([], "nothing to draw"),
    (["--prompts", "none.txt"], "none.txt"),
    (["a dog", "--prompts", "p.txt"], "not both"),
])  # fmt: skip
def test_bad_input_is_exit_code_2_with_a_message(here, arguments, message):
    if "--model" not in arguments:
        arguments = [*arguments, "--model", "fake"]
    done = call("generate", *arguments)
    assert done.exit_code == 2, done.output
    assert message in re.sub(r"[\s│]+", " ", done.stderr)
    assert "Traceback" not in done.output and not Path("runs").exists()


# eval, compare


@pytest.mark.parametrize("arguments, message", [
    (["--workers", "0"], "--workers"),
    (["--workers", "2"], "2 workers need Ray: pip install 'impasto[ray]'"),
])  # fmt: skip
def test_workers_are_never_ignored(here, monkeypatch, arguments, message):
    monkeypatch.setattr("impasto.run.workers.importlib.util.find_spec", lambda name: None)
    done = call(*EVAL, *arguments)
    assert done.exit_code == 2 and message in re.sub(r"[\s│]+", " ", done.stderr)
    assert not Path("runs").exists()


@pytest.mark.parametrize("module, extra, arguments", [
    ("openai", "judge",
     ["eval", "sticker-questions", "--judge", "endpoint:url=http://x/v1,model=m"]),
    ("pyarrow.parquet", "data",
     ["eval", "gedit:path=x.parquet", "--images", ".", "--scorer", "fake"]),
    ("httpx", "api", ["generate", "a dog", "--model",
                      "openai-images:base_url=http://x/v1,model=m"]),
])  # fmt: skip
def test_an_extra_that_is_missing_is_a_line_that_says_what_to_install(
    here, monkeypatch, module, extra, arguments
):
    Path("x.parquet").touch()
    monkeypatch.setitem(sys.modules, module, None)  # importing it is an ImportError
    done = call(*arguments)
    assert done.exit_code == 2 and "Traceback" not in done.output
    assert f"pip install 'impasto[{extra}]'" in done.stderr


def test_a_flat_folder_is_judged(here):
    call("generate", *[spec.prompt for spec in tiny.SPECS], "--model", "fake", "--out", "x",
         "-n", 2)  # fmt: skip
    done = call("eval", "fake", "--images", "x", *JUDGES, "--out", "run", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads((here / "run/summary.json").read_text())["coverage"]["images"] == 12


def test_eval_prints_a_table_and_writes_a_page(here):
    done = call(*EVAL, "--out", "run", "--limit", 3)
    assert done.exit_code == 0, done.output
    assert "single_object" in done.stdout and "run/report.html" in done.stdout
    assert (here / "run/report.html").is_file()
    assert json.loads((here / "run/run.json").read_text())["model"]["name"] == "fake"


def test_eval_json_is_nothing_but_json(here):
    done = call(*EVAL, "--out", "run", "--json")
    values = json.loads(done.stdout)
    (run,) = values["runs"]
    assert run["run"] == "run" and run["summary"]["coverage"] == {"images": 12, "of": 12}
    assert run["cost"]["images"] == 12
    assert done.stderr == ""


def test_eval_of_pictures_and_incomplete_sets(here):
    call(*EVAL, "--out", "run")
    (here / "run/images/00003/samples/00001.png").unlink()
    images = ["eval", "fake", "--images", "run/images", *JUDGES]
    done = call(*images)
    assert done.exit_code == 3 and "11/12" in done.stderr and "00003/samples/00001" in done.stderr
    done = call(*images, "--allow-incomplete")
    assert done.exit_code == 0 and "11/12" in done.stdout.replace(" of ", "/")
    (run,) = json.loads(call(*images, "--allow-incomplete", "--json").stdout)["runs"]
    assert run["summary"]["coverage"] == {"images": 11, "of": 12}


@pytest.mark.filterwarnings("ignore:left out")
def test_damaged_pictures_among_a_thousand_are_named_and_counted(here, monkeypatch):
    """Cut off, empty, and with a bit turned; the others are judged."""
    bench = Bench(name="many", specs=tuple(Spec(tag="single_object", include=(Item(cls="dog"),),
                                                prompt=f"dog {i}") for i in range(1000)),
                  samples_per_prompt=1)  # fmt: skip
    monkeypatch.setitem(BENCHES._factories, "many", lambda: bench)
    good = png_bytes(torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)))
    jpeg = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(jpeg, format="JPEG")
    turned = bytearray(good)
    turned[len(good) // 2] ^= 1
    bad = {"0017": good[:300], "0500": b"", "0501": jpeg.getvalue()[:200], "0999": bytes(turned)}
    (here / "drawn").mkdir()
    for i in range(1000):
        whole = jpeg.getvalue() if i % 2 else good
        (here / f"drawn/{i:04d}.png").write_bytes(bad.get(f"{i:04d}", whole))
    (here / "drawn/prompts.txt").write_text(bench.prompts_text)
    command = ["eval", "many", "--images", "drawn", *JUDGES, "--batch-size", "500", "--out", "o"]
    done = call(*command)
    assert done.exit_code == 3 and "996/1000 readable pictures" in done.stderr, done.stderr
    assert all(f"{int(name):05d}" in done.stderr for name in bad), done.stderr
    done = call(*command, "--allow-incomplete", "--json")
    (run,) = json.loads(done.stdout)["runs"]
    assert done.exit_code == 0 and run["summary"]["coverage"] == {"images": 996, "of": 1000}


@pytest.mark.parametrize("arguments, message", [
    (["fake"], "either --model NAME or --images DIR"),
    (["fake", "--model", "fake", "--images", "x"], "either --model NAME or --images DIR"),
    (["fake", "--images", "x", "--steps", "3"], "do not go with it"),
    (["fake", "--model", "fake", "--allow-incomplete"], "goes with --images"),
    (["fake", "--images", "x"], "x is not a folder"),
    (["genevel", "--model", "fake"], "did you mean 'geneval'"),
    (["fake", "--model", "fake", "--search", "best-of-m"], "did you mean 'best-of-n'"),
    (["fake", "--model", "fake", "--limit", "7"], "limit is 7"),
])  # fmt: skip
def test_eval_refuses(here, arguments, message):
    done = call("eval", *arguments, *JUDGES)
    assert done.exit_code == 2 and message in done.stderr, done.output


def test_a_search_that_gives_up_rows(here):
    search = "tts-var:n=1,schedule=4/3/2/2,cluster=1,resample=2,reward=fake-second"
    done = call(*EVAL, "--search", search, "--steps", 4, "--samples", 1, "--out", "run")
    assert done.exit_code == 0, done.output
    (sample, *rest) = sorted((here / "run").rglob("samples/*.json"))
    record = json.loads(sample.read_text())
    assert [choice["rows"] for choice in record["trace"]] == [4, 3, 2] and len(rest) == 5
    assert "search: 4 → 3 → 2 → 1" in (here / "run/report.html").read_text()
    done = call(*EVAL, "--search", search, "--steps", 5, "--out", "other")
    assert done.exit_code == 2 and "4 entries for a drawing of 5 steps" in done.stderr


def test_broken_scorer_is_exit_code_5(here):
    done = call("eval", "fake", "--model", "fake", "--scorer", "fake:broken=true",
                "--second", "fake-second")  # fmt: skip
    assert done.exit_code == 5 and "broken" in done.stderr and done.stdout == ""


def test_compare(here):
    call(*EVAL, "--out", "a")
    call("eval", "fake", "--model", "fake:name=other", *JUDGES, "--out", "b")
    done = call("compare", "a", "b")
    assert done.exit_code == 0, done.output
    assert (here / "compare-a-b.html").is_file() and "compare-a-b.html" in done.stdout
    values = json.loads(call("compare", "a", "b", "--json", "--out", "c.html").stdout)
    assert len(values["differences"]) == 1 and values["page"] == "c.html"
    assert set(values["differences"][0]["holm"]) == set(values["differences"][0]["tasks"])
    assert "disagreements" in values["differences"][0]
    assert [row["pictures"] for row in values["equal_samples"]] == [1] and values["equal_flops"]
    assert values["power"][0]["x"] == 0.02 and values["power"][0]["prompts"] > 0
    assert f"{values['power'][0]['prompts']:,} prompts" in " ".join(done.stdout.split())
    alone = json.loads(call("compare", "a", "--power", "0.1", "--json", "--out", "d.html").stdout)
    assert alone["power"][0]["x"] == 0.1 and "equal_samples" not in alone
    done = call("compare", "a", "b", "--power", "0")
    assert done.exit_code == 2 and "give one above 0" in done.stderr
    done = call("compare", "a", "none")
    assert done.exit_code == 2 and "none is not a run folder" in done.stderr


# measure


class Red(Extractor):
    """One feature: the mean red, in levels."""

    def __init__(self, name="red"):
        super().__init__(name, {"fd": {}, "precision_recall": {"k": 1}}, {"pool": 1}, None)

    def __call__(self, images):
        return {"pool": (255 * images[:, :1]).mean((2, 3))}

    def provenance(self):
        return self.record("0" * 64, "none")


@pytest.fixture
def greys(here, monkeypatch):
    """Folders a (levels 0, 10, 20) and b (100, 110, 120), and the features "red"."""
    monkeypatch.setitem(FEATURES._factories, "red", lambda device: Red())
    for folder, first in (("a", 0), ("b", 100)):
        for i in range(3):
            write_png(here / folder / f"{i}.png", torch.full((3, 16, 16), (first + 10 * i) / 255))
    return here


def test_measure_distance(greys):
    """Means 100 apart, spreads equal: 10,000; no ball of b holds a picture of a."""
    command = ["measure", "distance", "a", "b", "--features", "red"]
    done = call(*command, "--out", "x")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[:3] == ["fd_red         10,000", "precision_red       0", "recall_red          0"]
    assert lines[4:] == ["3 pictures of a, 16 x 16", "from 3 pictures of b", "x/summary.json"]
    values = json.loads(call(*command, "--json").stdout)
    assert values["summary"]["distances"]["fd_red"]["value"] == pytest.approx(1e4)
    assert values["run"].startswith("runs/distance-")


def test_measure_reconstruction(greys):
    """The shipped autoencoder on grey pictures, and the same command again."""
    command = ["reconstruction", "sticker-mmdit", "a", "--features", "red", "--out", "x"]
    done = call("measure", *command)
    assert done.exit_code == 0, done.output
    shown = done.stdout.splitlines()
    assert shown[0].startswith("psnr (dB)") and "[" in shown[0]
    names = [line.split()[0] for line in shown[1:7]]
    assert names == ["ssim_skimage_dr2", "ssim_skimage_dr1", "ssim_gaussian", "mean_color_error",
                     "fd_red", "precision_red"]  # fmt: skip
    assert shown[-1] == "report: x/report.html" and (greys / "x/report.html").is_file()
    assert "sticker-mmdit on 3 pictures, 16 x 16" in shown
    assert (greys / "x/images/00000002.png").is_file()
    assert call("measure", *command).stdout == done.stdout
    done = call("measure", "distance", "x", "a", "--features", "red", "--json")
    again = json.loads(done.stdout)["summary"]["distances"]  # the same distance, from its pictures
    assert again == json.loads((greys / "x/summary.json").read_text())["distances"]


def test_eval_reconstruction_is_the_same(greys):
    """The same folder goes on from one command to the other."""
    call("measure", "reconstruction", "sticker-mmdit", "a", "--features", "red", "--out", "x")
    record = (greys / "x/run.json").read_bytes()
    command = ["eval", "reconstruction", "a", "--tokenizer", "sticker-mmdit", "--features", "red"]
    done = call(*command, "--out", "x", "--json")
    assert done.exit_code == 0, done.output
    values = json.loads(done.stdout)
    assert (values["run"], values["page"]) == ("x", "x/report.html")
    assert values["summary"] == json.loads((greys / "x/summary.json").read_text())
    assert values["cost"]["pictures_per_second"] is None  # seconds mean something on a GPU only
    assert (greys / "x/run.json").read_bytes() == record


@pytest.mark.parametrize("arguments, message", [
    (["reconstruction", "a"], "Missing option '--tokenizer'"),
    (["reconstruction", "--tokenizer", "sticker-mmdot", "a"], "did you mean 'sticker-mmdit'"),
    (["reconstruction", "--tokenizer", "sticker-infinity", "a"], "--size PIXELS scales and cuts"),
    (["reconstruction", "--model", "x"], "--model"),
    (["--model", "fake", "reconstruction"], "reconstruction comes first: impasto eval rec"),
])  # fmt: skip
def test_eval_reconstruction_refuses(greys, arguments, message):
    done = call("eval", *arguments)
    assert done.exit_code == 2 and message in re.sub(r"[\s│]+", " ", done.stderr), done.output
    assert not Path("runs").exists()


def test_eval_helps_with_both():
    text = re.sub(r"[\s│]+", " ", call("eval", "reconstruction", "--help").output)
    assert "impasto eval reconstruction" in text.replace("root eval", "impasto eval")
    assert "--tokenizer" in text and "world:scenes=500,split=held-out" in text
    assert "'impasto eval reconstruction --help'" in re.sub(r"[\s│]+", " ",
                                                            call("eval", "--help").output)


def test_tokenizers_are_compared_on_one_page(greys):
    for name, number in (("x", "sticker-mmdit"), ("y", "sticker-infinity")):
        call("eval", "reconstruction", "a", "--tokenizer", number, "--features", "red", "--size",
             128, "--out", name)  # fmt: skip
    done = call("compare", "x", "y", "--json")
    assert done.exit_code == 0, done.output
    values = json.loads(done.stdout)
    (difference,) = values["differences"]
    means = [json.loads((greys / name / "summary.json").read_text())["means"] for name in "xy"]
    gap = means[1]["psnr"]["value"] - means[0]["psnr"]["value"]
    assert difference["measures"]["psnr"]["value"] == pytest.approx(gap)
    assert values["page"].endswith("compare-x-y.html") and Path(values["page"]).is_file()
    assert "sticker-infinity − sticker-mmdit" in call("compare", "x", "y").stdout
    done = call("compare", "x", "y", "--power", 0.1)
    assert done.exit_code == 2 and "--power is about prompts" in done.stderr
    call("eval", "reconstruction", "b", "--tokenizer", "sticker-mmdit", "--features", "red",
         "--size", 128, "--out", "z")  # fmt: skip
    done = call("compare", "x", "z")
    assert done.exit_code == 2 and "z and x differ in pictures" in done.stderr
    call(*EVAL, "--out", "judged")
    for runs in (["judged", "x"], ["x", "judged"]):
        done = call("compare", *runs)
        assert done.exit_code == 2 and "judged holds a run of kind 'eval'" in done.stderr


@pytest.mark.parametrize("arguments, message", [
    (["distance", "a", "b"], "--features"),
    (["distance", "a", "c", "--features", "red"], "'c' is no source of pictures"),
    (["distance", "a", "b", "--features", "rad"], "did you mean 'red'"),
    (["distance", "a", "b", "--features", "clean"], "feature extractor 'clean' needs 'weights'"),
    (["distance", "a", "b", "--features", "clean:weights=a/0.png"], "not the published file"),
    (["distance", "a", "b", "--features", "sticker-clip:measures=fid"], "no measure 'fid'"),
    (["distance", "a", "b", "--features", "red", "--size", "4"], "--size"),
    (["reconstruction", "nothing", "a"], "unknown tokenizer 'nothing', and no folder either"),
    (["reconstruction", "sticker-mmdit", "a", "--size", "20"], "multiples of 8 pixels"),
    (["reconstruction", "sticker-mmdit", "a", "--scorer", "fake"], "truth is known"),
    (["reconstruction", "sticker-mmdit", "a", "--perceptual", "lpips"], "did you mean"),
    (["reconstruction", "sticker-mmdit", "world:scenes=3"], "needs at least 129 pictures"),
])  # fmt: skip
def test_measure_refuses(greys, arguments, message):
    done = call("measure", *arguments)
    assert done.exit_code == 2, done.output
    assert message in re.sub(r"[\s│]+", " ", done.stderr) and "Traceback" not in done.output
    assert not Path("runs").exists() or not list(Path("runs").glob("*/run.json"))


# File system


def test_other_runs_and_foreign_folders(here):
    call(*EVAL, "--out", "run")
    done = call(*EVAL, "--out", "run", "--seed", 1)
    assert done.exit_code == 2 and "seed: 0 in the folder, 1 now" in done.stderr
    done = call("generate", "a dog", "--model", "fake", "--out", "run")
    assert done.exit_code == 2 and 'kind: "eval" in the folder, "generate" now' in done.stderr
    (here / "mine").mkdir()
    (here / "mine/thesis.tex").write_text("x")
    done = call(*EVAL, "--out", "mine")
    assert done.exit_code == 2 and "thesis.tex" in done.stderr


def test_full_disk_is_exit_code_4(here, monkeypatch):
    def replace(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", replace)
    done = call(*EVAL, "--out", "run")
    assert done.exit_code == 4 and "the disk is full" in done.stderr, done.output
    assert [p for p in here.rglob("*") if p.is_file()] == []


def test_locked_folder_is_exit_code_4(here):
    with files.lock(here / "run"):
        done = call(*EVAL, "--out", "run")
    assert done.exit_code == 4 and f"process {os.getpid()}" in done.stderr


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no read-only folder at hand")
def test_unwritable_folder_is_exit_code_4(here):
    done = call(*EVAL, "--out", "/proc/self/run")
    assert done.exit_code == 4 and "cannot write /proc/self/run" in done.stderr


SLOW = """
import sys, time
from impasto.cli import main
from impasto.zoo.registry import BENCHES, MODELS, SCORERS
from tests import tiny
from tests.fakes import FakeGenerator, FakeScorer, FakeSecond

class Slow(FakeGenerator):
    def advance(self, state):
        time.sleep(0.2)
        return super().advance(state)

MODELS.register("slow")(lambda **_: Slow())
SCORERS.register("fake")(lambda device: FakeScorer())
SCORERS.register("fake-second")(lambda device: FakeSecond())
BENCHES.register("fake")(lambda: tiny.BENCH)
main()
"""


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_a_run_cleanly(tmp_path, number, code):
    command = [sys.executable, "-c", SLOW, "eval", "fake", "--model", "slow", *JUDGES,
               "--out", str(tmp_path / "run"), "--batch-size", "1"]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True,
                          cwd=Path(__file__).parent.parent) as process:  # fmt: skip
        while not list(tmp_path.rglob("*.png")):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate(timeout=10)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    run = tmp_path / "run"
    assert not (run / ".lock").exists() and not list(run.rglob("*.tmp"))
    assert 1 <= len(list(run.rglob("*.png"))) < 12


# ls, bench, doctor


@pytest.mark.parametrize("kind, name", [("models", "sticker-mmdit"), ("benches", "geneval"),
                                        ("scorers", "sticker"), ("searches", "tts-var"),
                                        ("patches", "clip-patches")])
def test_ls(kind, name):
    done = call("ls", kind)
    assert done.exit_code == 0, done.output
    assert any(line.split(None, 1)[0] == name for line in done.stdout.splitlines())
    rows = json.loads(call("ls", kind, "--json").stdout)
    more = {"ships", "published", "kinds", "recipes"} if kind == "models" else set()
    assert {"name", "about"} | more == set(rows[0]) and name in [row["name"] for row in rows]
    assert all(row["about"] for row in rows)


def test_ls_recipes(here):
    done = call("ls", "recipes")
    assert done.exit_code == 2 and "in its checkout" in done.stderr
    (here / "recipes").mkdir()
    (here / "recipes/x.yaml").write_text(
        "# A small one (arXiv 1.2), in two\n# lines. Few steps.\nkind: detector\n# Not this.\n")
    assert call("ls", "recipes").stdout == (
        "recipes/x.yaml  A small one (arXiv 1.2), in two lines.\n")


def test_bench_export_writes_the_official_files(here):
    done = call("bench", "export", "geneval", "--out", "g")
    assert done.exit_code == 0, done.output
    assert files.sha256_file("g/evaluation_metadata.jsonl").startswith("5c48e0813e812e3c")
    assert files.sha256_file("g/generation_prompts.txt").startswith("55b6e3650e980c13")
    assert "5c48e0813e812e3c" in done.stdout


def test_train_overrides_are_key_value(here):
    done = call("train", "x.yaml", "--set", "steps")
    assert done.exit_code == 2 and "--set takes KEY=VALUE, got 'steps'" in done.stderr


def test_doctor_reports_each_fault(here, monkeypatch):
    done = call("doctor", "--scorer", "fake:broken=true", "--json")
    values = json.loads(done.stdout)
    rows = {row["check"]: row for row in values["checks"]}
    assert done.exit_code == 1 and values["ok"] is False
    assert rows["scorer fake:broken=true"]["ok"] is False
    assert rows["torch"]["ok"] and rows["python"]["ok"] and rows["disk"]["ok"]
    assert {"diffusers", "transformers", "pillow", "drawings", "device"} <= set(rows)


def test_doctor_tells_of_extras(monkeypatch):
    wanted = ["torch>=1", 'numpy>=1; extra == "quantise"', 'not-there[x]>=2; extra == "ray"',
              'pytest>=8; extra == "test"', 'pillow>=999; extra == "api"']  # fmt: skip
    doctor = sys.modules["impasto.cli.doctor"]  # the package's own name is the command's
    monkeypatch.setattr(doctor, "requires", lambda name: wanted)
    done = call("doctor", "--scorer", "fake:broken=true", "--json")
    rows = {row["check"]: (row["ok"], row["detail"]) for row in json.loads(done.stdout)["checks"]}
    import numpy

    assert rows["numpy"] == (True, f"{numpy.__version__} (quantise)") and "pytest" not in rows
    assert rows["not-there"] == (True, "not installed; pip install 'impasto[ray]'")
    assert not rows["pillow"][0] and "does not meet >=999" in rows["pillow"][1]


def test_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", call("--version").stdout)


def test_python_m(tmp_path):
    done = subprocess.run([sys.executable, "-m", "impasto", "--version"], capture_output=True,
                          text=True, check=True, cwd=tmp_path)  # fmt: skip
    assert done.stdout == call("--version").stdout


def test_scorers_check(monkeypatch):
    import impasto.score

    asked = []

    def check_scorer(name, *, scenes, seed, style, coarse, device, progress):
        progress(scenes, scenes)
        asked.append((name, scenes, seed, style, coarse))
        if name == "sticker-clip":
            return {"prefer": {"position": 0.75}}
        return {"accept": {"counting": 0.99}, "reject": {"counting": 0.98}}

    fake = types.SimpleNamespace(check_scorer=check_scorer)
    monkeypatch.setitem(sys.modules, "impasto.score.check", fake)
    monkeypatch.setattr(impasto.score, "check", fake, raising=False)
    done = call("scorers", "check", "sticker", "--scenes", 5, "--seed", 1, "--json")
    assert json.loads(done.stdout) == {"accept": {"counting": 0.99}, "reject": {"counting": 0.98}}
    assert asked == [("sticker", 5, 1, "openmoji", None)] and done.stderr == ""
    told = call("scorers", "check", "sticker").stdout.splitlines()
    assert told[0].split() == ["task", "accepts", "true", "rejects", "altered"]
    assert told[1].split() == ["counting", "0.9900", "0.9800"]
    told = call("scorers", "check", "sticker-clip", "--coarse", 32).stdout.splitlines()
    assert told[1].split() == ["position", "0.7500"] and "prefers true" in told[0]
    assert asked[-1][-1] == 32


def test_demo(here, monkeypatch):
    module = sys.modules["impasto.cli.demo"]
    for name, value in (("SCORER", "fake"), ("SECOND", "fake-second")):
        monkeypatch.setattr(module, name, value)
    done = call("demo", "--limit", 6, "--model", "fake", "--search",
                "best-of-n:n=4,reward=fake-second")  # fmt: skip
    assert done.exit_code == 0, done.output
    demo = here / "runs/demo-fake"
    assert (demo / "report.html").is_file() and "runs/demo-fake/report.html" in done.stdout
    best = "best-of-n-n-4-reward-fake-second"
    assert "base: drawing: 6/6" in done.stderr and f"{best}: judging: 6/6" in done.stderr
    first, best = (json.loads((demo / name / "cost.json").read_text())
                   for name in ("base", best))  # fmt: skip
    assert (first["images"], best["images"]) == (6, 24)


@pytest.mark.parametrize("format, name", [("imagefolder", "metadata.jsonl"),
                                          ("coco", "annotations.json"),
                                          ("webdataset", "shard-000000.tar")])  # fmt: skip
def test_world_export(here, format, name):
    done = call("world", "export", "--format", format, "--scenes", 3, "--out", "x")
    assert done.exit_code == 0 and done.stdout == "x\n", done.output
    assert (here / "x" / name).is_file() and "rendering: 3/3" in done.stderr


@pytest.mark.parametrize("arguments, message", [
    (["--out", "."], "is there already"),
    (["--out", "x", "--split", "test"], "allowed: train, seen, held-out, all"),
])  # fmt: skip
def test_world_export_refuses(here, arguments, message):
    (here / "something").touch()
    done = call("world", "export", "--scenes", 1, *arguments)
    assert done.exit_code == 2 and message in done.stderr
