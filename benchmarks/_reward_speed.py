"""How many pairs of reports, or answers with boxes, each scorer takes a second, beside peers on the same pairs.

What lives here: the workload, the rows and the clock. What does not: models with random weights (_reward_models.py).

The workload is that of a trainer: groups of eight rollouts beside one reference, several groups a call. Cold: nothing
of it was scored before. Warm: the same pairs again, as for a watch, for another reward made of the same model, or where
a policy says the same text time and again. A ratio compares cold with the peer, who remembers nothing.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _common import ONE_THREAD, last_core, median, pin_tree, print_result, say, versions

if TYPE_CHECKING:
    from _radgraph_peer import Peer, Took

    from rewards.sample import Sample

ROLLOUTS = 8
Pairs = tuple[list[str], list[str]]


@dataclass(frozen=True)
class Row:
    """One scorer.

    Attributes:
        name: of the line.
        score: what is measured.
        peer: name of another package that does the same, and what it does: its scores, None where they are of another
            scale, or what it took where it runs in another process.
    """

    name: str
    score: Callable[[Sequence[Sample]], Sequence[float]]
    peer: tuple[str, Callable[[Sequence[Sample]], Any]] | None = None


def main() -> None:
    """Measure and print."""
    args = _arguments()
    os.environ.update(ONE_THREAD | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"})
    warnings.filterwarnings("ignore")  # NLTK's about texts that share no word
    import torch
    from _radgraph_reports import made_up, open_i

    torch.set_num_threads(1)
    wanted = (args.repeats + 1) * args.groups + 60
    texts = open_i(args.reports, wanted) if args.reports else made_up(wanted)
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        say("building models with random weights")
        rows, peer = _rows(Path(place), texts, args, stack)
        pin_tree(args.core)
        lines = [_measure(row, texts, args) for row in rows]
    print_result(
        {
            "name": "rewards",
            "versions": versions("boxmed-rl", "torch", "transformers", "bert-score", "nltk", "faster-coco-eval"),
            "threads": 1,
            "repeats": args.repeats,
            "peer": {"name": "one a scorer, see there", "settings": {"radgraph_environment": peer}},
            "rollouts": ROLLOUTS,
            "groups": args.groups,
            "quick": args.quick,
            "texts": "Open-i" if args.reports else "made up",
            "scorers": lines,
        }
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="tiny models, under a minute; the figures mean little")
    parser.add_argument("--peer-python", type=Path, default=os.environ.get("BOXMED_RADGRAPH_PEER"), help="of radgraph")
    parser.add_argument("--reports", type=Path, help="NLMCXR_reports.tgz of Open-i (made-up reports)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds, each on pairs of its own (3)")
    parser.add_argument("--groups", type=int, default=8, help="references a call (8)")
    parser.add_argument("--core", type=int, default=last_core(), help="the core that everything is pinned to")
    args = parser.parse_args()
    if args.quick:
        args.repeats, args.groups = 2, 2
    return args


def _rows(
    place: Path, texts: Sequence[str], args: argparse.Namespace, stack: ExitStack
) -> tuple[list[Row], dict[str, str]]:
    """All rows, and versions of the peer of another environment."""
    from _radgraph_peer import Peer
    from _reward_models import build_scorers

    from rewards.metrics import Loaded
    from rewards.scorers import minilm_folder

    paths = build_scorers(place, texts, tiny=args.quick)
    peer = stack.enter_context(Peer(args.peer_python, paths["radgraph"], args.core)) if args.peer_python else None
    scored = {"bleu_2": ("nltk sentence_bleu", _nltk), "soft_f1": ("faster-coco-eval iou, scipy", _coco_soft_f1)}
    scored["bertscore"] = ("bert-score BERTScorer", _bert_score(paths["bertscore"], 5))
    if peer:
        scored["radgraph"] = ("radgraph F1RadGraph", _F1RadGraph(peer))
    minilm = ("bert-score BERTScorer", _bert_score(minilm_folder(), 6))
    rows = [Row("bertscore_minilm", _minilm(), minilm)]
    alone = ("iou", "soft_f1", "format", "length", "entity_f1", "bleu_2", "bertscore", "chexbert", "radgraph")
    rows += [Row(name, _reward({name: 1.0}, Loaded(paths)), scored.get(name)) for name in alone]
    composed: dict[str, dict[str, float]] = {
        "clinical_lite": {"clinical_lite": 1.0},
        "radcliq_v1": {"radcliq_v1": 1.0},
        "radcliq_v1 + its four parts": dict.fromkeys(
            ("radcliq_v1", "radgraph", "bertscore", "chexbert", "bleu_2"), 1.0
        ),
        "clinical_lite + bleu_2 + entity_f1 + length": dict.fromkeys(
            ("clinical_lite", "bleu_2", "entity_f1", "length"), 1.0
        ),
        "joint_lite + format": {"joint_lite": 1.0, "format": 0.5},
    }
    rows += [Row(name, _reward(weights, Loaded(paths))) for name, weights in composed.items()]
    return rows, peer.versions if peer else {}


def _measure(row: Row, texts: Sequence[str], args: argparse.Namespace) -> dict[str, Any]:
    batches = _batches(texts, args.groups)
    first = next(batches)
    row.score(first)  # what a first call costs is not the scorer's pace
    if row.peer:
        row.peer[1](first)
    cold, warm, ratio, cpu_ratio = [], [], [], []
    largest = 0.0
    for batch, _ in zip(batches, range(args.repeats), strict=False):
        took, scores = _timed(row.score, batch)
        again, _scores = _timed(row.score, batch)
        cold.append(len(batch) / took.seconds)
        warm.append(len(batch) / again.seconds)
        if row.peer:
            other, theirs = _timed(row.peer[1], batch)
            ratio.append(other.seconds / took.seconds)
            cpu_ratio.append(other.cpu / took.cpu)
            if theirs is not None:
                largest = max([largest, *(abs(a - b) for a, b in zip(scores, theirs, strict=True))])
    line = {
        "name": row.name,
        "pairs_per_s_cold": median(cold, 1),
        "pairs_per_s_warm": median(warm, 1),
        "peer": row.peer and row.peer[0],
        "ratio_peer": median(ratio, 2) if ratio else None,
        "cpu_ratio_peer": median(cpu_ratio, 2) if ratio else None,
    }
    if row.peer and theirs is not None:
        line["max_abs_diff"] = float(f"{largest:.2g}")
    say(", ".join(f"{key} {value}" for key, value in line.items() if value is not None))
    return line


def _timed(score: Callable[[Sequence[Sample]], Any], batch: Sequence[Sample]) -> tuple[Took, Any]:
    from _radgraph_peer import Stopwatch, Took

    with Stopwatch() as watch:
        scores = score(batch)
    return (scores, None) if isinstance(scores, Took) else (watch.took, scores)


def _batches(texts: Sequence[str], groups: int) -> Iterator[list[Sample]]:
    """Batches of ``groups`` groups, every one of new references; boxes beside the reports, jittered."""
    from _radgraph_reports import rollouts

    from rewards.sample import Sample

    draw = random.Random(0)
    for start in range(0, len(texts) - groups + 1, groups):
        batch = []
        for reference in texts[start : start + groups]:
            target = tuple(_box(draw) for _ in range(draw.randint(1, 4)))
            for text in rollouts(reference, texts, ROLLOUTS, draw):
                said = tuple(_moved(box, draw) for box in target[: draw.randint(1, 4)])
                batch.append(Sample(text, said, True, target, target_text=reference))
        yield batch


def _box(draw: random.Random) -> tuple[float, float, float, float]:
    x, y = draw.uniform(0, 800), draw.uniform(0, 800)
    return x, y, x + draw.uniform(20, 200), y + draw.uniform(20, 200)


def _moved(box: tuple[float, float, float, float], draw: random.Random) -> tuple[float, float, float, float]:
    x, y = draw.gauss(0, 15), draw.gauss(0, 15)
    return box[0] + x, box[1] + y, box[2] + x, box[3] + y


def _texts(batch: Sequence[Sample]) -> Pairs:
    return [sample.target_text or "" for sample in batch], [sample.text for sample in batch]


def _reward(weights: dict[str, float], loaded: Any) -> Callable[[Sequence[Sample]], Sequence[float]]:
    from rewards.registry import build

    composite = build(weights, loaded=loaded)
    return lambda batch: [score.value for score in composite.score(batch)]


def _minilm() -> Callable[[Sequence[Sample]], Sequence[float]]:
    from rewards.scorers import minilm_folder
    from rewards.text.bertscore import BertScore
    from rewards.text.remembered import Remembered

    metric = Remembered(BertScore(minilm_folder(), layers=6, device="cpu"))
    return lambda batch: metric.score_pairs(*_texts(batch))


def _bert_score(folder: Path, layers: int) -> Callable[[Sequence[Sample]], Sequence[float] | None]:
    from bert_score import BERTScorer

    scorer = BERTScorer(model_type=str(folder), num_layers=layers, device="cpu", batch_size=64)

    def score(batch: Sequence[Sample]) -> Sequence[float] | None:
        references, hypotheses = _texts(batch)
        values: list[float] = scorer.score(hypotheses, references)[2].tolist()
        return values if layers == 6 else None  # the other is rescaled with a baseline on our side

    return score


class _F1RadGraph:
    """The package's levels are others than RadCliQ's feature; benchmarks/radgraph.py compares values."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def __call__(self, batch: Sequence[Sample]) -> Took:
        return self._peer.score(*_texts(batch))[1]


def _nltk(batch: Sequence[Sample]) -> Sequence[float]:
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    from rewards.text.bleu import radcliq_tokens

    smooth = SmoothingFunction(0.1).method1
    return [
        float(sentence_bleu([radcliq_tokens(reference)], radcliq_tokens(hypothesis), (0.5, 0.5), smooth))
        for reference, hypothesis in zip(*_texts(batch), strict=True)
    ]


def _coco_soft_f1(batch: Sequence[Sample]) -> Sequence[float]:
    import numpy as np
    from faster_coco_eval.core import mask
    from scipy.optimize import linear_sum_assignment

    values = []
    for sample in batch:
        said, true = (
            np.array([(x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2 in boxes])
            for boxes in (sample.boxes or (), sample.target_boxes)
        )
        overlap = np.asarray(mask.iou(said, true, [0] * len(true)))
        values.append(2 * overlap[linear_sum_assignment(-overlap)].sum() / (len(said) + len(true)))
    return values
