"""Edits as data: saved, loaded to the same bits, refused where they do not fit; stock folders."""

import copy
import json

import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from impasto.models import MMDiTGenerator, load_generator
from impasto.models.edited import record
from impasto.models.edited.delta import load_delta, save_delta
from impasto.models.edited.hosts import parameters
from impasto.models.edited.loading import from_pretrained
from impasto.models.edited.record import apply, base_digest, edits_of
from impasto.models.edited.stock import misfit, restock
from impasto.models.foreign.loading import load_pipeline
from impasto.models.storage import network_from, save_network
from impasto.sample.protocol import Request, Sampling, generate
from impasto.zoo.weights import load_state
from tests import tiny_mmdit, tiny_sd3
from tests.tiny_hosts import BUILD, output, tiny

PARTS = {"sd3": {"2": ["all"], "0": ["ff", "w_norm1_context"], "1": ["attn"]},
         "flux": {"0": ["all"], "1": ["ff_context"], "3": ["proj_mlp_out", "w_norm"]},
         "dit": {"0": ["all"], "2": ["w_norm1"]}, "pixart": {"1": ["attn", "ff"]},
         "sana": {"2": ["all"]}}  # fmt: skip


def removal(**removed):
    return {"edit": "remove", "removed": {key.removeprefix("b"): names
                                          for key, names in removed.items()}}  # fmt: skip


def edited(family, removed=None, **options):
    model = tiny(family, **options)
    apply(model, {"edit": "remove", "removed": removed or PARTS[family]})
    return model


@pytest.mark.parametrize("family", [*BUILD])
def test_saved_and_loaded_it_gives_the_same_bits(family, tmp_path):
    model = edited(family)
    save_network(model, tmp_path, "float32")
    again = from_pretrained(tmp_path)
    assert torch.equal(output(again, family), output(model, family))
    assert edits_of(again) == edits_of(model)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["edits"] == [{"edit": "remove", "removed": PARTS[family]}]
    assert config["edits_base"] == base_digest(tiny(family))


def test_what_diffusers_saves_in_parts_loads_too(tmp_path):
    model = edited("sd3")
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len([*tmp_path.glob("*.safetensors")]) > 1
    assert torch.equal(output(from_pretrained(tmp_path), "sd3"), output(model, "sd3"))
    half = from_pretrained(tmp_path, torch_dtype="bfloat16")
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


def test_no_weights_are_made_to_be_thrown_away(tmp_path):
    """The file's own dtype is what comes, and no parameter is left without a value."""
    model = edited("dit")
    save_network(model, tmp_path, "bfloat16")
    again = network_from(type(model), tmp_path)
    assert {p.dtype for p in again.parameters()} == {torch.bfloat16}
    assert not any(t.is_meta for t in [*again.parameters(), *again.buffers()])
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().float()
    assert torch.equal(output(again.float(), "dit"), output(model, "dit"))
    assert not any(p.is_meta for p in torch.nn.Linear(2, 2).parameters())  # only within


def test_edits_follow_each_other():
    model = tiny("sd3")
    apply(model, removal(b1=["ff"]))
    apply(model, removal(b1=["attn"], b3=["all"]))
    assert [edit["removed"] for edit in edits_of(model)] == [
        {"1": ["ff"]}, {"1": ["attn"], "3": ["all"]}]  # fmt: skip
    assert model.config["edits_base"] == base_digest(tiny("sd3"))
    with pytest.raises(ValueError, match="is removed already"):
        apply(model, removal(b1=["ff"]))
    assert len(edits_of(model)) == 2


def test_on_the_meta_device_there_is_no_base():
    with torch.device("meta"):
        model = BUILD["flux"]()
    apply(model, removal(b0=["all"]))
    assert model.config["edits_base"] is None and edits_of(model)


def test_a_registered_edit_is_found_and_an_unknown_one_refused(monkeypatch):
    monkeypatch.setitem(record.HOMES, "scale", "nowhere")
    monkeypatch.setattr(record, "EDITS", dict(record.EDITS))

    @record.edit("scale")
    def scale(model, values):
        model.proj_out.weight.data.mul_(values["by"])

    model = tiny("sd3")
    apply(model, {"edit": "scale", "by": 2})
    assert torch.equal(model.proj_out.weight, 2 * tiny("sd3").proj_out.weight)
    with pytest.raises(ValueError, match="did you mean 'remove'"):
        apply(model, {"edit": "removed"})
    with pytest.raises(ValueError, match="has no home"):
        record.edit("else")
    with pytest.raises(ValueError, match="no configuration to record edits in"):
        apply(torch.nn.Linear(1, 1), removal(b0=["all"]))


@pytest.mark.parametrize("edits", ["remove", [1], [{"edit": "removes"}], [removal(b7=["all"])]])
def test_a_damaged_record_is_refused(edits, tmp_path):
    save_network(edited("sd3"), tmp_path, "float32")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"edits": edits}))
    with pytest.raises(ValueError, match=r"edits|edit|no block 7"):
        from_pretrained(tmp_path)


# ---------------------------------------------------------------- generators and pipelines


def drawn(generator):
    return generate(generator, [Request.of("a red apple")], [7], Sampling(steps=2))[0]


def test_a_generator_with_an_edited_transformer(tmp_path):
    generator = tiny_mmdit.tiny()
    plain = drawn(generator)
    apply(generator.transformer, removal(b0=["ff", "attn"]))
    generator.save_pretrained(tmp_path, "float32")
    for again in (load_generator(tmp_path), MMDiTGenerator.from_pretrained(tmp_path),
                  from_pretrained(tmp_path)):  # fmt: skip
        assert torch.equal(drawn(again), drawn(generator))
    assert not torch.equal(drawn(generator), plain)


def test_a_pipeline_with_an_edited_transformer(tmp_path):
    pipe = tiny_sd3.pipeline()
    apply(pipe.transformer, removal(b0=["attn"]))
    pipe.save_pretrained(tmp_path)
    for again in (from_pretrained(tmp_path), load_pipeline(str(tmp_path), "float32")):
        assert isinstance(again, StableDiffusion3Pipeline)
        assert edits_of(again.transformer) == [removal(b0=["attn"])]
        pictures = [p("ab", num_inference_steps=1, generator=torch.Generator().manual_seed(0),
                      output_type="pt", height=32, width=32).images
                    for p in (pipe, again)]  # fmt: skip
        assert torch.equal(*pictures)


# ---------------------------------------------------------------- stock folders


@pytest.mark.parametrize("family, removed", [
    ("sd3", ["0"]), ("sd3", ["2"]), ("sd3", ["1", "3"]), ("sd3", ["2", "3"]), ("flux", ["0", "1"]),
    ("flux", ["1", "2", "4"]), ("pixart", ["0"]), ("dit", ["1"]), ("sana", ["0", "2"]),
])  # fmt: skip
def test_whole_blocks_leave_a_folder_of_the_class(family, removed, tmp_path):
    model = edited(family, {i: ["all"] for i in removed})
    wanted, before = output(model, family), edits_of(model)
    restock(model)
    assert not edits_of(model)
    torch.testing.assert_close(output(model, family), wanted, atol=1e-5, rtol=1e-5)
    save_network(model, tmp_path, "float32")
    stock, told = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"]
    assert torch.equal(output(stock, family), output(model, family))
    assert torch.equal(output(from_pretrained(tmp_path), family), output(model, family))
    kept = json.loads((tmp_path / "surgery.json").read_text())
    assert kept["edits"] == before and kept["edits_base"] == base_digest(tiny(family))
    numbers = [i for own in kept["blocks"].values() for i in own]
    assert len(numbers) == len([*stock.transformer_blocks]) + len(
        [*getattr(stock, "single_transformer_blocks", ())])  # fmt: skip


def test_a_last_block_that_gave_text_gives_none():
    model = edited("sd3", {"3": ["all"], "0": ["all"]})
    before = parameters(model)
    restock(model)
    assert len(type(model).from_config(model.config).transformer_blocks) == 2
    assert dict(model.config)["dual_attention_layers"] == [0]
    assert parameters(model) < before  # what only its text's output needed is gone
    assert model.transformer_blocks[1].context_pre_only


def test_what_the_class_does_not_know_stays_an_edit():
    model = edited("sd3")
    assert misfit(model) == "parts of blocks were removed: 0:ff+w_norm1_context, 1:attn"
    with pytest.raises(ValueError, match="no stock form: parts of blocks were removed"):
        restock(model)
    assert misfit(tiny("sd3")) == "nothing was removed"
    assert misfit(edited("dit", {"0": ["all"]})) == (
        "block 0 was removed, and the embedding of the next, for the output, is another")


def test_copies_of_a_dits_embedding_may_lose_the_first():
    model = tiny("dit")
    for block in model.transformer_blocks[1:]:
        block.norm1.emb.load_state_dict(model.transformer_blocks[0].norm1.emb.state_dict())
    apply(model, removal(b0=["all"]))
    wanted = output(model, "dit")
    restock(model)
    assert torch.equal(output(model, "dit"), wanted) and len(model.transformer_blocks) == 2


# ---------------------------------------------------------------- deltas


def test_a_delta_and_its_base_are_the_model(tmp_path):
    base, model = tiny("sd3"), edited("sd3")
    model.transformer_blocks[3].ff.net[2].bias.data.add_(1)
    save_delta(model, base, tmp_path)
    assert [*load_state(tmp_path / "delta.safetensors")] == ["transformer_blocks.3.ff.net.2.bias"]
    before = base_digest(base)
    for again in (load_delta(tmp_path, base), from_pretrained(tmp_path, base=base)):
        assert torch.equal(output(again, "sd3"), output(model, "sd3"))
    assert base_digest(base) == before and not edits_of(base)


def test_a_wrong_base_is_refused(tmp_path):
    base, model = tiny("sd3"), edited("sd3")
    save_delta(model, base, tmp_path)
    with pytest.raises(ValueError, match=r"base's weights have sha256 \w+\.\.\., and the edits"):
        load_delta(tmp_path, tiny("sd3", seed=1))
    with pytest.raises(ValueError, match="one of a SD3Transformer2DModel, given a FluxTrans"):
        load_delta(tmp_path, tiny("flux"))
    with pytest.raises(ValueError, match="give the transformer that it was made of as base"):
        from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="sha256"):
        save_delta(model, tiny("sd3", seed=1), tmp_path)
    with pytest.raises(ValueError, match="nothing was edited"):
        save_delta(base, base, tmp_path)
    save_network(model, tmp_path / "whole", "float32")
    with pytest.raises(ValueError, match="holds a whole model, not a delta"):
        from_pretrained(tmp_path / "whole", base=base)


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"_class_name": "Evil"}')
    with pytest.raises(ValueError, match="holds a Evil, which diffusers"):
        from_pretrained(tmp_path)


def test_a_copy_is_edited_by_itself():
    model = tiny("sd3")
    other = copy.deepcopy(model)
    apply(other, removal(b0=["all"]))
    assert not edits_of(model) and edits_of(other)
