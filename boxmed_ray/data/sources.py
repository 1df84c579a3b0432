"""Data sets as the sub-commands of `boxmed data` name them: KIND=PATH as published, or the path of a manifest.

What lives here: that naming. What does not: reading (load.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args

from boxmed_ray.config import DataConfig
from boxmed_ray.data.load import read_items
from boxmed_ray.data.readers import Item
from boxmed_ray.data.study import DataError

KINDS: Final[tuple[str, ...]] = tuple(
    kind for kind in get_args(DataConfig.model_fields["kind"].annotation) if kind != "phantom"
)
TEST_SHARE: Final[float] = DataConfig.model_fields["test_share"].default


@dataclass(frozen=True, slots=True)
class Source:
    """One data set: ``kind`` and ``root`` as ``data.kind`` and ``data.root`` have them."""

    kind: str
    root: Path

    def items(self, test_share: float = TEST_SHARE) -> Iterator[Item]:
        """What its reader yields.

        Raises:
            DataError: nothing can be read there.
        """
        return read_items(self.kind, self.root, test_share)


def parse_source(text: str) -> Source:
    """``KIND=PATH`` or ``PATH``.

    Raises:
        DataError: no such kind, or nothing at the path.
    """
    kind, given, path = text.partition("=")
    if not given or kind not in KINDS:
        kind, path = "manifest", text
    root = Path(path)
    if not root.exists():
        hint = f"; before = goes one of: {', '.join(KINDS)}" if given and kind == "manifest" else ""
        raise DataError(f"{text}: no such file or folder{hint}; name a manifest or its folder, or KIND=PATH")
    return Source(kind, root)
