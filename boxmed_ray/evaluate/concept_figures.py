"""Figures of reasoning: do the chains that a model writes lead to the diseases and regions that the data states?

What lives here: the record of one answer to CONCEPTS, and its figures. What does not: reading a response
(data/prompts.py), which studies are asked (stages/held_out.py).

A chain is *finding -> disease -> region*. The words of the finding are free, so a chain is right by its disease and
region, both from the banks; one that leaves a link out matches one that leaves the same link out.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np

from boxmed_ray.data.prompts import Reasoning, parse_reasoning
from boxmed_ray.evaluate.figures import FigureSet, mean_figure


@dataclass(frozen=True, slots=True)
class ConceptRecord:
    """One answer to CONCEPTS, greedy: the reference response, and what the model wrote."""

    study_id: str
    reference: str
    generated: str


def concept_figures(records: Sequence[ConceptRecord]) -> FigureSet:
    """Four figures, one sample a study. Malformed answers say nothing and count 0, except where nothing is right."""
    pairs = [(parse_reasoning(record.reference), parse_reasoning(record.generated)) for record in records]
    columns = {
        "chain_f1": np.array([_f1(true.links, said.links) for true, said in pairs]),
        "chain_disease_f1": np.array([_f1(true.diseases, said.diseases) for true, said in pairs]),
        "chain_exact": np.array([_same(true, said) for true, said in pairs]),
        "chain_malformed": np.array([float(not said.well_formed) for _, said in pairs]),
    }
    figures = [
        mean_figure("chain_f1", "F1 of a study's (disease, region) pairs, greedy, mean over studies", columns,
                    "chain_f1"),
        mean_figure("chain_disease_f1", "F1 of the diseases of the answer, greedy, mean over studies", columns,
                    "chain_disease_f1"),
        mean_figure("chain_accuracy", "share of studies with all pairs and diseases right and none more, greedy",
                    columns, "chain_exact"),
        mean_figure("chain_malformed", "share of greedy responses without the form", columns, "chain_malformed", -1),
    ]  # fmt: skip
    return FigureSet([record.study_id for record in records], columns, figures)


def _f1(true: Set[object], said: Set[object]) -> float:
    """1 where both are empty."""
    return 2 * len(true & said) / (len(true) + len(said)) if true or said else 1.0


def _same(true: Reasoning, said: Reasoning) -> float:
    return float(said.well_formed and true.links == said.links and true.diseases == said.diseases)
