"""Judges by name, for `impasto eval --judge`: in a folder, behind a server, or our own."""

from __future__ import annotations

from impasto.score.judges.base import Judge
from impasto.score.judges.make import make_judge
from impasto.zoo.registry import JUDGES

__all__ = ["endpoint", "sticker", "vlm"]


@JUDGES.register("vlm")
def vlm(path: str, cache: str = "", *, device: str = "cpu") -> Judge:
    """A vision-language model of transformers: path=FOLDER, cache=FOLDER to keep its answers.

    Errors: those of `LocalJudge.from_folder`.
    """
    return make_judge(vlm=path, cache=cache, device=device)


@JUDGES.register("endpoint")
def endpoint(
    url: str, model: str, form: str = "png", cache: str = "", *, device: str = "cpu"
) -> Judge:
    """A model behind an OpenAI-compatible server: url=…/v1,model=NAME; form=png or jpeg.

    Errors: those of `EndpointJudge`.
    """
    return make_judge(url=url, model=model, cache=cache, form=form, device=device)


@JUDGES.register("sticker")
def sticker(*, device: str = "cpu") -> Judge:
    """The sticker detector and CLIP, which read the world's questions without a language model.

    Raises FileNotFoundError when the weights are not in this installation.
    """
    from impasto.score.sticker import sticker as networks
    from impasto.score.sticker_judge import StickerJudge

    return StickerJudge(networks(device=device))
