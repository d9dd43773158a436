"""A model whose removed blocks are gone for good: of the class as it is, with fewer layers.

Only whole blocks may have been removed. What is left is numbered anew, the configuration's number
of layers is theirs, and diffusers' own `from_pretrained` loads the folder. What was done is no
longer in config.json but in `surgery.json` beside it: the edits, the base's sha256 and the old
numbers of the blocks.

SD3's last block gives no text. When it was removed, the one that has become the last is made such
a block, which changes nothing in the output: the rows for shift and scale of its text's modulation
are kept, in the other order, and what only its text's output needed is left out.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.normalization import AdaLayerNormContinuous
from torch import nn

from impasto.models.edited.hosts import Host, host_of
from impasto.models.edited.identities import is_removed
from impasto.models.edited.record import edits_of

__all__ = ["LAYERS", "RECORD", "misfit", "restock"]

RECORD = "surgery.json"
LAYERS = {"transformer_blocks": "num_layers", "single_transformer_blocks": "num_single_layers"}


def misfit(model: nn.Module) -> str | None:
    """Why an edited model has no stock form; None if it has one."""
    edits = edits_of(model)
    for edit in edits:
        if edit["edit"] != "remove":
            return f"it has an edit {edit['edit']!r}, which the class does not know"
        parts = [f"{block}:{'+'.join(names)}" for block, names in edit["removed"].items()
                 if names != ["all"]]  # fmt: skip
        if parts:
            return f"parts of blocks were removed: {', '.join(parts)}"
    if not edits:
        return "nothing was removed"
    host = host_of(model)
    emb, first = host.embedder(0), next(b for b in host.blocks if not is_removed(b))
    if emb is not None and is_removed(host.block(0)):
        own: Any = first.norm1
        theirs = own.emb.state_dict()
        if any(not (value.is_meta or torch.equal(value, theirs[key]))
               for key, value in emb.state_dict().items()):  # fmt: skip
            return "block 0 was removed, and the embedding of the next, for the output, is another"
    return None


def restock(model: nn.Module) -> dict[str, Any]:
    """Turn an edited model into its stock form, in place; what `surgery.json` will say.

    {"edits", "edits_base", "blocks": {list of blocks: [original number of each in its list]}}.
    Raises ValueError where there is no stock form, with the reason.
    """
    if reason := misfit(model):
        raise ValueError(f"{type(model).__name__} has no stock form: {reason}; save it with its "
                         f"edits, which impasto loads")  # fmt: skip
    host, target = host_of(model), model
    config: Any = getattr(target, "config", {})
    record: dict[str, Any] = {"edits": edits_of(model), "edits_base": config["edits_base"],
                              "blocks": {}}  # fmt: skip
    changed: dict[str, Any] = {}
    for name in host.family.blocks:
        blocks: Any = getattr(target, name)
        kept = [i for i, block in enumerate(blocks) if not is_removed(block)]
        setattr(target, name, nn.ModuleList(blocks[i] for i in kept))
        changed[LAYERS[name]], record["blocks"][name] = len(kept), kept
    if host.family.name == "SD3":
        kept, dual = record["blocks"]["transformer_blocks"], config["dual_attention_layers"]
        changed["dual_attention_layers"] = [at for at, i in enumerate(kept) if i in dual]
        _end_text(host)
    # Without diffusers' list of defaults: a number of layers may have been one.
    internal = {key: value for key, value in config.items()
                if key not in ("edits", "edits_base", "_use_default_values")}  # fmt: skip
    stock: Any = target
    stock._internal_dict = type(config)(internal)
    stock.register_to_config(**changed)
    stock.surgery = record
    return record


@torch.no_grad()
def _end_text(host: Host) -> None:
    """Make the last of SD3's blocks one without a text output, if it is none."""
    block: Any = host.blocks[-1]
    if block.context_pre_only:
        return
    old, width = block.norm1_context.linear, host.width
    norm = AdaLayerNormContinuous(width, width, elementwise_affine=False, eps=1e-6, bias=True)
    rows = torch.cat([torch.arange(width, 2 * width), torch.arange(width)]).to(old.weight.device)
    norm.linear.weight = nn.Parameter(old.weight[rows].clone(), old.weight.requires_grad)
    norm.linear.bias = nn.Parameter(old.bias[rows].clone(), old.bias.requires_grad)
    block.norm1_context, block.context_pre_only = norm.train(block.training), True
    block.attn.to_add_out, block.attn.context_pre_only = None, True
    block.ff_context = block.norm2_context = None
