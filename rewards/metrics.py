"""Which metrics of report pairs there are, what each needs, and what it is worth as a reward.

What lives here: the names, and how a metric is put together from scorers. What does not: any metric.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rewards.radcliq import VERSIONS, RadCliQ, Version, worst
from rewards.scorers import MissingScorerError, Paths, locate
from rewards.text.bleu import Bleu2
from rewards.text.entities import EntityF1, EntityPrecision
from rewards.text.pair import PairMetric, PairReward
from rewards.text.remembered import Remembered

if TYPE_CHECKING:
    from rewards.text.bertscore import BertScore


@dataclass(frozen=True, slots=True)
class Metric:
    """How one metric is made.

    Attributes:
        build: from the metrics that are loaded already and the paths of the configuration.
        needs: names of scorers.RESOURCES.
        floor: reward of a response without words.
        sign: -1 where less is better.
    """

    build: Callable[[Loaded], PairMetric]
    needs: tuple[str, ...] = ()
    floor: float = 0.0
    sign: int = 1


class Loaded:
    """The metrics of one process: a model that several are made of is loaded once, and a pair is scored once.

    Args:
        paths: where scorers lie.
    """

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self._metrics: dict[str, Remembered] = {}

    def metric(self, name: str) -> PairMetric:
        """The metric of a name; ``-`` may stand for ``_``.

        Raises:
            ValueError: an unknown name, or a scorer that is missing or cannot be read.
        """
        known = check_metric(name, self.paths)
        if known not in self._metrics:
            try:
                self._metrics[known] = Remembered(METRICS[known].build(self))
            except MissingScorerError:
                raise
            except Exception as error:  # of every kind: files of weights fail in as many ways as there are formats
                raise MissingScorerError(f"metric {name!r} cannot be loaded: {' '.join(str(error).split())}") from error
        return self._metrics[known]

    def reward(self, name: str) -> PairReward:
        """The metric of a name as a reward; raises as ``metric`` does."""
        known = check_metric(name, self.paths)
        return PairReward(known, self.metric(known), METRICS[known].floor, METRICS[known].sign)

    def forget(self) -> None:
        """Forget the scores of all pairs; what is loaded stays."""
        for metric in self._metrics.values():
            metric.forget()


def build_metric(name: str, paths: Paths) -> PairMetric:
    """The metric of a name by itself; raises as ``Loaded.metric`` does."""
    return Loaded(paths).metric(name)


def check_metric(name: str, paths: Paths) -> str:
    """The name as METRICS has it, once all that it needs has been found; loads nothing.

    Raises:
        ValueError: an unknown name, or a scorer that is missing.
    """
    known = name.replace("-", "_")
    if known not in METRICS:
        raise ValueError(f"metric {name!r} is unknown; use one of: {', '.join(METRICS)}")
    for resource in METRICS[known].needs:
        locate(resource, paths)
    return known


def _bertscore(loaded: Loaded, *, weighted: bool = False) -> BertScore:
    from rewards.text.bertscore import DISTILROBERTA_BASELINE, DISTILROBERTA_LAYERS, BertScore

    paths, corpus, name = loaded.paths, None, "bertscore"
    if weighted:
        corpus = _lines(Path(locate("idf_corpus", paths)))
        name = f"bertscore_idf[{hashlib.sha256(chr(10).join(corpus).encode()).hexdigest()[:8]}]"
    return BertScore(
        locate("bertscore", paths),
        layers=DISTILROBERTA_LAYERS,
        baseline=DISTILROBERTA_BASELINE,
        idf_corpus=corpus,
        name=name,
    )


def _lines(path: Path) -> Sequence[str]:
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line]


def _chexbert(loaded: Loaded) -> PairMetric:
    from rewards.chexbert import CheXbert, CheXbertSimilarity

    return CheXbertSimilarity(CheXbert(Path(locate("chexbert", loaded.paths))))


def _radgraph(loaded: Loaded, *, large: bool = False) -> PairMetric:
    from rewards.radgraph import RadGraph, RadGraphMetric

    if large:
        return RadGraphMetric(RadGraph(Path(locate("radgraph_xl", loaded.paths)), variant="radgraph-xl"))
    return RadGraphMetric(RadGraph(Path(locate("radgraph", loaded.paths))))


def _clinical_lite(_: Loaded) -> PairMetric:
    from rewards.scorers import minilm_folder
    from rewards.text.bertscore import BertScore
    from rewards.text.clinical_lite import MINILM_LAYERS, ClinicalLite

    return ClinicalLite(BertScore(minilm_folder(), layers=MINILM_LAYERS))


def _radcliq(version: Version, *, large: bool, weighted: bool) -> Metric:
    def build(loaded: Loaded) -> PairMetric:
        bertscore = loaded.metric("bertscore_idf" if weighted else "bertscore")
        return RadCliQ(
            version,
            radgraph=loaded.metric("radgraph_xl" if large else "radgraph"),
            bertscore=bertscore,
            chexbert=loaded.metric("chexbert"),
            bleu=loaded.metric("bleu_2"),
            suffix="_xl" * large + bertscore.name.removeprefix("bertscore"),
        )

    needs = ("radgraph_xl" if large else "radgraph", "bertscore", "chexbert") + ("idf_corpus",) * weighted
    return Metric(build, needs, floor=-worst(version), sign=-1)


METRICS: Final[Mapping[str, Metric]] = {
    "bleu_2": Metric(lambda _: Bleu2()),
    "clinical_lite": Metric(_clinical_lite, ("minilm",)),
    "entity_f1": Metric(lambda _: EntityF1()),
    "entity_precision": Metric(lambda _: EntityPrecision()),
    "bertscore": Metric(_bertscore, ("bertscore",), floor=-1.0),
    "bertscore_idf": Metric(lambda loaded: _bertscore(loaded, weighted=True), ("bertscore", "idf_corpus"), floor=-1.0),
    "chexbert": Metric(_chexbert, ("chexbert",), floor=-1.0),
    "radgraph": Metric(_radgraph, ("radgraph",)),
    "radgraph_xl": Metric(lambda loaded: _radgraph(loaded, large=True), ("radgraph_xl",)),
    **{
        f"radcliq_{version}{'_xl' * large}{'_idf' * weighted}": _radcliq(version, large=large, weighted=weighted)
        for version in VERSIONS
        for large in (False, True)
        for weighted in (False, True)
    },
}
"""Name in a configuration or on the command line → what builds the metric."""
