"""CLIP-type scores: cosine of a picture and its prompt, by transformers' CLIP class."""

from __future__ import annotations

from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig

__all__ = ["clip_config"]


def clip_config(name: str = "sticker", vocab_size: int = 1024, eos: int = 1, pad: int = 0
                ) -> CLIPConfig:  # fmt: skip
    """Presets: "sticker" (96 px, patches of 8), "tiny" for tests.

    vocab_size, eos, pad: of the tokenizer. Raises ValueError for another name.
    """
    sizes = {"sticker": (128, 6, 128, 4, 40), "tiny": (16, 1, 16, 1, 40)}
    if name not in sizes:
        raise ValueError(f"unknown CLIP preset {name!r}; allowed: {', '.join(sizes)}")
    vision, depth, text, text_depth, length = sizes[name]
    return CLIPConfig(
        vision_config=CLIPVisionConfig(
            image_size=96, patch_size=8, hidden_size=vision, intermediate_size=4 * vision,
            num_hidden_layers=depth, num_attention_heads=max(1, vision // 32), projection_dim=128,
        ).to_dict(),
        text_config=CLIPTextConfig(
            vocab_size=vocab_size, hidden_size=text, intermediate_size=4 * text,
            num_hidden_layers=text_depth, num_attention_heads=max(1, text // 32),
            max_position_embeddings=length, projection_dim=128,
            pad_token_id=pad, bos_token_id=eos, eos_token_id=eos,
        ).to_dict(),
        projection_dim=128,
    )  # fmt: skip
