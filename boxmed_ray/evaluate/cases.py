"""Held-out cases to look at: which ones, their pixels, and a contact sheet.

What lives here: the two case types, an even-handed choice among them and the picture for a README. What does
not: the page (report_page.py).
"""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from PIL import Image

from boxmed_ray.data.images import open_image
from rewards.box import answer_iou
from rewards.sample import BoxT

TRUTH, MCL, SVR = "#ffe14d", "#5fc3ff", "#ff5a36"
"""Colours on an X-ray: truth wide and solid, MCL dashed, SVR solid. Line styles tell them apart without colour."""
_PIXELS = 384
_STYLES = {"target": (TRUTH, "-", 2.6), "mcl": (MCL, "--", 1.6), "svr": (SVR, "-", 1.6)}
"""Attribute of a case → colour, line style and line width in points of its boxes."""


@dataclass(frozen=True, slots=True)
class Case:
    """A grounding prompt to show. Boxes are pixels of the stored ``width`` x ``height`` image.

    ``mcl`` and ``svr`` are the greedy answers: None when malformed, empty for none.
    """

    study_id: str
    image: Path
    width: int
    height: int
    label: str
    phrase: str
    target: tuple[BoxT, ...]
    mcl: tuple[BoxT, ...] | None
    svr: tuple[BoxT, ...] | None

    @property
    def mcl_iou(self) -> float:
        """IoU of MCL's answer."""
        return answer_iou(self.mcl, self.target)

    @property
    def svr_iou(self) -> float:
        """IoU of SVR's answer."""
        return answer_iou(self.svr, self.target)


@dataclass(frozen=True, slots=True)
class ReportCase:
    """A report to show beside its reference; the diseases each asserts, where the caller can read them."""

    study_id: str
    reference: str
    generated: str
    reference_diseases: frozenset[str] = frozenset()
    generated_diseases: frozenset[str] = frozenset()
    image: Path | None = None

    @property
    def missed(self) -> list[str]:
        """Asserted by the reference only."""
        return sorted(self.reference_diseases - self.generated_diseases)

    @property
    def invented(self) -> list[str]:
        """Asserted by the generated report only."""
        return sorted(self.generated_diseases - self.reference_diseases)


def choose_cases(cases: Sequence[Case], count: int) -> list[Case]:
    """``count`` cases, as even over labels as can be and over quantiles of SVR's IoU within each, worst first.

    Nobody picks them: the choice depends on the results alone, good and bad alike.
    """
    by_label: dict[str, list[Case]] = defaultdict(list)
    for case in sorted(cases, key=lambda c: (c.svr_iou, c.study_id, c.phrase)):
        by_label[case.label].append(case)
    shares = _even_shares({label: len(group) for label, group in by_label.items()}, count)
    chosen = [case for label, share in shares.items() for case in _quantiles(by_label[label], share)]
    return sorted(chosen, key=lambda c: (c.svr_iou, c.study_id, c.phrase))


def thumbnail(path: Path, pixels: int = _PIXELS) -> Image.Image:
    """The image, upright, 8 bit, its longer side at most ``pixels``."""
    image = open_image(path)
    image.thumbnail((pixels, pixels), Image.Resampling.LANCZOS)
    return image


def data_uri(path: Path) -> str:
    """The image as a JPEG in a ``data:`` address."""
    buffer = io.BytesIO()
    thumbnail(path).save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def contact_sheet(cases: Sequence[Case], path: Path, count: int = 8, columns: int = 4) -> Path:
    """Write a PNG of ``count`` chosen cases with true, MCL's and SVR's boxes, and return its path."""
    chosen = choose_cases(cases, count)
    if not chosen:
        raise ValueError("no case to draw")
    columns = min(columns, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = Figure(figsize=(2.6 * columns, 3.0 * rows + 0.5), dpi=120, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.05, h_pad=0.08)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, case in zip(grid.flat, chosen, strict=False):
        axes.imshow(thumbnail(case.image), cmap="gray", extent=(0, case.width, case.height, 0))
        for name, (colour, line, width) in _STYLES.items():
            for x1, y1, x2, y2 in getattr(case, name) or ():
                axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=colour, ls=line, lw=width))
        axes.set_title(f"{case.label}\nIoU {case.mcl_iou:.2f} → {case.svr_iou:.2f}", fontsize=9)
    handles = [
        Line2D([], [], color=colour, linestyle=line, linewidth=width) for colour, line, width in _STYLES.values()
    ]
    names = ["true", "after MCL", "after SVR"]
    figure.legend(handles, names, loc="outside lower center", ncols=3, facecolor="#222222", labelcolor="white")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    # Greys and three colours: a palette halves the file and nobody sees it.
    Image.open(buffer).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    return path


def _even_shares(sizes: dict[str, int], count: int) -> dict[str, int]:
    """Deal ``count`` places round the labels, none getting more than it has cases."""
    shares = dict.fromkeys(sorted(sizes), 0)
    left = min(count, sum(sizes.values()))
    while left:
        for label in shares:
            if left and shares[label] < sizes[label]:
                shares[label] += 1
                left -= 1
    return shares


def _quantiles(cases: Sequence[Case], count: int) -> list[Case]:
    """``count`` of the sorted cases at the centres of as many equal parts."""
    return [cases[int((i + 0.5) * len(cases) / count)] for i in range(count)]
