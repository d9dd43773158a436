"""A StableDiffusion3Pipeline with random weights: diffusers' own classes, 32 px, no downloads."""

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def tokenizer():
    """One token a letter; words end in a token of their own, as CLIP's do."""
    pieces = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(f"{c}</w>" for c in LETTERS)]
    return CLIPTokenizer(vocab={p: i for i, p in enumerate(pieces)}, merges=[],
                         model_max_length=77)  # fmt: skip


def text_encoder(vocab_size):
    config = CLIPTextConfig(vocab_size=vocab_size, hidden_size=16, intermediate_size=32,
                            num_hidden_layers=2, num_attention_heads=2, projection_dim=16,
                            max_position_embeddings=77, bos_token_id=0, eos_token_id=1,
                            pad_token_id=1)  # fmt: skip
    return CLIPTextModelWithProjection(config)


def pipeline():
    words = tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = SD3Transformer2DModel(
            sample_size=16, patch_size=2, in_channels=4, out_channels=4, num_layers=2,
            attention_head_dim=8, num_attention_heads=2, joint_attention_dim=32,
            caption_projection_dim=16, pooled_projection_dim=32, pos_embed_max_size=16,
        )  # fmt: skip
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=4,
            sample_size=32, shift_factor=0.0, scaling_factor=1.0, use_quant_conv=False,
            use_post_quant_conv=False,
        )  # fmt: skip
        for parameter in transformer.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
        encoders = [text_encoder(len(words)) for _ in range(2)]
    return StableDiffusion3Pipeline(
        transformer=transformer, vae=vae, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=encoders[0], tokenizer=words, text_encoder_2=encoders[1],
        tokenizer_2=tokenizer(), text_encoder_3=None, tokenizer_3=None,
    )  # fmt: skip
