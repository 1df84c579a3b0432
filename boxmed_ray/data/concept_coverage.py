"""How much of a corpus of reports the mapping covers, and how its diseases agree with reference labels.

What lives here: counting. What does not: the mapping (concept_map.py), printing (commands/data_concepts.py).
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from boxmed_ray.data.concept_map import ConceptTable, split_sentences
from boxmed_ray.data.concepts import NIH_LABELS
from boxmed_ray.data.study import DataError
from rewards.categories import Status


class ReportText(NamedTuple):
    """A report: its id, its findings section, and findings and impression together."""

    id: str
    findings: str
    whole: str


@dataclass(slots=True)
class Agreement:
    """Of one label: reports in which both, only the mapping, only the reference assert it."""

    both: int = 0
    mapped_only: int = 0
    reference_only: int = 0

    @property
    def precision(self) -> float | None:
        """Of what the mapping asserts; None where it asserts nothing."""
        asserted = self.both + self.mapped_only
        return self.both / asserted if asserted else None

    @property
    def recall(self) -> float | None:
        """Of what the reference asserts; None where it asserts nothing."""
        asserted = self.both + self.reference_only
        return self.both / asserted if asserted else None

    @property
    def f1(self) -> float | None:
        """Of positive labels."""
        total = 2 * self.both + self.mapped_only + self.reference_only
        return 2 * self.both / total if total else None


@dataclass(slots=True)
class Coverage:
    """Counts of sentences, and the sentences that found no place, by how often they occur."""

    reports: int = 0
    sentences: int = 0
    about_examination: int = 0
    disease: int = 0
    region: int = 0
    signs: Counter[str] = field(default_factory=Counter)
    diseases: Counter[str] = field(default_factory=Counter)
    regions: Counter[str] = field(default_factory=Counter)
    without_disease: Counter[str] = field(default_factory=Counter)
    without_region: Counter[str] = field(default_factory=Counter)
    agreement: dict[str, Agreement] = field(default_factory=dict)

    @property
    def findings(self) -> int:
        """Sentences that tell of the patient."""
        return self.sentences - self.about_examination

    @property
    def disease_share(self) -> float:
        """Of finding sentences, those with a disease of the bank."""
        return self.disease / self.findings if self.findings else 0.0

    @property
    def region_share(self) -> float:
        """Of finding sentences, those with a region of the bank."""
        return self.region / self.findings if self.findings else 0.0


def measure(
    table: ConceptTable, reports: Iterable[ReportText], reference: Mapping[str, frozenset[str]] | None = None
) -> Coverage:
    """Coverage over ``reports``.

    Args:
        table: the mapping.
        reports: their findings sections are counted.
        reference: labels that a reference asserts, by report id. They are of whole reports, so they are compared with
            what findings and impression assert; reports without one are left out of it.
    """
    coverage = Coverage()
    for report in reports:
        coverage.reports += 1
        _count(coverage, table, report.findings)
        if reference is not None and report.id in reference:
            chains = table.chains(report.whole)
            found = {chain.finding for chain in chains if chain.status is Status.POSITIVE}
            mapped = {label for label, names in table.reference.items() if found & names}
            _compare(coverage.agreement, table.reference, mapped, reference[report.id])
    return coverage


def _count(coverage: Coverage, table: ConceptTable, text: str) -> None:
    for sentence in split_sentences(text):
        coverage.sentences += 1
        if not table.is_finding(sentence):
            coverage.about_examination += 1
            continue
        chains = table.sentence_chains(sentence)
        diseases = {chain.disease for chain in chains if chain.disease}
        regions = {chain.region for chain in chains if chain.region}
        coverage.disease += bool(diseases)
        coverage.region += bool(regions)
        coverage.diseases.update(diseases)
        coverage.regions.update(regions)
        coverage.signs.update(chain.status.value for chain in chains if chain.finding)
        if not diseases:
            coverage.without_disease[sentence.lower()] += 1
        if not regions:
            coverage.without_region[sentence.lower()] += 1


def _compare(
    agreement: dict[str, Agreement], labels: Iterable[str], mapped: set[str], reference: frozenset[str]
) -> None:
    for label in labels:
        line = agreement.setdefault(label, Agreement())
        line.both += label in mapped and label in reference
        line.mapped_only += label in mapped and label not in reference
        line.reference_only += label not in mapped and label in reference


def read_reference(path: Path) -> dict[str, frozenset[str]]:
    """Labels by report id of a table with a column ``filename`` and one of 0 and 1 for each NIH label.

    Raises:
        DataError: the file is missing, or has no such columns.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return dict(_rows(csv.DictReader(file), path))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def _rows(reader: csv.DictReader[str], path: Path) -> Iterator[tuple[str, frozenset[str]]]:
    columns = reader.fieldnames or ()
    labels = [name for name in NIH_LABELS if name in columns]
    if "filename" not in columns or not labels:
        raise DataError(
            f"{path}: needs a column filename and columns of labels such as {', '.join(list(NIH_LABELS)[:3])}"
        )
    for row in reader:
        yield row["filename"], frozenset(name for name in labels if row[name] in ("1", "1.0"))
