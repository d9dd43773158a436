"""A small LLaVA with random weights, its tokenizer and chat template, in a folder."""

import torch
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from impasto.models.mmdit import train_tokenizer

TEXTS = ("How many dogs are in the image? Answer in one word.", "Yes yes No no Two two 2 1 one",
         "Is the car red?", "Is the dog to the left of the cat?")  # fmt: skip
TEMPLATE = (
    "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}"
    "{% else %}<image>{% endif %} {% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} : {% endif %}"
)


def saved(path, seed=0):
    """`path`, with the model and its processor."""
    tokenizer = train_tokenizer(TEXTS * 4, vocab_size=320, max_tokens=512)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.split_special_tokens = False
    image = tokenizer.convert_tokens_to_ids("<image>")
    vision = CLIPVisionConfig(image_size=16, patch_size=8, hidden_size=16, intermediate_size=32,
                              num_hidden_layers=2, num_attention_heads=2)  # fmt: skip
    text = LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64,
                       num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
                       pad_token_id=0, bos_token_id=1, eos_token_id=1)  # fmt: skip
    config = LlavaConfig(vision_config=vision.to_dict(), text_config=text.to_dict(),
                         image_token_index=image, vision_feature_layer=-1)  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    images = CLIPImageProcessorPil(size={"shortest_edge": 16},
                                   crop_size={"height": 16, "width": 16})  # fmt: skip
    processor = LlavaProcessor(images, tokenizer, patch_size=8, chat_template=TEMPLATE,
                               vision_feature_select_strategy="default",
                               num_additional_image_tokens=1)  # fmt: skip
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path
