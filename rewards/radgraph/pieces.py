"""Words cut into the word pieces of the text encoder.

What lives here: the cut, and how many words of a text are read. What does not: the encoder (encoder.py).

Every word is cut by itself, as if it stood alone. A word may have no pieces at all (control characters only).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from transformers import AutoTokenizer

from rewards.radgraph.archive import ENCODER, Archive

MAX_WORDS: Final = 1024
"""Words beyond this are not read: relations cost the square of the words."""
MAX_PIECES: Final = 2048
"""Nor is the word that would bring a text above this many pieces, nor any after it: they cost the encoder's time."""

_READ_AS: Final = {"/.": ".", "/?": "?"}
"""DyGIE++ shows the encoder these two words without their slash."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """What is read of a text.

    Attributes:
        words: those that are read.
        counts: pieces of each word, 0 or more.
        ids: the pieces of all words in a row, without special ones.
    """

    words: tuple[str, ...]
    counts: tuple[int, ...]
    ids: tuple[int, ...]


class WordPieces:
    """The word pieces of an archive's encoder.

    Raises:
        OSError: the encoder's tokenizer can be had neither from the archive nor from the Hub.
    """

    def __init__(self, archive: Archive) -> None:
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(archive.encoder)
        except (OSError, ValueError) as error:
            raise encoder_missing(archive, "tokenizer files") from error
        self.first: int = self._tokenizer.cls_token_id
        self.last: int = self._tokenizer.sep_token_id

    def cut(self, texts: Sequence[Sequence[str]]) -> list[Pieces]:
        """The pieces of each text, given as its words; each distinct word is cut once."""
        words = list(dict.fromkeys(_READ_AS.get(word, word) for text in texts for word in text[:MAX_WORDS]))
        found = self._tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"] if words else []
        ids = dict(zip(words, found, strict=True))
        return [_read(text[:MAX_WORDS], ids) for text in texts]


def encoder_missing(archive: Archive, what: str) -> OSError:
    """The error that says where the encoder's files go."""
    return OSError(
        f"the archive {archive.folder} names the text encoder {archive.encoder!r}, whose {what} cannot be loaded; "
        f"without a network put that model's config.json and tokenizer files into {archive.folder / ENCODER}"
    )


def _read(words: Sequence[str], ids: dict[str, list[int]]) -> Pieces:
    counts: list[int] = []
    pieces: list[int] = []
    for word in words:
        found = ids[_READ_AS.get(word, word)]
        if len(pieces) + len(found) > MAX_PIECES:
            break
        counts.append(len(found))
        pieces += found
    return Pieces(tuple(words[: len(counts)]), tuple(counts), tuple(pieces))
