"""LaytonGen against figures of the official code (Alpha-X-95/LaCToK at 845fb4a: gpt.py,
generate.py and the cleaning of t5.py, on a CPU, float32).

Both transformers have the same weights, each tensor drawn from its official name, norms around 1,
embeddings and the learned text times 3. Depth 2, width 32, 2 heads, 96 inside, 32 ids on a map of
4 x 4; 8 slots for text states of 12 numbers, of which the first caption has 3 and the second 8.
Every id is the likeliest. The cleaning ran with the standard library's parser of tags in
BeautifulSoup's place and NFC in ftfy's, on texts for which that is all the same.
"""

import functools

import pytest
import torch
from transformers import T5Config, T5EncoderModel

from impasto.models.layton import Defaults, LaytonGenerator, LaytonTransformer
from impasto.models.layton.text import cleaned
from impasto.models.layton.train import TeacherForcing, next_id_loss
from impasto.sample.protocol import Request, Sampling
from tests import tiny_layton_gen, tiny_vq
from tests.random_weights import named_random

LENGTHS = (3, 8)
IDS = {
    1.0: [[24, 21, 11, 19, 1, 11, 11, 11, 11, 11, 11, 11, 11, 1, 11, 11],
          [10, 24, 10, 25, 19, 16, 19, 16, 19, 16, 19, 19, 19, 19, 19, 19]],
    2.0: [[24, 18, 16, 19, 1, 11, 11, 11, 11, 11, 11, 11, 11, 25, 19, 19],
          [23, 24, 27, 2, 2, 23, 23, 23, 29, 19, 29, 19, 23, 24, 19, 23]],
    4.0: [[26, 23, 19, 18, 25, 16, 19, 16, 18, 25, 16, 19, 16, 19, 16, 19],
          [23, 23, 23, 23, 23, 14, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]],
}  # fmt: skip
# Of the last ids, with the captions and with none.
LOSS, LOSS_WITHOUT = 2.0704009532928467, 3.1357386112213135
LOGITS = [-0.66167, 0.00926, 1.13953, -0.29798, -2.47987, 0.66292, 0.44562, 0.10697, 0.14805,
          1.07191]  # fmt: skip
LOGITS_WITHOUT = [-0.33379, -0.16803, 0.85945, -0.23021, -2.72629, 0.47564]


@functools.cache
@torch.no_grad()
def transformer():
    model = LaytonTransformer(depth=2, width=32, heads=2, inside=96, vocabulary=32, side=4, text=8,
                              text_width=12)  # fmt: skip
    for key, tensor in model.state_dict().items():
        noise = named_random(key, tuple(tensor.shape))
        louder = "uncond" in key or "tok_embeddings" in key
        tensor.copy_(1 + noise if key.endswith("norm.weight") else noise * (3 if louder else 1))
    return model.eval()


def captions():
    """States (2, 8, 12), padded behind with numbers that nobody may use; and where they are."""
    there = torch.arange(8) < torch.tensor(LENGTHS)[:, None]
    return 3 * named_random("caption", (2, 8, 12)), there


@pytest.mark.parametrize("guidance", IDS)
def test_the_generator_draws_the_official_ids(guidance, monkeypatch):
    text = T5Config(vocab_size=8, d_model=12, d_kv=6, d_ff=12, num_layers=1, num_heads=2)
    states = dict(zip("ab", captions()[0], strict=True))
    pipe = LaytonGenerator(
        transformer=transformer(), vae=tiny_vq.tokenizer(), text_encoder=T5EncoderModel(text),
        tokenizer=tiny_layton_gen.words(8), defaults=Defaults(top_k=1, clean=False),
    )  # fmt: skip
    monkeypatch.setattr(pipe, "encode_text",
                        lambda name: states[name][None, : LENGTHS["ab".index(name)]])  # fmt: skip
    state = pipe.start([Request.of("a"), Request.of("b")], [0, 1], Sampling(guidance=guidance))
    while not state.done:
        state = pipe.advance(state)
    assert state.ids.tolist() == IDS[guidance]


@torch.no_grad()
@pytest.mark.parametrize("drop, loss, logits", [(0.0, LOSS, LOGITS),
                                                (1.0, LOSS_WITHOUT, LOGITS_WITHOUT)])  # fmt: skip
def test_teacher_forcing_gives_the_official_logits_and_loss(drop, loss, logits, monkeypatch):
    kept, plain = [], LaytonTransformer.teacher_forced
    monkeypatch.setattr(LaytonTransformer, "teacher_forced",
                        lambda *a: kept.append(plain(*a)) or kept[-1])  # fmt: skip
    forced, ids = TeacherForcing(transformer()), torch.tensor(IDS[4.0])
    found, _ = next_id_loss(forced, ids, *captions(), drop=drop)
    got = kept[0].flatten()[::101][: len(logits)]
    torch.testing.assert_close(got, torch.tensor(logits), atol=1e-4, rtol=1e-4)
    assert abs(float(found) - loss) < 1e-5


CLEANED = [
    ("A couple of Zebras, running through some grass.",
     "a couple of zebras, running through some grass."),
    ("See https://www.example.com/zebra?x=1 a <b>red</b> dog &amp; two cats!! @artist #123 #12345",
     "see ?x=1 a red dog two cats!!"),
    ("\u4e00\u53ea\u72d7 a dog\u2014\u2014next to \u201cthe\u201d cat\u2026 (photo)",
     'a dog-next to "the" cat\u2026 photo'),
    ("this-is-my-cute-cat_photo.jpg png image of a cat", "of a cat"),
    ("AUSVERKAUFT*** free shipping: jc6640 abc12def 12x34 page 12 \\n click on here",
     "ausverkauft"),
    ('"quoted text"', "quoted text"),
    ("a photo of a Caf\u00e9, 10.20.30.40 . and 1234567 things",
     "a photo of a caf\u00e9, and things"),
    ("two red cups_", "two red cups"),
    ("zebras %26 horses+in+grass", "zebras horses in grass"),
    ("don't &lt;b&gt;bold&lt;/b&gt; `x` ``y''", "don't bold< b> \"x\" \"y\""),
    ("a dog:cat , bird : fish/frog", "a dog:cat , bird: fish frog"),
    ("  Mixed   CASE\ttext \n ", "mixed case text"),
    ("www.shop.org big sale; a blue chair [new] {hot} | deal ~ 100%",
     "big sale; a blue chair new hot deal 100%"),
    ("j2d1a2a b 3.5x4.5 worldwide free shipping", "b 3 5"),
    ("<person> on a bench \u2014 at night", "person on a bench - at night"),
]  # fmt: skip


@pytest.mark.parametrize("given, want", CLEANED)
def test_prompts_are_cleaned_as_the_captions_were(given, want):
    assert cleaned(given) == want


def test_a_prompt_of_which_nothing_is_left_is_refused():
    for prompt in (".hidden", "\u4e00\u53ea\u72d7"):
        with pytest.raises(ValueError, match=r"cleaning leaves nothing; .* with clean=False"):
            cleaned(prompt)


def test_what_stands_in_for_the_libraries():
    assert cleaned("a <script>x()</script><i title='>'>dog</i> &eacute; cat") == "a dog \u00e9 cat"
    assert cleaned("\uff32\uff25\uff24 o\ufb03ce\x00 cafe\u0301") == "red office caf\u00e9"
