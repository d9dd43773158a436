"""One function a kind of training, registered by its name."""

from impasto.train.kinds import generators, scorers, tokenizers

__all__ = ["generators", "scorers", "tokenizers"]
