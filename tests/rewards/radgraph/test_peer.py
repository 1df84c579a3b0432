"""The published package on the same archive, at the size of the published models.

Runs where ``BOXMED_RADGRAPH_PEER`` names the Python of an environment that holds it; docs/benchmarks.md says how to
make one. Reports are Open-i's where that data set is at hand, else made up.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks._radgraph_archive import PUBLISHED, TINY, build_archive
from benchmarks._radgraph_peer import Peer
from benchmarks._radgraph_reports import made_up, open_i, rollouts
from rewards.radgraph import Annotation, RadGraph, RadGraphMetric
from rewards.radgraph.words import VARIANTS, Variant
from tests.conftest import SHARED_DATA

PYTHON = os.environ.get("BOXMED_RADGRAPH_PEER")
COUNT = 300

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        PYTHON is None, reason="BOXMED_RADGRAPH_PEER does not name the Python of a radgraph environment"
    ),
]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    tarball = SHARED_DATA / "iu-xray" / "NLMCXR_reports.tgz"
    return open_i(tarball, COUNT) if tarball.exists() else made_up(COUNT)


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> Variant:
    return request.param


@pytest.fixture(scope="module")
def sides(variant: Variant, texts: list[str], tmp_path_factory) -> Iterator[tuple[RadGraph, Peer]]:
    folder = tmp_path_factory.mktemp("archives") / variant
    build_archive(folder, PUBLISHED if variant == "radgraph" else TINY, texts, variant)
    with Peer(Path(PYTHON or ""), folder) as peer:
        yield RadGraph(folder, variant=variant, device="cpu"), peer


def test_the_same_entities_and_relations(sides: tuple[RadGraph, Peer], texts: list[str]):
    radgraph, peer = sides
    ours, (theirs, _) = radgraph.annotate(texts), peer.annotate(texts)
    entities, relations = counts(ours)
    print(f"{len(texts)} reports, {entities} entities, {relations} relations")
    assert entities > 10 * len(texts)
    assert relations > 3 * len(texts)
    assert ours == theirs


def test_the_same_f1(sides: tuple[RadGraph, Peer], texts: list[str]):
    radgraph, peer = sides
    draw = random.Random(0)
    references = texts[:40]
    hypotheses = [*(rollouts(text, texts, 1, draw)[0] for text in references[:39]), ""]
    theirs, _ = peer.score(references, hypotheses)
    for level in ("simple", "partial", "complete"):
        ours = RadGraphMetric(radgraph, level).score_pairs(references, hypotheses)
        assert ours == pytest.approx(theirs[level], abs=1e-12)
        assert sum(score > 0 for score in ours) > 5


def test_the_same_in_texts_that_are_no_reports(sides: tuple[RadGraph, Peer], texts: list[str]):
    radgraph, peer = sides
    odd = [
        "x", "Edema", "No \u200b edema. \x00 yes", "心臓は正常です。", "Сердце не увеличено.",
        "a/b (50%). it's, 5%) \\n so)...", "/. /? .' effusion", "q" * 150 + " heart", " ".join(texts[:9]),
        " ".join(texts[9:22]),
    ]  # fmt: skip
    ours, (theirs, _) = radgraph.annotate(odd), peer.annotate(odd)
    assert ours == theirs
    assert counts(ours[-1:])[0] > 100


def counts(annotations: list[Annotation]) -> tuple[int, int]:
    entities = [entity for annotation in annotations for entity in annotation.entities]
    return len(entities), sum(len(entity.relations) for entity in entities)
