"""Preference scorers from files: what is converted, what is refused, and the commands."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, PreTrainedTokenizerFast
from typer.testing import CliRunner

from impasto.cli import app
from impasto.images import read_image
from impasto.run.judge import read_second
from impasto.score.preference import convert as converters
from impasto.score.preference import load
from impasto.score.preference.aesthetic import HEADS, Head, LinearHead, load_head
from impasto.score.preference.architecture import (
    ARCHITECTURES,
    SENTENCE,
    Architecture,
    clip_config_of,
)
from impasto.score.preference.load import BERT_IDS
from impasto.zoo.convert import convert
from impasto.zoo.registry import BENCHES, MODELS, SCORERS
from impasto.zoo.weights import shipped_folder
from tests import tiny
from tests import tiny_preference as t
from tests.fakes import FakeGenerator, FakeScorer
from tests.test_preference import HPS, IMAGE_REWARD, assert_close, table

SHIPPED = PreTrainedTokenizerFast.from_pretrained(shipped_folder("sticker-clip"))
STICKER = Architecture((128, 6, 4, 12), (128, 4, 4), 128, "quick_gelu", 96, 40, len(SHIPPED),
                       tuple(SHIPPED(SENTENCE).input_ids))
"""Of the CLIP that ships, which is trained and so passes the self-tests."""


@pytest.fixture
def small(monkeypatch):
    """The published architectures at the size of the tiny networks."""
    for name, one in (("ViT-H/14", t.CLIP), ("ViT-L/14", t.QUICK), ("ViT-B/32", t.QUICK)):
        monkeypatch.setitem(ARCHITECTURES, name, one)
    for module in (load, converters):
        monkeypatch.setattr(module, "SIZES", t.BLIP)
    monkeypatch.setattr(load, "BERT_IDS", t.BERT_IDS)


@pytest.fixture
def words(tmp_path):
    t.clip_tokenizer().save_pretrained(tmp_path / "words")
    t.bert_tokenizer().save_pretrained(tmp_path / "bert")
    return tmp_path


def hps_tensors():
    return t.tensors(t.open_clip_shapes(t.CLIP))


@pytest.fixture
def hps(small, words):
    """A folder converted from a file as HPS's are: tensors under "state_dict"."""
    source = words / "HPS_v2.1_compressed.pt"
    torch.save({"epoch": 1, "state_dict": hps_tensors()}, source)
    convert(source, "hps-v2.1", words / "hps")
    return words / "hps"


@pytest.fixture
def rewards(small, words):
    torch.save(t.tensors(t.image_reward_shapes(t.BLIP)), words / "ImageReward.pt")
    convert(words / "ImageReward.pt", "image-reward", words / "ir")
    return words / "ir"


def create(name, **options):
    text = ",".join(f"{key}={value}" for key, value in options.items())
    return SCORERS.create(f"{name}:{text}", device="cpu")


# From the published files


def test_a_converted_hps_scores_as_the_published_package(hps, words):
    own = create("hps-v2.1", weights=hps, tokenizer=words / "words")
    assert_close(table(own), HPS)
    told = own.provenance()
    assert told["source"]["name"] == "HPS_v2.1_compressed.pt" and len(told["sha256"]) == 64
    assert (told["id"], told["value"], told["model"]) == ("hps-v2.1", "c", "ViT-H/14")
    record = json.loads((hps / "conversion.json").read_text())["report"]
    assert (record["missing"], record["unexpected"]) == ([], [])
    assert record["split"]["visual.transformer.resblocks.0.attn.in_proj_bias"] == [
        f"vision_model.encoder.layers.0.self_attn.{one}_proj.bias" for one in "qkv"]
    assert record["permuted"] == ["visual.proj", "text_projection"]
    rough = create("hps-v2.1", weights=hps, tokenizer=words / "words", antialias="false")
    assert rough.provenance()["preprocessing"]["square"] == "padded, not antialiased"


def test_half_precision_stays_on_disk_and_runs_in_float32(small, words):
    torch.save({k: v.half() for k, v in hps_tensors().items()}, words / "half.pt")
    convert(words / "half.pt", "hps-v2.0", words / "half")
    kept = load_file(words / "half/model.safetensors")
    assert {v.dtype for v in kept.values()} == {torch.float16}
    own = create("hps-v2.0", weights=words / "half", tokenizer=words / "words")
    assert {p.dtype for p in own.model.parameters()} == {torch.float32}
    assert_close(table(own), HPS, 1e-3)


def test_a_converted_image_reward_scores_as_the_published_package(rewards, words):
    own = create("image-reward-v1.0", weights=rewards, tokenizer=words / "bert")
    assert_close(table(own), IMAGE_REWARD)
    assert own.provenance()["source"]["name"] == "ImageReward.pt"
    shutil.copytree(words / "bert", rewards, dirs_exist_ok=True)
    assert_close(table(create("image-reward-v1.0", weights=rewards)), IMAGE_REWARD)


def test_openais_pickles_become_folders(small, words):
    model = CLIPModel(clip_config_of("ViT-B/32"))
    tensors = dict(model.state_dict()) | {k: torch.arange(3)[None] for k in converters.POSITIONS}
    torch.save(tensors, words / "pytorch_model.bin")
    convert(words / "pytorch_model.bin", "openai-clip", words / "clip")
    own = create("clipscore-b32", weights=words / "clip", tokenizer=words / "words")
    assert all(torch.equal(a, b) for a, b in
               zip(own.model.state_dict().values(), model.state_dict().values(), strict=True))
    wide = dict.fromkeys(tensors, torch.zeros(5))
    with pytest.raises(ValueError, match=r"vision tower is 5 wide; OpenAI's are 16"):
        converters.openai_clip(wide, words)


# What is refused


@pytest.mark.parametrize(("kind", "change", "words_said"), [
    ("hps-v2.1", lambda s: s.pop("ln_final.bias"),
     r"1 missing keys: 'text_model\.final_layer_norm\.bias'"),
    ("hps-v2.1", lambda s: s.update(extra=torch.ones(1)), "1 unexpected keys: 'extra'"),
    ("hps-v2.1", lambda s: s.update({"visual.proj": torch.ones(9, 10)}),
     r"'visual\.proj' has shape \(9, 10\).*another architecture"),
    ("image-reward", lambda s: None, "a CLIP in open_clip's names$"),
    ("hps-v2.0", lambda s: s.update({"mlp.x": s.pop("ln_final.bias")}), "1 missing keys"),
    ("openai-clip", lambda s: None, "a CLIP in open_clip's names$"),
])  # fmt: skip
def test_files_that_do_not_fit_are_refused(small, words, kind, change, words_said):
    tensors = hps_tensors()
    change(tensors)
    torch.save(tensors, words / "x.pt")
    with pytest.raises(ValueError, match=words_said):
        convert(words / "x.pt", kind, words / "out")
    assert not (words / "out").exists()


@pytest.mark.parametrize(("keys", "kind", "said"), [
    (["text_model.x"], "hps-v2.1", "CLIP in transformers' names"),
    (["blip.x"], "hps-v2.1", "it is ImageReward: --kind image-reward"),
    (["visual_encoder.x"], "image-reward", "BLIP itself, without ImageReward's head"),
    (["panoptic_head.x"], "image-reward", "--kind mask2former"),
    (["layers.0.weight"], "hps-v2.0", "which scorer laion-aesthetic-v2 takes as it is"),
])  # fmt: skip
def test_other_models_files_are_called_by_their_name(words, keys, kind, said):
    torch.save(dict.fromkeys(keys, torch.ones(1)), words / "x.pt")
    with pytest.raises(ValueError, match=said):
        convert(words / "x.pt", kind, words / "out")


def test_one_hps_is_not_the_other(hps, words):
    with pytest.raises(ValueError, match=r"converted as hps-v2\.1, not hps-v2\.0, from HPS_v2\.1"):
        create("hps-v2.0", weights=hps, tokenizer=words / "words")
    state = load_file(hps / "model.safetensors")
    save_file(state | {"logit_scale": torch.tensor(4.0)}, hps / "model.safetensors",
              {"format": "pt"})  # fmt: skip
    with pytest.raises(ValueError, match=r"is not what conversion\.json says"):
        create("hps-v2.1", weights=hps, tokenizer=words / "words")
    (hps / "conversion.json").unlink()
    with pytest.raises(ValueError, match=r"has no conversion\.json; make one by 'impasto convert"):
        create("hps-v2.1", weights=hps, tokenizer=words / "words")


def edit_config(folder, **towers):
    config = json.loads((folder / "config.json").read_text())
    for tower, changes in towers.items():
        config[f"{tower}_config"] |= changes
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(("changes", "said"), [
    ({"text": {"hidden_act": "quick_gelu"}},
     "another activation.*text hidden_act quick_gelu, not gelu.*use laion/CLIP-ViT-H-14"),
    ({"vision": {"num_attention_heads": 4}}, "not ViT-H/14: vision num_attention_heads 4, not 2"),
])  # fmt: skip
def test_what_only_the_config_tells_is_refused(hps, words, changes, said):
    edit_config(hps, **changes)
    with pytest.raises(ValueError, match=said):
        create("hps-v2.1", weights=hps, tokenizer=words / "words")


def test_openais_weights_with_plain_gelu_are_refused(hps, words, monkeypatch):
    t.clip_tokenizer().save_pretrained(hps)
    with pytest.raises(ValueError, match=r"computes another activation .*gelu, not quick_gelu"):
        create("clipscore-b32", weights=hps)
    create("pickscore-v1", weights=hps)
    monkeypatch.setitem(ARCHITECTURES, "ViT-H/14", t.CLIP._replace(features=11))
    with pytest.raises(ValueError, match="is not ViT-H/14: projection_dim 10, not 11"):
        create("pickscore-v1", weights=hps)


def test_tensors_that_are_missing_in_a_folder_are_refused(hps, rewards, words):
    for folder, name, key in ((hps, "pickscore-v1", "visual_projection.weight"),
                              (rewards, "image-reward-v1.0", "head.layers.7.bias")):  # fmt: skip
        state = load_file(folder / "model.safetensors")
        state.pop(key)
        save_file(state, folder / "model.safetensors", {"format": "pt"})
        record = json.loads((folder / "conversion.json").read_text())
        record["result"]["model.safetensors"] = load.sha256_file(folder / "model.safetensors")
        (folder / "conversion.json").write_text(json.dumps(record))
        tokenizer = words / ("words" if folder == hps else "bert")
        with pytest.raises(ValueError, match=f"missing.*{key}"):
            create(name, weights=folder, tokenizer=tokenizer)


def test_what_is_not_given_is_asked_for(hps, rewards, words):
    for name, said in (("pickscore-v1", "weights=FOLDER, or a hub id: yuvalkirstain/PickScore_v1"),
                       ("clipscore-b32", "openai/clip-vit-base-patch32"),
                       ("hps-v2.1", r"HPS_v2\.1_compressed\.pt of xswu/HPSv2"),
                       ("image-reward-v1.0", "kind image-reward .*of ImageReward.pt of THUDM"),
                       ("laion-aesthetic-v2", r"weights=FILE, sac\+logos\+ava1")):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            create(name)
    with pytest.raises(ValueError, match=r"is a file, .*make one of it by .*--kind hps-v2\.1"):
        create("hps-v2.1", weights=words / "HPS_v2.1_compressed.pt")
    with pytest.raises(ValueError, match="has no tokenizer; give tokenizer=laion/CLIP-ViT-H-14"):
        create("hps-v2.1", weights=hps)
    with pytest.raises(ValueError, match="has no tokenizer; give tokenizer=google-bert"):
        create("image-reward-v1.0", weights=rewards)
    with pytest.raises(ValueError, match=r"hps/config\.json is not that of an ImageReward"):
        create("image-reward-v1.0", weights=hps)


def test_tokenizers_with_other_ids_are_refused(words, rewards, hps):
    """The published ids are those of open_clip's own tokenizer, and of BERT's vocabulary."""
    assert Architecture((), (), 1, "").sentence == (49406, 320, 1125, 539, 320, 2368, 49407)
    assert load.BERT_IDS == t.BERT_IDS and BERT_IDS == (101, 1037, 6302, 1997, 1037, 4937, 102)
    with pytest.raises(ValueError, match=r"not \[2, 4, 5, 6, .*use that of google-bert"):
        create("image-reward-v1.0", weights=rewards, tokenizer=words / "words")
    with pytest.raises(ValueError, match=r"not \[22, 2, 3, .*use that of laion/CLIP-ViT-H-14"):
        create("hps-v2.1", weights=hps, tokenizer=words / "bert")


def test_of_a_hub_id_only_what_is_needed_is_fetched(hps, words, monkeypatch):
    asked = []

    def fetch(name, allow_patterns, repo_type):
        assert repo_type == "model"
        asked.append((name, tuple(allow_patterns)))
        return str(hps if name == "some/hps" else words / "words")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert_close(table(create("hps-v2.1", weights="some/hps", tokenizer="some/words")), HPS)
    assert asked == [("some/hps", ("*.json", "*.txt", "*.safetensors")),
                     ("some/words", ("*.json", "*.txt"))]  # fmt: skip


def test_damaged_and_incomplete_folders_are_named(hps, words):
    t.clip_tokenizer().save_pretrained(hps)
    data = (hps / "model.safetensors").read_bytes()
    (hps / "model.safetensors").write_bytes(data[:-9])
    with pytest.raises(ValueError, match=r"model\.safetensors is not a whole safetensors file"):
        create("pickscore-v1", weights=hps)
    for name in ("model.safetensors", "config.json"):
        (hps / name).unlink()
        with pytest.raises(FileNotFoundError, match=rf"{name} is missing; .*--kind openai-clip"):
            create("pickscore-v1", weights=hps)


def test_another_size_of_image_reward_is_refused(rewards, words, monkeypatch):
    monkeypatch.setattr(load, "SIZES", t.BLIP | {"depth": 3})
    with pytest.raises(ValueError, match=r"holds no ImageReward v1\.0: depth 2"):
        create("image-reward-v1.0", weights=rewards, tokenizer=words / "bert")


# Heads


@pytest.fixture
def head(tmp_path):
    """A head that rates about 5, as the published file: torch.save of a state dict."""
    network = LinearHead(128)
    state = {k: t.chirp(i, v.shape, 0.1) for i, (k, v) in enumerate(network.state_dict().items())}
    state["layers.7.bias"] = torch.tensor([5.0])
    path = tmp_path / "sac+logos+ava1-l14-linearMSE.pth"
    torch.save(state, path)
    return path


def test_heads_are_told_apart_by_their_files(head, tmp_path, monkeypatch):
    network, sha256 = load_head(head, "laion-aesthetic-v2", 128)
    assert float(network.layers[7].bias.detach()) == 5 and len(sha256) == 64
    with pytest.raises(ValueError, match=r"layers\.0\.weight \(\(1024, 128\), needs \(1024, 768"):
        load_head(head, "laion-aesthetic-v2")
    with pytest.raises(ValueError, match=r"weight \(missing.*layers\.0\.bias \(unexpected\)"):
        load_head(head, "laion-aesthetic-v1", 128)
    told = Head(HEADS["laion-aesthetic-v2"].file, "", {sha256: "ava+logos-l14-linearMSE.pth"},
                (0, 1))  # fmt: skip
    monkeypatch.setitem(HEADS, "laion-aesthetic-v2", told)
    with pytest.raises(ValueError, match=r"is ava\+logos-l14-linearMSE\.pth; laion-aesthetic-v2 "):
        load_head(head, "laion-aesthetic-v2", 128)


# The commands


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("ViT-B/32", "ViT-L/14"):
        monkeypatch.setitem(ARCHITECTURES, name, STICKER)
    for registry, factory in ((MODELS, lambda **_: FakeGenerator()), (BENCHES, lambda: tiny.BENCH),
                              (SCORERS, lambda device: FakeScorer())):  # fmt: skip
        monkeypatch.setitem(registry._factories, "fake", factory)
    return tmp_path


def call(*arguments):
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exit_code == 0, done.output
    return done


@pytest.mark.filterwarnings("ignore:.*none of the published heads")
def test_a_run_with_a_preference_as_search_and_as_second_opinion(here, head):
    clip = shipped_folder("sticker-clip")
    search = f"best-of-n:n=2,reward=(laion-aesthetic-v2:weights={head},clip={clip})"
    second = f"clip100-b32:weights={clip}"
    call("eval", "fake", "--model", "fake", "--scorer", "fake", "--second", second, "--search",
         search, "--samples", 1, "--device", "cpu", "--out", "run")  # fmt: skip
    record = json.loads((here / "run/run.json").read_text())
    assert record["second"]["value"] == "100 c"
    assert record["search"]["reward"]["id"] == "laion-aesthetic-v2"
    assert record["search"]["reward"]["published_head"] is False
    values = read_second(here / "run/second.jsonl")
    own = SCORERS.create(second, device="cpu")
    for name, value in list(values.items())[:3]:
        prompt = tiny.SPECS[int(name.split("/")[1])].prompt
        assert own.values([read_image(here / "run" / name)], [prompt]) == [value]
    drawn = json.loads((here / "run/images/00002/samples/00000.json").read_text())
    rewards = [one["value"] for one in drawn["candidates"]]
    assert len(set(rewards)) == 2 and rewards[drawn["chosen"]] == max(rewards)
    picked = read_image(here / "run/images/00002/samples/00000.png")
    with pytest.warns(UserWarning, match=r"none of the published heads.*sac\+logos\+ava1"):
        reward = SCORERS.create(f"laion-aesthetic-v2:weights={head},clip={clip}", device="cpu")
    assert reward.values([picked], [""]) == [max(rewards)]


def test_the_list_names_every_score():
    names = {row["name"] for row in json.loads(call("ls", "scorers", "--json").stdout)}
    assert names >= {"clipscore-b32", "clipscore-l14", "clip100-b32", "clip100-l14",
                     "clip-l14-nft", "pickscore-v1", "pickscore-v1-over-26", "hps-v2.0",
                     "hps-v2.1", "image-reward-v1.0", "laion-aesthetic-v1",
                     "laion-aesthetic-v2"}  # fmt: skip


def test_the_command_converts(small, words):
    torch.save(hps_tensors(), words / "x.pt")
    done = call("convert", words / "x.pt", "--kind", "hps-v2.1", "--out", words / "out")
    assert "open_clip: 54 tensors renamed, 8 split, 2 reordered" in done.stdout
