"""From options to a judge: a folder's model, or a model behind a server; with a cache or not."""

from __future__ import annotations

from impasto.score.judges.base import Judge
from impasto.score.judges.cache import CachedJudge

__all__ = ["make_judge"]


def make_judge(*, vlm: str = "", url: str = "", model: str = "", cache: str = "",
               form: str = "png", device: str = "cpu") -> Judge:  # fmt: skip
    """vlm: folder of a local model; or url and model of a server. cache: folder, "" for none.

    form: how pictures are sent to a server, "png" or "jpeg". Raises ValueError unless exactly one
    judge is named, and the errors of `LocalJudge.from_folder` and `EndpointJudge`.
    """
    if bool(vlm) == bool(url) or bool(url) != bool(model):
        raise ValueError(f"name one judge: vlm=FOLDER, or url=…/v1 with model=NAME; given "
                         f"vlm={vlm!r}, url={url!r}, model={model!r}")  # fmt: skip
    judge: Judge
    if vlm:
        from impasto.score.judges.local import LocalJudge

        judge = LocalJudge.from_folder(vlm, device)
    else:
        from impasto.score.judges.endpoint import EndpointJudge

        judge = EndpointJudge(url, model, form=form)
    return CachedJudge(judge, cache) if cache else judge
