"""One function a kind of training, registered by its name."""

from impasto.train.kinds import generators, layton, scorers, surgery, tokenizers

__all__ = ["generators", "layton", "scorers", "surgery", "tokenizers"]
