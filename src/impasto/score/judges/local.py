"""A vision-language model of transformers as a judge, on this machine and offline.

One user turn: the pictures, then the question (or the question first, where it says so), through
the model's own chat template. Words are decoded greedily; probabilities are the softmax over the
whole vocabulary at the first step, as in Soft-TIFA (Kamath et al. 2025, arXiv 2512.16853).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from impasto.files import sha256_file
from impasto.images import to_pil
from impasto.score.judges.base import LocalWords, Question, Unanswered
from impasto.score.judges.prompts import defused
from impasto.score.trained import check_keys
from impasto.zoo.weights import without_bars

__all__ = ["LocalJudge"]


def _folder_sha256(folder: Path) -> str:
    """One hash over the names and hashes of all weight files."""
    lines = [f"{path.name} {sha256_file(path)}\n" for path in sorted(folder.glob("*.safetensors"))]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class LocalJudge(LocalWords):
    """model, processor: of one checkpoint. name, sha256: for the record."""

    def __init__(self, model: Any, processor: Any, *, name: str, sha256: str = "") -> None:
        self.model, self.processor = model.eval(), processor
        self.name, self.sha256 = name, sha256

    @classmethod
    def from_folder(cls, folder: str | Path, device: str = "cpu",
                    dtype: torch.dtype = torch.float32) -> LocalJudge:  # fmt: skip
        """From what `save_pretrained` of model and processor wrote; nothing is downloaded.

        Raises FileNotFoundError without safetensors, ValueError for weights that do not fit.
        """
        folder = Path(folder)
        if not any(folder.glob("*.safetensors")):
            raise FileNotFoundError(f"{folder} has no *.safetensors; give a folder with a "
                                    f"vision-language model and its processor")  # fmt: skip
        with without_bars():
            model, found = AutoModelForImageTextToText.from_pretrained(
                folder, dtype=dtype, local_files_only=True, output_loading_info=True
            )
            processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
        check_keys(found, folder, harmless=lambda key: key.endswith(".position_ids"))
        return cls(model.to(device), processor, name=folder.name, sha256=_folder_sha256(folder))

    @property
    def words(self) -> Any:
        return self.processor.tokenizer

    def _inputs(self, question: Question) -> Any:
        specials = self.processor.tokenizer.all_special_tokens
        text = defused(question.text, specials)
        content = [{"type": "image"} for _ in question.images]
        content.insert(0 if question.text_first else len(content), {"type": "text", "text": text})
        turns: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if question.system:
            said = [{"type": "text", "text": defused(question.system, specials)}]
            turns.insert(0, {"role": "system", "content": said})
        chat = self.processor.apply_chat_template(turns, add_generation_prompt=True,
                                                  tokenize=False)  # fmt: skip
        pictures = [to_pil(image) for image in question.images]
        inputs = self.processor(images=pictures or None, text=[chat], return_tensors="pt")
        return inputs.to(self.model.device)

    @torch.inference_mode()
    def first_token(self, question: Question) -> Tensor:
        """(V,) float32 probabilities of the answer's first token, on the CPU."""
        logits = self.model(**self._inputs(question)).logits[0, -1]
        return logits.float().softmax(-1).cpu()

    @torch.inference_mode()
    def ask(self, question: Question, max_tokens: int = 512, attempt: int = 0) -> str:
        if attempt:
            raise Unanswered(f"{self.name} decodes greedily: asked again it says the same")
        inputs = self._inputs(question)
        ids = self.model.generate(**inputs, max_new_tokens=max_tokens, do_sample=False)
        new = ids[0, inputs["input_ids"].shape[1] :]
        text: str = self.processor.tokenizer.decode(new, skip_special_tokens=True)
        return text

    def provenance(self) -> dict[str, Any]:
        return {"id": self.name, "sha256": self.sha256, "kind": "transformers",
                "dtype": str(self.model.dtype).removeprefix("torch."), "decoding": "greedy",
                "pictures": "the processor's own"}  # fmt: skip
