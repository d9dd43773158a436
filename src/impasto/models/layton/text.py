"""Prompts of LaytonGen: cleaning, and texts at the end of their slots.

Captions of the published model were cleaned twice over, by rules that began with DeepFloyd IF and
came by PixArt-alpha: what a web page's caption has around its words is taken out. The order of the
rules matters, and so does the second time (a rule may make what an earlier one looks for). The
libraries' own function needs beautifulsoup4 and ftfy; in their place are here

    tags and entities    the standard library's parser, which beautifulsoup4 calls too
    ftfy.fix_text        fullwidth letters, ligatures, control characters, NFC; broken encodings
                         ("donâ€™t") stay as they are

so texts of plain Unicode come out the same. Texts of the sticker world need no cleaning.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable
from html.parser import HTMLParser
from urllib.parse import unquote_plus

import torch
from torch import Tensor

__all__ = ["cleaned", "left_padded", "slots"]

Rules = Iterable[tuple[str, str]]

HOST = r"[a-zA-Z0-9.\-]+[.](?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b\/?(?!@)"
FILES = "png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4"
DASHES = ("\u002d\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40\u301c\u3030"
          "\u30a0\ufe31\ufe32\ufe58\ufe63\uff0d")  # fmt: skip
MARKS = r"#®•©™&@·º½¾¿¡§~)(\]\[}{|\\/*"

WEB: Rules = (
    ("<person>", "person"),
    (rf"\b(?:https?:(?:\/{{1,3}}|[a-zA-Z0-9%])|{HOST})", ""),
    (rf"\b(?:www:(?:\/{{1,3}}|[a-zA-Z0-9%])|{HOST})", ""),
)
"""Addresses; before tags are taken out."""
SIGNS: Rules = (
    (r"@[\w\d]+\b", ""),
    ("[\u31c0-\u9fff]+", ""),  # Chinese characters and their kin
    (f"[{DASHES}]+", "-"),
    ("[`´«»“”¨]", '"'),
    ("[‘’]", "'"),
    ("&quot;?", ""),
    ("&amp", ""),
    (r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", " "),
    (r"\d:\d\d\s+$", ""),
    (r"\\n", " "),
    (r"#\d{1,3}\b", ""),
    (r"#\d{5,}\b", ""),
    (r"\b\d{6,}\b", ""),
    (rf"[\S]+\.(?:{FILES})", ""),
    (r"[\"\']{2,}", '"'),
    (r"[\.]{2,}", " "),
    (f"[{MARKS}]+", " "),
    (r"\s+\.\s+", " "),
)
"""Signs and numbers; before entities are read."""
WORDS: Rules = (
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),
    (r"\b\d+[a-zA-Z]+\d+\b", ""),
    (r"(worldwide\s+)?(free\s+)?shipping", ""),
    (r"(free\s)?download(\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (rf"\b(?:{FILES})(\simage[s]?)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),
    (r"\b\d+\.?\d*[x\u0445×]\d+\.?\d*\b", ""),
    (r"\b\s+\:\s+", ": "),
    (r"(\D[,\./])\b", r"\1 "),
    (r"\s+", " "),
    (r"^[\"\']([\w\W]+)[\"\']$", r"\1"),
    (r"^[\'\_,\-\:;]", ""),
    (r"[\'\_,\-\:\-\+]$", ""),
    (r"^\.\S+$", ""),
)
"""Names of articles, words of shops, and the ends."""
JOINTS, MOST_JOINTS = r"[-_]", 3
"""What joins the words of a file's name; more than so many part them."""


class _Words(HTMLParser):
    """The text between tags, entities read; scripts and styles left out."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._silent += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in ("script", "style") and self._silent > 0

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.parts.append(data)


def _untagged(text: str) -> str:
    parser = _Words()
    parser.feed(text)
    parser.close()
    return "".join(parser.parts)


def _fixed(text: str) -> str:
    """Fullwidth forms and ligatures as the letters that they are, no control characters, NFC."""
    letters = "".join(unicodedata.normalize("NFKC", c) if "\uff01" <= c <= "\uff5e"
                      or "\ufb00" <= c <= "\ufb06" else c for c in text)  # fmt: skip
    kept = [c for c in letters if unicodedata.category(c) != "Cc" or c in "\t\n"]
    return unicodedata.normalize("NFC", "".join(kept))


def _by(rules: Rules, text: str) -> str:
    for pattern, put in rules:
        text = re.sub(pattern, put, text)
    return text


def _once(text: str) -> str:
    text = _by(WEB, unquote_plus(text).strip().lower())
    text = _by(SIGNS, _untagged(text))
    if len(re.findall(JOINTS, text)) > MOST_JOINTS:
        text = re.sub(JOINTS, " ", text)
    return _by(WORDS, html.unescape(html.unescape(_fixed(text))).strip()).strip()


def cleaned(prompt: str) -> str:
    """The prompt as the published model's captions are. Raises ValueError when nothing is left."""
    text = _once(_once(prompt))
    if not text:
        raise ValueError(f"of the prompt {prompt!r} cleaning leaves nothing; give words in Latin "
                         f"letters, or a model with clean=False")  # fmt: skip
    return text


def left_padded(states: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """States (B, n, D) of padded texts with each text at the end of its row and zeros before it,
    and where they are. there: bool (B, n), True first."""
    n = there.shape[1]
    places = torch.arange(n, device=there.device)
    turned = (places + there.sum(1, keepdim=True)) % n
    there = there.flip(1)
    padded = states.take_along_dim(turned[..., None], dim=1)
    return padded.masked_fill(~there[..., None], 0), there


def slots(count: int, length: int) -> Tensor:
    """bool (count,): the last `length` of the slots."""
    return torch.arange(count) >= count - length
