"""Settings of a generator that is saved in a folder: given by name, else the folder's own."""

from dataclasses import replace

import pytest
import torch

from impasto.models import load_generator
from impasto.models.tokenflow import STRATEGIES
from tests import tiny_layton_gen, tiny_tokenflow_lm

PROMPT = "a photo of a dog"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    made = {"tokenflow": tiny_tokenflow_lm.generator(top_k=(20, 1), top_p=(0.9, 0.0)),
            "layton": tiny_layton_gen.generator()}  # fmt: skip
    for name, pipe in made.items():
        pipe.save_pretrained(root / name, "float32")
    return {name: (root / name, pipe) for name, pipe in made.items()}


def loaded(folders, name, options="", **given):
    return load_generator(f"{name}:folder={folders[name][0]}{options and ','}{options}", **given)


def drawn(pipe):
    return pipe([PROMPT], seeds=[5], output_type="pt").images


@pytest.mark.parametrize("name", ["tokenflow", "layton"])
def test_what_is_not_named_stays_the_folders(folders, name):
    _, pipe = folders[name]
    again = loaded(folders, name)
    assert again.defaults == pipe.defaults and torch.equal(drawn(again), drawn(pipe))
    assert again.provenance() == pipe.provenance()


@pytest.mark.parametrize(
    ("name", "options", "changes"),
    [("tokenflow", "passes=1", {"top_k": STRATEGIES[1][0], "top_p": STRATEGIES[1][1]}),
     ("tokenflow", "passes=3", {"top_k": (1200, 100, 1), "top_p": (0.8, 0.8, 0.0)}),
     ("tokenflow", "passes=3,top_k=150/12/1", {"top_k": (150, 12, 1), "top_p": (0.8, 0.8, 0.0)}),
     ("tokenflow", "top_k=30/2", {"top_k": (30, 2)}),
     ("tokenflow", "passes=1,top_k=75,top_p=0.5", {"top_k": (75,), "top_p": (0.5,)}),
     ("tokenflow", "guidance=2,negative=(blurry, cropped)",
      {"guidance": 2.0, "negative": "blurry, cropped"}),
     ("tokenflow", "guidance=1/2/3,negative=()", {"guidance": (1.0, 2.0, 3.0), "negative": ""}),
     ("layton", "top_k=1", {"top_k": 1}),
     ("layton", "guidance=1,temperature=0.7,top_p=0.5,clean=true",
      {"guidance": 1.0, "temperature": 0.7, "top_p": 0.5, "clean": True})],
)  # fmt: skip
def test_what_is_named_is_drawn_with(folders, name, options, changes):
    _, pipe = folders[name]
    again = loaded(folders, name, options)
    assert again.defaults == replace(pipe.defaults, **changes)
    want = type(pipe)(**pipe.components, defaults=again.defaults)
    assert torch.equal(drawn(again), drawn(want))
    assert not torch.equal(drawn(again), drawn(pipe))


@pytest.mark.parametrize("name", ["tokenflow", "layton"])
def test_the_tokenizer_is_known_in_another_dtype_too(folders, name):
    again = loaded(folders, name, "guidance=2", torch_dtype="bfloat16")
    assert again.dtype == torch.bfloat16
    assert again.defaults.tokens == folders[name][1].defaults.tokens


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [("tokenflow", "passes=4", "passes must be one of 1, 2, 3, given 4"),
     ("tokenflow", "passes=2,top_k=5", r"top_k must have one number for each of 2 passes, given"),
     ("tokenflow", "top_k=5", "top_k and top_p must have one number a pass"),
     ("tokenflow", "top_k=all/1", "top_k must be integers with / between them, given 'all/1'"),
     ("tokenflow", "top_p=2/0", "top_k must be >= 0 and top_p 0 to 1"),
     ("tokenflow", "guidance=1/2", "guidance"),
     ("tokenflow", "temperature=1", "unknown key 'temperature' for model 'tokenflow'"),
     ("tokenflow", "words=x", "give tokenflow:folder=DIR, of a saved model, or tokenflow:transfor"
                              "mer=…,vae=…,words=…, of one in parts; given folder, words"),
     ("layton", "temperature=0", "temperature must be a finite number > 0"),
     ("layton", "temperature=hot", "temperature must be one number, given 'hot'"),
     ("layton", "top_k=5/1", "top_k must be one integer, given '5/1'"),
     ("layton", "clean=perhaps", "clean must be true or false, given 'perhaps'"),
     ("layton", "passes=1", "unknown key 'passes' for model 'layton'"),
     ("layton", "tokens=abc", "its codes mean other things")],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(folders, name, options, words):
    with pytest.raises(ValueError, match=words):
        loaded(folders, name, options)


@pytest.mark.parametrize(
    ("text", "words"),
    [("layton", "given none of them"), ("tokenflow:vae=a,words=b", "given vae, words"),
     ("layton:folder=no/such/folder", "folder=no/such/folder is neither a folder nor")],
)  # fmt: skip
def test_a_model_must_be_said_to_be_somewhere(text, words):
    with pytest.raises(ValueError, match=words):
        load_generator(text)
