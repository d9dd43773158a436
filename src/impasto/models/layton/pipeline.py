"""`LaytonGenerator`: the sampling protocol over LaytonGen, one step a row of the map of ids."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, Self

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from impasto.images import quantise
from impasto.models.bound import BoundGenerator
from impasto.models.discrete import DiscreteTokenizer, check_digest
from impasto.models.layton.config import GeneratorConfig
from impasto.models.layton.costs import id_flops
from impasto.models.layton.initialise import initialise
from impasto.models.layton.model import LaytonTransformer
from impasto.models.layton.network import IdNetwork
from impasto.models.layton.sampling import Defaults, IdState, branches, select_rows
from impasto.models.layton.text import cleaned, slots
from impasto.models.layton.tokenizer import LaytonTokenizer
from impasto.models.mmdit.text import token_ids
from impasto.models.next_scale.cache import Cache
from impasto.models.next_scale.maps import Sizes
from impasto.models.storage import Layout
from impasto.models.vq import VQTokenizer
from impasto.sample.protocol import Cost, Request, Sampling, one_text
from impasto.sample.rowwise import in_rows
from impasto.sample.seeds import check_seeds, upload
from impasto.sample.settings import check_guidance, check_size, check_steps

__all__ = ["LaytonGenerator"]

MEGAPIXEL = 2**20


class LaytonGenerator(BoundGenerator):
    """Text to pictures id by id, row by row of the map, by the codes of any tokenizer of one map.

    A prompt goes through the text encoder by itself, without padding, once; its keys and values,
    and those of the text that stands for none, are where each row's cache begins. The model is
    bound to its tokenizer by `Defaults.tokens`. On a CPU each row runs by itself, so its bytes do
    not depend on its batch; elsewhere all go in one batch and agree to rounding.

    There is no preview: the ids of half a map are half a picture, not a guess at the whole.
    """

    LAYOUT = Layout("LaytonGenerator", {"transformer": LaytonTransformer,
                                        "vae": (VQTokenizer, LaytonTokenizer),
                                        "text_encoder": T5EncoderModel})  # fmt: skip
    DEFAULTS = Defaults
    has_preview = False
    sampler = "next id, one uniform number an id"

    def __init__(
        self, *, transformer: LaytonTransformer, vae: DiscreteTokenizer,
        text_encoder: T5EncoderModel, tokenizer: PreTrainedTokenizerFast, defaults: Defaults,
    ) -> None:  # fmt: skip
        _check_parts(transformer, vae, text_encoder, tokenizer)
        check_digest(defaults.tokens, vae, "this transformer")
        defaults.check()
        self.transformer, self.vae, self.text_encoder = transformer, vae, text_encoder
        self.tokenizer = tokenizer
        self.defaults = replace(defaults, tokens=defaults.tokens or vae.token_digest())
        self._network = IdNetwork(transformer, self.defaults)
        self._decoder: int | None = None

    @classmethod
    def from_config(
        cls, config: GeneratorConfig, vae: DiscreteTokenizer, tokenizer: PreTrainedTokenizerFast,
        seed: int = 0,
    ) -> LaytonGenerator:  # fmt: skip
        """A generator over `vae`'s ids with random weights from `seed`, on the CPU, in evaluation
        mode; prompts as they are, ids as likely as the transformer says."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            text = T5Config(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id,
                            eos_token_id=tokenizer.eos_token_id, **config.text)  # fmt: skip
            return cls(
                transformer=initialise(LaytonTransformer(**asdict(config.transformer))).eval(),
                vae=vae, text_encoder=T5EncoderModel(text).eval(), tokenizer=tokenizer,
                defaults=Defaults(temperature=1.0, top_k=0, clean=False),
            )  # fmt: skip

    # ---------------------------------------------------------------- speed

    def compile(self, **options: Any) -> Self:
        """Trade a slow start for speed: the transformer's blocks go through torch.compile, whose
        `options` these are. Ids stay the same to rounding. Returns itself."""
        self._network.compile(**options)
        return self

    def use_graphs(self, on: bool = True) -> Self:
        """Draw ids by a CUDA graph, recorded at a number of rows' second id; returns itself.

        Graphs are of the weights where they lie now: call again after a network was moved or cast.
        Raises ValueError off a GPU.
        """
        if on and self.device.type != "cuda":
            raise ValueError(f"CUDA graphs need the model on a GPU; it is on {self.device}")
        self._network.use_graphs(on)
        return self

    def to(self, device: torch.device | str) -> Self:
        """Move the networks. Graphs stay behind: `use_graphs` after moving."""
        return super().to(device).use_graphs(False)

    # ---------------------------------------------------------------- text

    def encode_text(self, prompt: str) -> Tensor:
        """The text encoder's states (1, n, D), float32, of a prompt and its end, unpadded."""
        ids = token_ids(self.tokenizer, [prompt])
        ids = ids[:, : int((ids != self.tokenizer.pad_token_id).sum())]
        return self.text_encoder(input_ids=ids.to(self.device)).last_hidden_state.float()

    def _read(self, prompt: str, guidance: float) -> tuple[Cache, Tensor, Tensor]:
        """Of a prompt's branches, by itself: their caches, last tokens (R, C), and bool (text,),
        where the text is."""
        states = self.encode_text(prompt)
        length = states.shape[1]
        none = self.transformer.null_text(length)
        texts = torch.cat([states if there else none for there in branches(guidance)])
        x = self.transformer.embed_text(texts)
        return self.transformer.read(x), x[:, -1], slots(self.transformer.text, length)

    # ---------------------------------------------------------------- the sampling protocol

    @torch.inference_mode()
    def start(
        self, requests: Sequence[Request], seeds: Sequence[int], sampling: Sampling
    ) -> IdState:
        """Read each distinct prompt once. Raises ValueError for settings or requests that this
        family cannot draw."""
        prompts, guidance = one_text(requests, seeds), self._guidance(sampling)
        prompts = tuple(map(cleaned, prompts)) if self.defaults.clean else prompts
        own, distinct = check_seeds(seeds), list(dict.fromkeys(prompts))
        caches, last, seen = zip(*(self._read(text, guidance) for text in distinct), strict=True)
        runs = len(branches(guidance))
        prompt_of = tuple(distinct.index(prompt) for prompt in prompts)
        at = torch.tensor([runs * p + j for p in prompt_of for j in range(runs)])
        return IdState(
            step=0,
            steps=self.transformer.side,
            seeds=own,
            ids=torch.zeros(len(own), 0, dtype=torch.long, device=self.device),
            cache=Cache.joined(caches).selected(upload(at, self.device)),
            last=torch.cat(last),
            seen=upload(torch.stack(seen), self.device),
            prompt_of=prompt_of,
            guidance=guidance,
        )

    @torch.inference_mode()
    def advance(self, state: IdState) -> IdState:
        """Draw the next row of the map of all pictures. Raises ValueError when the state is
        done."""
        if state.done:
            raise ValueError(f"all {state.steps} rows of ids are drawn; call finish")
        assert state.cache is not None
        n, last = len(state.seeds), state.step + 1 == state.steps
        into = self._network.extended(state.cache)
        new = in_rows(lambda at: self._network.row(state, range(at.start, at.stop), into), n,
                      self.rows_at_once)  # fmt: skip
        return replace(
            state,
            step=state.step + 1,
            ids=torch.cat([state.ids, new], dim=1),
            cache=None if last else into,
            costs=state.charged(self._step_costs(state)),
        )

    def preview(self, state: IdState) -> Tensor:
        """There is none. Raises ValueError that says so."""
        raise ValueError("this model draws a picture from its first row to its last and has no "
                         "preview; take a search over finished pictures, as best-of-n, or a model "
                         "that draws the whole in visible steps")  # fmt: skip

    def preview_cost(self, state: IdState) -> Cost:
        """Nothing: there is none."""
        return Cost()

    def select(self, state: IdState, rows: Sequence[int]) -> IdState:
        """The state whose row i is row `rows[i]`; rows may repeat, and differ from then on where
        the result is given other seeds."""
        return select_rows(state, rows)

    @torch.inference_mode()
    def finish(self, state: IdState) -> Tensor:
        """The pictures (B, 3, H, W) on the 8-bit grid. Raises ValueError before the last row."""
        if not state.done:
            raise ValueError(f"only {state.step} of {state.steps} rows of ids are drawn; call "
                             f"advance")  # fmt: skip

        def rows(at: slice) -> Tensor:
            return self.vae.decode_tokens([state.ids[at]], self.sizes, seeds=state.seeds[at])

        at_once = self.rows_at_once or max(1, MEGAPIXEL // math.prod(self.default_size()))
        return quantise(in_rows(rows, len(state.seeds), at_once))

    # ---------------------------------------------------------------- settings, cost

    def provenance(self) -> dict[str, Any]:
        """See `NetworkGenerator`; with how the tokenizer decodes, where there is a choice."""
        settings = self.vae.settings
        return super().provenance() | ({"decoded": settings} if settings else {})

    @property
    def sizes(self) -> Sizes:
        """The one map."""
        return ((self.transformer.side, self.transformer.side),)

    def default_size(self) -> tuple[int, int]:
        height, width = self.vae.pixels_of(self.sizes[0])
        return height, width

    def _guidance(self, sampling: Sampling) -> float:
        """The guidance, the default filled in. Raises ValueError for settings out of range."""
        side = self.transformer.side
        check_steps(sampling, side, f"{side} rows of ids")
        check_size(sampling, self.default_size())
        given = self.defaults.guidance if sampling.guidance is None else sampling.guidance
        check_guidance(given)
        return float(given)

    def _step_costs(self, state: IdState) -> list[Cost]:
        """Of one row of the map of each picture. The last is charged with the decoding after it.

        Reading the text is left out: its share depends on how many rows share a prompt.
        """
        new = self.transformer.side
        flops = float(new * state.runs * id_flops(self.transformer))
        cost = Cost(flops=flops, row_steps=1, tokens=new)
        if state.step + 1 == state.steps:
            cost += Cost(flops=float(self._decoder_flops()), decodes=1)
        return [cost] * len(state.seeds)

    def _decoder_flops(self) -> int:
        if self._decoder is None:
            self._decoder = self.vae.decode_flops(self.sizes)
        return self._decoder


def _check_parts(
    transformer: LaytonTransformer, vae: DiscreteTokenizer, text_encoder: T5EncoderModel,
    tokenizer: PreTrainedTokenizerFast,
) -> None:  # fmt: skip
    """Raises ValueError for parts that do not belong together."""
    config, width = transformer.config, text_encoder.config.d_model
    if vae.vocabulary != config["vocabulary"] or width != config["text_width"]:
        raise ValueError(f"the transformer draws {config['vocabulary']} ids after text states of "
                         f"width {config['text_width']}; the tokenizer of pictures has "
                         f"{vae.vocabulary}, the text encoder {width}")  # fmt: skip
    side, pixels = transformer.side, vae.pixels_of((transformer.side, transformer.side))
    if (sizes := vae.sizes_of(*pixels)) != ((side, side),):
        raise ValueError(f"the transformer draws one map of {side} x {side} ids; the tokenizer "
                         f"has {sizes} for pictures of {pixels[0]} pixels")  # fmt: skip
    if tokenizer.model_max_length != transformer.text:
        raise ValueError(f"the transformer has {transformer.text} slots for a prompt and its end; "
                         f"the words' model_max_length is {tokenizer.model_max_length}"
                         )  # fmt: skip
