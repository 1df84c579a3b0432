"""A report cut into words, the way each published model saw them in training.

What lives here: the cut, and how much of a text is read. What does not: word pieces (pieces.py).

``radgraph``     at white space, and around each of ``/ , : . ! ? ( )``.
``radgraph-xl``  runs of letters and digits, and runs of anything else that is not white space; of the latter a few are
                 cut once more, in the fixed order of ``_XL_CUTS``.

Source: the package radgraph 0.1.18, whose cuts these reproduce (tests/rewards/radgraph/test_peer.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, Literal, get_args

Variant = Literal["radgraph", "radgraph-xl"]
VARIANTS: Final[tuple[Variant, ...]] = get_args(Variant)

MAX_CHARACTERS: Final = 20_000
"""Text beyond this is not read: a report has some hundred words."""

_RADGRAPH = re.compile(r"[/,:.!?()]|[^\s/,:.!?()]+")
_XL_RUNS = re.compile(r"\w+|[^\w\s]+")
_XL_ESCAPES = (("\\n", "  "), ("\\f", "  "), ("\\u2122", "      "), ("\n", " "), ('\\"', "``"))
_XL_CUTS = ((").", ") ."), ("%.", "% ."), (".'", ". '"), ("%,", "% ,"), ("%)", "% )"))


def words_of(text: str, variant: Variant) -> list[str]:
    """The words of ``text``; empty where it holds nothing but white space. Half of a surrogate pair is a ``?``."""
    return _CUTS[variant](text[:MAX_CHARACTERS].encode("utf-8", "replace").decode("utf-8"))


def _radgraph(text: str) -> list[str]:
    return _RADGRAPH.findall(text)


def _radgraph_xl(text: str) -> list[str]:
    for written, meant in _XL_ESCAPES:
        text = text.replace(written, meant)
    text = " ".join(_XL_RUNS.findall(text))
    for joined, apart in _XL_CUTS:
        text = text.replace(joined, apart)
    return text.split()


_CUTS: Final[dict[Variant, Callable[[str], list[str]]]] = {"radgraph": _radgraph, "radgraph-xl": _radgraph_xl}
