# ruff: noqa: PLR0917 (the signatures are those of the modules that are replaced)
"""transformers' Mask2Former without the work that its outputs do not need, for GPUs.

`lean(model)` gives some modules of a model another `forward`; classes, weights and names stay, and
what comes out is the same up to rounding:

    deformable attention    one kernel (`score.kernels`) for softmax, places, gathering and sum
    Swin's layers           one product for q, k, v; windows are read where they lie, by a kernel
    activations, residuals  added to the products that they follow, by a kernel
    transformer decoder     masks between layers at the attended level's size only, as resizing is
                            linear:  resize(sum_c e_qc F_c) = sum_c e_qc resize(F_c)
                            and full masks and classes of the last layer alone
    layer norms             several rows at a time, in the type that is read next
    cross attention         fused; its weights, which nobody reads, are not kept
    sine embeddings         of one picture, for all

The kernels need Triton (it comes with torch for CUDA) and tensors on a GPU; elsewhere the two
attentions are transformers' own. Only for inference: training needs the masks of every layer.

Linear layers, layer norms and the 3 x 3 convolution, here and in a `lean_clip`, are
`score.lean_layers`'.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPModel, Mask2FormerForUniversalSegmentation
from transformers.models.mask2former import modeling_mask2former as published
from transformers.models.swin.modeling_swin import SwinLayer

from impasto.score.lean_layers import FORWARDS as LAYERS
from impasto.score.lean_layers import halves, kernels_of, normed, product

__all__ = ["lean", "lean_clip"]

Deformable = published.Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention
Decoder = published.Mask2FormerMaskedAttentionDecoder
EncoderLayer = published.Mask2FormerPixelDecoderEncoderLayer
Sine = published.Mask2FormerSinePositionEmbedding
ROOM = 64
"""Tokens of a window that the kernel has room for."""
def lean(model: Mask2FormerForUniversalSegmentation) -> Mask2FormerForUniversalSegmentation:
    """The model itself, for inference alone. Raises ValueError for one without auxiliary outputs.

    Its masks of the last layer and classes are what they were, up to rounding; those of the layers
    before are no longer there.
    """
    if not model.config.use_auxiliary_loss:
        raise ValueError("this Mask2Former was configured with use_auxiliary_loss=False, with "
                         "which transformers' class gives no classes; set it to True")  # fmt: skip
    _replace(model.eval())
    for module in model.modules():
        if isinstance(module, Decoder):
            for layer in module.layers:
                layer.cross_attn.forward = MethodType(_cross_attention, layer.cross_attn)
    return model


def lean_clip(model: CLIPModel) -> CLIPModel:
    """The model itself, whose linear layers `split_products` reaches."""
    _replace(model.eval())
    return model


def _replace(model: nn.Module) -> None:
    for module in model.modules():
        if (forward := FORWARDS.get(type(module))) is not None:
            module.forward = MethodType(forward, module)  # type: ignore[method-assign]


def _encoder_layer(
    self: Any, hidden_states: Tensor, attention_mask: Tensor | None = None, **options: Any
) -> tuple[Tensor]:
    """A layer of the pixel decoder; its attention's weights are not given."""
    seen, _ = self.self_attn(hidden_states=hidden_states, attention_mask=attention_mask,
                             encoder_hidden_states=hidden_states, **options)  # fmt: skip
    hidden_states = self.self_attn_layer_norm(hidden_states + seen)
    inner = product(hidden_states, self.fc1.weight, self.fc1.bias, "relu")
    out = product(inner, self.fc2.weight, self.fc2.bias, residual=hidden_states)
    return (self.final_layer_norm(out),)


def _deformable_attention(
    self: Any, hidden_states: Tensor, attention_mask: Tensor | None = None,
    encoder_hidden_states: Tensor | None = None, encoder_attention_mask: Tensor | None = None,
    position_embeddings: Tensor | None = None, reference_points: Tensor | None = None,
    spatial_shapes_list: Sequence[tuple[int, int]] = (), level_start_index: Tensor | None = None,
    output_attentions: bool = False,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """The attention masks are not looked at: the pixel decoder masks nothing."""
    kernels = kernels_of(hidden_states)
    if kernels is None or output_attentions or encoder_hidden_states is not hidden_states:
        return Deformable.forward(
            self, hidden_states, attention_mask, encoder_hidden_states, encoder_attention_mask,
            position_embeddings, reference_points, spatial_shapes_list, level_start_index,
            output_attentions)  # fmt: skip
    # Queries and values are the same tokens, and the embeddings of all pictures are one.
    tokens = hidden_states.bfloat16() if halves(hidden_states.device) else hidden_states
    asked = tokens if position_embeddings is None else (
        tokens + position_embeddings[:1].to(tokens.dtype))  # fmt: skip
    heads, samples = self.n_heads, (self.n_levels, self.n_points)
    seen = kernels.deformable_attention(
        self.value_proj(tokens).unflatten(-1, (heads, -1)), spatial_shapes_list,
        reference_points, self.sampling_offsets(asked).unflatten(-1, (heads, *samples, 2)),
        self.attention_weights(asked).unflatten(-1, (heads, *samples)),
    )  # fmt: skip
    return self.output_proj(seen), None


def _swin_layer(
    self: Any, hidden_states: Tensor, input_dimensions: tuple[int, int],
    always_partition: bool = False, **options: Any,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    kernels, attention = kernels_of(hidden_states), self.attention
    fits = (attention.config.hidden_act == "gelu" and self.window_size**2 <= ROOM
            and attention.head_dim in (16, 32, 64, 128)
            and (always_partition or min(input_dimensions) > self.window_size))  # fmt: skip
    if kernels is None or not fits:
        return SwinLayer.forward(self, hidden_states, input_dimensions, always_partition,
                                 **options)  # fmt: skip
    parts = attention.q_proj, attention.k_proj, attention.v_proj
    weight = torch.cat([part.weight for part in parts])
    # Of a token of the padding, which is zero, these are query, key and value.
    bias = torch.cat([part.bias for part in parts])
    seen = kernels.window_attention(
        product(normed(self.layernorm_before, hidden_states), weight, bias), bias,
        attention.relative_position_bias()[0], tuple(input_dimensions), self.window_size,
        self.shift_size, attention.scaling,
    )  # fmt: skip
    out, first, second = attention.o_proj, self.mlp.fc1, self.mlp.fc2
    hidden_states = product(seen, out.weight, out.bias, residual=hidden_states)
    after = normed(self.layernorm_after, hidden_states)
    inner = product(after, first.weight, first.bias, "gelu")
    return product(inner, second.weight, second.bias, residual=hidden_states), None


def _sine(self: Any, shape: torch.Size, device: torch.device, dtype: torch.dtype,
          mask: Tensor | None = None) -> Tensor:  # fmt: skip
    """(B, C, H, W), all rows one."""
    if mask is not None:
        return Sine.forward(self, shape, device, dtype, mask)
    one = Sine.forward(self, torch.Size((1, *shape[1:])), device, dtype, None)
    return one.expand(shape[0], -1, -1, -1)


def _cross_attention(
    self: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor,
    key_padding_mask: None = None,
) -> tuple[Tensor, None]:  # fmt: skip
    """(Q, B, C) of queries (Q, B, C), keys and values (K, B, C).

    attn_mask: (B, 1, Q, K), True where a query does not look.
    """
    weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
    q, k, v = (product(x, w, b).unflatten(-1, (self.num_heads, -1)).permute(1, 2, 0, 3)
               for x, w, b in zip((query, key, value), weights, biases, strict=True))  # fmt: skip
    seen = F.scaled_dot_product_attention(q, k, v, attn_mask=~attn_mask)
    return self.out_proj(seen.permute(2, 0, 1, 3).flatten(2)), None


def _decoder(
    self: Any, inputs_embeds: Tensor, multi_stage_positional_embeddings: Sequence[Tensor],
    pixel_embeddings: Tensor, encoder_hidden_states: Sequence[Tensor],
    query_position_embeddings: Tensor, feature_size_list: Sequence[tuple[int, int]],
    **options: Any,
) -> published.Mask2FormerMaskedAttentionDecoderOutput:  # fmt: skip
    """(Q, B, C) queries through all layers; classes and masks of the last."""
    levels = [F.interpolate(pixel_embeddings, size=tuple(size), mode="bilinear")
              for size in feature_size_list]  # fmt: skip
    embed = self.mask_predictor.mask_embedder
    hidden = inputs_embeds
    for k, layer in enumerate(self.layers):
        level = k % self.num_feature_levels
        logits = _masks(embed(self.layernorm(hidden).transpose(0, 1)), levels[level])
        hidden = layer(
            hidden, level, None, multi_stage_positional_embeddings, query_position_embeddings,
            encoder_hidden_states, encoder_attention_mask=_elsewhere(logits),
        )[0]  # fmt: skip
    last = self.layernorm(hidden)
    return published.Mask2FormerMaskedAttentionDecoderOutput(
        last_hidden_state=hidden.transpose(1, 0), intermediate_hidden_states=(last,),
        masks_queries_logits=(_masks(embed(last.transpose(0, 1)), pixel_embeddings),),
    )  # fmt: skip


def _masks(embeddings: Tensor, features: Tensor) -> Tensor:
    """(B, Q, H, W) logits of embeddings (B, Q, C) and features (B, C, H, W)."""
    return torch.bmm(embeddings, features.flatten(2)).unflatten(-1, features.shape[-2:])


def _elsewhere(logits: Tensor) -> Tensor:
    """(B, 1, Q, H W): where the mask is not; nowhere for a query whose mask is empty."""
    out = (logits.flatten(2) < 0).unsqueeze(1)
    return out & ~out.all(-1, keepdim=True)


FORWARDS: dict[type[nn.Module], Callable[..., Any]] = LAYERS | {
    Deformable: _deformable_attention, EncoderLayer: _encoder_layer, SwinLayer: _swin_layer,
    Decoder: _decoder, Sine: _sine,
}  # fmt: skip
