"""How a phantom is drawn: soft shapes added to one float image, each finding returning its exact box.

What lives here: geometry and grey values. What does not: which findings there are (phantom.py).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from boxmed_ray.data.study import Box

SIZE = 224
"""Side of a phantom in pixels."""

Array = NDArray[np.float32]
_Y, _X = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)


def _ellipse(cx: float, cy: float, rx: float, ry: float) -> Array:
    """Normalised distance: below 1 inside the ellipse."""
    return np.sqrt(((_X - cx) / rx) ** 2 + ((_Y - cy) / ry) ** 2)


def _soft(distance: Array, edge: float) -> Array:
    """1 inside, 0 outside, with a linear ramp of ``edge`` (in units of the distance)."""
    return np.clip((1 - distance) / edge + 0.5, 0, 1)


def _box_of(mask: NDArray[np.bool_]) -> Box:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return Box(float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))


def _clip(box: Box) -> Box:
    return Box(max(0.0, box.x1), max(0.0, box.y1), min(float(SIZE), box.x2), min(float(SIZE), box.y2))


class Canvas:
    """A thorax with lungs, heart, spine and ribs, on which findings are drawn.

    Args:
        rng: source of every choice.
        enlarged: whether the heart is wider than half of the thorax.
    """

    def __init__(self, rng: np.random.Generator, *, enlarged: bool) -> None:
        self._rng = rng
        scale = rng.uniform(0.8, 1.05)
        self.cx = SIZE / 2 + rng.uniform(-16, 16)
        self.cy = SIZE / 2 + rng.uniform(-14, 14)
        self.rx, self.ry = 46 * scale * rng.uniform(0.92, 1.08), 72 * scale * rng.uniform(0.92, 1.05)
        self.gap = 46 * scale
        self._image = 0.06 + 0.5 * _soft(_ellipse(self.cx, self.cy + 12, 2.15 * self.gap, 1.32 * self.ry), 0.12)
        self._lungs: dict[str, Array] = {}
        for side in ("left", "right"):
            lung = _soft(self._lung_distance(side), 0.12)
            self._lungs[side] = lung
            self._image -= 0.36 * lung
        self._draw_bones()
        self._draw_heart(enlarged, scale)

    def _lung_centre(self, side: str) -> float:
        return self.cx + (self.gap if side == "left" else -self.gap)

    def _lung_distance(self, side: str) -> Array:
        # Narrower at the top, as a lung is.
        width = self.rx * np.clip(0.82 + 0.25 * (_Y - self.cy) / self.ry, 0.55, 1.0)
        return np.sqrt(((_X - self._lung_centre(side)) / width) ** 2 + ((_Y - self.cy) / self.ry) ** 2)

    def _draw_bones(self) -> None:
        self._image += 0.16 * np.clip(1.2 - np.abs(_X - self.cx) / 9, 0, 1)
        ribs = np.zeros_like(self._image)
        for index in range(7):
            y = self.cy - 0.8 * self.ry + index * self.ry * 0.26
            curve = y + 0.0022 * (np.abs(_X - self.cx) - 20) ** 2 - 6
            ribs = np.maximum(ribs, np.clip(1 - np.abs(_Y - curve) / 3.2, 0, 1))
        self._image += 0.07 * ribs * np.maximum(self._lungs["left"], self._lungs["right"])

    def _draw_heart(self, enlarged: bool, scale: float) -> None:
        grow = self._rng.uniform(1.35, 1.75) if enlarged else self._rng.uniform(0.85, 1.08)
        rx, ry = 30 * scale * grow, 30 * scale * (0.55 + 0.45 * grow)
        cx = self.cx + 0.35 * rx + self._rng.uniform(-4, 4)
        cy = self.cy + 0.38 * self.ry + self._rng.uniform(-5, 5)
        self.heart_box = _clip(Box(cx - rx, cy - ry, cx + rx, cy + ry))
        self._image = np.maximum(self._image, 0.6 * _soft(_ellipse(cx, cy, rx, ry), 0.1))

    def _inside(self, side: str, low: float, high: float, reach: float = 0.55) -> tuple[float, float]:
        """A point of a lung, between two heights given in lung radii from its centre."""
        y = self._rng.uniform(low, high)
        half = reach * np.sqrt(max(0.0, 1 - y * y))
        return self._lung_centre(side) + self.rx * 0.85 * self._rng.uniform(-half, half), self.cy + self.ry * y

    def opacity(self, side: str, relative: float) -> Box:
        """A hazy patch with no sharp edge; the box is where it has faded to a third."""
        x, y = self._inside(side, -0.6, 0.5)
        rx = (24 + 16 * relative) * self._rng.uniform(0.85, 1.15)
        ry = (24 + 16 * relative) * self._rng.uniform(0.85, 1.15)
        distance = _ellipse(x, y, rx, ry)
        self._image += 0.36 * np.exp(-1.1 * distance**2)
        return _clip(Box(x - rx, y - ry, x + rx, y + ry))

    def nodule(self, side: str, relative: float) -> Box:
        """A sharp bright disc."""
        x, y = self._inside(side, -0.7, 0.6)
        radius = 14 + 10 * relative
        self._image += 0.42 * _soft(_ellipse(x, y, radius, radius), 0.25)
        return _clip(Box(x - radius, y - radius, x + radius, y + radius))

    def effusion(self, side: str, relative: float) -> Box:
        """Fluid at the base with a meniscus that rises to the lateral wall."""
        lateral = (_X - self._lung_centre(side)) / self.rx * (1 if side == "left" else -1)
        level = self.cy + self.ry * (0.75 - 0.6 * relative) - self.ry * 0.14 * (lateral + 0.5)
        inside = self._lung_distance(side) < 1
        fluid = inside & (level < _Y)
        self._image = np.where(fluid, np.maximum(self._image, 0.58), self._image)
        return _box_of(fluid)

    def pneumothorax(self, side: str, relative: float) -> Box:
        """Air over a collapsed apex: darker, without ribs' contrast lost, bounded by a thin bright line."""
        distance = self._lung_distance(side)
        depth = 0.3 + 0.4 * relative
        edge = (_Y - (self.cy - self.ry)) / (2 * self.ry)
        air = (distance < 1) & (edge < depth)
        line = (distance < 1) & (np.abs(edge - depth) < 0.012)
        self._image = np.where(air, self._image * 0.45, self._image)
        self._image = np.where(line, self._image + 0.22, self._image)
        return _box_of(air)

    def device(self, side: str, relative: float) -> Box:
        """A pacemaker: a bright rounded case on the upper chest and a lead towards the heart."""
        x = self._lung_centre(side) + self.rx * self._rng.uniform(-0.3, 0.5) * (1 if side == "left" else -1)
        y = self.cy - self.ry * self._rng.uniform(0.35, 0.85)
        rx, ry = 18 + 7 * relative, 15 + 6 * relative
        case = ((np.abs(_X - x) / rx) ** 4 + ((np.abs(_Y - y)) / ry) ** 4) < 1
        target_x, target_y = self.cx + 8, self.cy + 0.45 * self.ry
        t = np.clip((_Y - y) / max(target_y - y, 1.0), 0, 1)
        lead = (np.abs(_X - (x + (target_x - x) * t**1.5)) < 1.3) & (y < _Y) & (target_y > _Y)
        self._image = np.where(case | lead, 0.97, self._image)
        return _clip(Box(x - rx, y - ry, x + rx, y + ry))

    def pixels(self) -> NDArray[np.uint8]:
        """The finished image with exposure and noise, [SIZE, SIZE] uint8."""
        gain, offset = self._rng.uniform(0.85, 1.15), self._rng.uniform(-0.04, 0.06)
        noise = self._rng.normal(0, self._rng.uniform(0.01, 0.04), self._image.shape).astype(np.float32)
        return (np.clip(self._image * gain + offset + noise, 0, 1) * 255).astype(np.uint8)
