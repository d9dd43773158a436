"""A small Janus and a small Emu3 with random weights and their processors, each in a folder."""

import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    Emu3Config,
    Emu3ForConditionalGeneration,
    Emu3ImageProcessor,
    Emu3Processor,
    JanusConfig,
    JanusForConditionalGeneration,
    JanusImageProcessorPil,
    JanusProcessor,
)

from impasto.models.mmdit import train_tokenizer

TEXTS = ("a photo of a red dog", "User : two cats Assistant :", "a bus above a kite")
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {% for part in m.content %}{{ part.text }}{% endfor %} "
    "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)
VISUAL = 16
PAD, EOS, BOS = 0, 1, 2


def words(begin, **named):
    """A tokenizer with special tokens: key -> text, each also an attribute of it.

    begin: whether it puts the first token before every text, as Janus' does and Emu3's does not.
    """
    tokenizer = train_tokenizer(TEXTS * 4, vocab_size=300, max_tokens=512)
    bos = tokenizer.convert_ids_to_tokens(BOS)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A" if begin else "$A", special_tokens=[(bos, BOS)])
    tokenizer.bos_token = bos
    tokenizer.add_special_tokens({"additional_special_tokens": list(named.values())})
    tokenizer.split_special_tokens = False
    tokenizer.padding_side = "left"
    tokenizer._set_model_specific_special_tokens(special_tokens=named)
    return tokenizer


def spread(model):
    """Weights so large that a token's neighbours matter."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def janus(path, seed=0):
    """`path`, with a Janus of 4 x 4 image tokens, 32 px, and its processor."""
    tokenizer = words(True, image_token="<image_placeholder>", boi_token="<begin_of_image>",
                      eoi_token="<end_of_image>")  # fmt: skip
    text = {"model_type": "llama", "vocab_size": len(tokenizer), "hidden_size": 32,
            "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
            "num_key_value_heads": 2, "pad_token_id": PAD, "bos_token_id": BOS,
            "eos_token_id": EOS}  # fmt: skip
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 32, "patch_size": 8, "projection_dim": 32,
              "num_image_tokens": 16}  # fmt: skip
    vq = {"embed_dim": 4, "num_embeddings": VISUAL, "latent_channels": 32, "base_channels": 32,
          "channel_multiplier": [1, 1, 1, 1], "num_res_blocks": 1, "projection_dim": 32,
          "num_hidden_layers": 2, "image_token_embed_dim": 32}  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = spread(JanusForConditionalGeneration(JanusConfig(
            text_config=text, vision_config=vision, vq_config=vq,
            image_token_id=tokenizer.image_token_id, tie_word_embeddings=False)))  # fmt: skip
    model.generation_config.update(bos_token_id=BOS, pad_token_id=PAD, eos_token_id=EOS)
    model.save_pretrained(path)
    JanusProcessor(JanusImageProcessorPil(size={"height": 32, "width": 32}), tokenizer,
                   chat_template=TEMPLATE, num_image_tokens=16).save_pretrained(path)
    return path


def emu3(path, seed=0):
    """`path`, with an Emu3 of 16 visual tokens and its processor."""
    tokenizer = words(False, image_token="<image>", boi_token="<|image start|>",
                      eoi_token="<|image end|>", image_wrapper_token="<|image token|>",
                      eof_token="<|extra_201|>")  # fmt: skip
    visual = [f"<|visual token {i:06d}|>" for i in range(VISUAL)]
    tokenizer.add_tokens(["<|extra_200|>", *visual], special_tokens=True)
    names = ["<image>", "<|extra_200|>", *visual]
    text = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64,
            "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
            "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}  # fmt: skip
    vq = {"codebook_size": VISUAL, "embed_dim": 4, "latent_channels": 4, "base_channels": 32,
          "channel_multiplier": [1, 1, 1, 1], "num_res_blocks": 1, "attn_resolutions": [3],
          "hidden_size": 32}  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = spread(Emu3ForConditionalGeneration(Emu3Config(
            text_config=text, vq_config=vq,
            vocabulary_map={n: tokenizer.convert_tokens_to_ids(n) for n in names})))  # fmt: skip
    model.generation_config.update(bos_token_id=BOS, pad_token_id=PAD, eos_token_id=EOS)
    model.save_pretrained(path)
    Emu3Processor(Emu3ImageProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3),
                  tokenizer).save_pretrained(path)
    return path
