"""RadCliQ v0 and v1: a report's quality from four metrics, fitted to the errors that radiologists counted.

What lives here: the published constants, the formula, and the metric over its four features. What does not: the
features.

Yu et al., Patterns 2023. The constants are those of CXR-Report-Metric (MIT), from its published StandardScaler and
regression: Σ coefficient · (feature − mean) / scale + intercept. Lower is better; a reward is its negative.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from rewards.text.pair import PairMetric, check_pairs

Version = Literal["v0", "v1"]
VERSIONS: Final[tuple[Version, ...]] = get_args(Version)

FEATURES: Final = ("radgraph_f1", "bertscore_f1", "chexbert_similarity", "bleu_2")
"""In the order of every constant below. All grow with quality; the first and last are in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Constants:
    """Of one version, by feature."""

    mean: tuple[float, float, float, float]
    scale: tuple[float, float, float, float]
    coefficient: tuple[float, float, float, float]
    intercept: float


CONSTANTS: Final[Mapping[Version, Constants]] = {
    "v0": Constants(
        mean=(0.5398376019082272, 0.6312549595000001, 0.7716797866672277, 0.4607372064809605),
        scale=(0.3018344440559102, 0.22466950746141123, 0.24750333805236252, 0.30336670936092264),
        coefficient=(-0.4796252644863446, -0.6762170542369337, -0.46366575161751994, 0.2165861905287535),
        intercept=1.641666666666666,
    ),
    "v1": Constants(
        mean=(0.5379231241355762, 0.6175725628125001, 0.7647942121140658, 0.44738335396242174),
        scale=(0.3028258411486429, 0.22430938459304575, 0.2539439110169773, 0.2989271671041838),
        coefficient=(-0.37708368261038905, -0.37030009974480316, -0.25261621789593225, 4.315048405024756e-12),
        intercept=2.466552561323256e-10,
    ),
}


def composite(features: Sequence[float], version: Version) -> float:
    """RadCliQ of four features in the order of ``FEATURES``; lower is better.

    Raises:
        ValueError: an unknown version, or not four finite numbers.
    """
    if version not in CONSTANTS:
        raise ValueError(f"RadCliQ has no version {version!r}; use one of: {', '.join(VERSIONS)}")
    if len(features) != len(FEATURES) or not all(map(math.isfinite, features)):
        raise ValueError(f"RadCliQ needs {len(FEATURES)} finite numbers ({', '.join(FEATURES)}), not {list(features)}")
    known = CONSTANTS[version]
    terms = zip(known.coefficient, features, known.mean, known.scale, strict=True)
    return math.fsum(c * (x - mean) / scale for c, x, mean, scale in terms) + known.intercept


class RadCliQ:
    """RadCliQ of pairs of reports; a PairMetric of which less is better.

    Args:
        version: of the constants.
        radgraph: F1 of entities and relations, both averaged.
        bertscore: rescaled F1 of distilroberta-base, layer 5.
        chexbert: cosine of [CLS] embeddings.
        bleu: BLEU-2.
        suffix: of the name, for other features than those it was fitted with.
    """

    def __init__(
        self,
        version: Version,
        *,
        radgraph: PairMetric,
        bertscore: PairMetric,
        chexbert: PairMetric,
        bleu: PairMetric,
        suffix: str = "",
    ) -> None:
        self.name = f"radcliq_{version}{suffix}"
        self._version = version
        self._metrics = (radgraph, bertscore, chexbert, bleu)

    def score_pairs(self, references: Sequence[str], hypotheses: Sequence[str]) -> list[float]:
        """One RadCliQ a pair."""
        check_pairs(references, hypotheses)
        columns = [metric.score_pairs(references, hypotheses) for metric in self._metrics]
        return [composite(row, self._version) for row in zip(*columns, strict=True)]


def worst(version: Version) -> float:
    """RadCliQ of the worst features there can be: no overlap, and embeddings that point the other way."""
    return composite((0.0, -1.0, -1.0, 0.0), version)
