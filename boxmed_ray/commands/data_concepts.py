"""`boxmed data concepts`: what the mapping covers of a corpus, and its chains as examples to learn from."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from boxmed_ray.config import ConfigError
from boxmed_ray.data.concept_coverage import Coverage, ReportText, measure, read_reference
from boxmed_ray.data.concept_map import ConceptTable, load_concepts
from boxmed_ray.data.prompts import INSTRUCTIONS, Task
from boxmed_ray.data.readers.files import DataFolder
from boxmed_ray.data.readers.iu_xray import OpenIReport, read_reports
from boxmed_ray.data.report_text import clean_report
from boxmed_ray.data.study import DataError


def concepts(
    root: Path, table_file: Path | None, labels: Path | None, unmapped: int, out: Path | None, as_json: bool
) -> None:
    """Print the coverage of Open-i reports below ``root``, and write what ``out`` asks for.

    Raises:
        ConfigError: ``out`` cannot be written.
        DataError: no reports, or a table or labels that cannot be used.
    """
    table = load_concepts(table_file)
    reports = list(read_findings(root))
    if not reports:
        raise DataError(f"{root}: no report has a findings section")
    found = sorted(DataFolder(root).root.glob("negbio_labels*.csv")) if labels is None else [labels]
    coverage = measure(table, reports, read_reference(found[0]) if found else None)
    if out is not None:
        write(out, table, reports, coverage)
    if as_json:
        json.dump(summary(table, coverage, unmapped), sys.stdout, indent=1)
        print()
    else:
        show(table, coverage, unmapped, Console())


def read_findings(root: Path) -> Iterator[ReportText]:
    """Every Open-i report that has a findings section."""
    for report in read_reports(DataFolder(root)):
        if isinstance(report, OpenIReport) and report.findings:
            impression = clean_report(report.sections.get("IMPRESSION", ""))
            yield ReportText(report.id, report.findings, f"{report.findings} {impression}")


def summary(table: ConceptTable, coverage: Coverage, unmapped: int) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "table_version": table.version,
        "reports": coverage.reports,
        "sentences": coverage.sentences,
        "about_examination": coverage.about_examination,
        "finding_sentences": coverage.findings,
        "disease_share": round(coverage.disease_share, 4),
        "region_share": round(coverage.region_share, 4),
        "signs": dict(coverage.signs),
        "diseases": dict(coverage.diseases.most_common()),
        "regions": dict(coverage.regions.most_common()),
        "without_disease": dict(coverage.without_disease.most_common(unmapped)),
        "without_region": dict(coverage.without_region.most_common(unmapped)),
        "agreement": {
            label: asdict(line) | {"precision": line.precision, "recall": line.recall, "f1": line.f1}
            for label, line in coverage.agreement.items()
        },
    }


def show(table: ConceptTable, coverage: Coverage, unmapped: int, console: Console) -> None:
    """The same for a reader."""
    signs = ", ".join(f"{count} {sign}" for sign, count in coverage.signs.most_common())
    console.print(
        f"table {table.version}: {coverage.reports} reports, {coverage.sentences} sentences, of which "
        f"{coverage.about_examination} are about the examination\n"
        f"of {coverage.findings} finding sentences {coverage.disease_share:.1%} have a disease and "
        f"{coverage.region_share:.1%} a region; findings: {signs}",
        highlight=False,
    )
    if coverage.agreement:
        lines = Table("label", *("reference", "mapped", "precision", "recall", "F1"), box=None, pad_edge=False)
        for label, line in coverage.agreement.items():
            figures = (line.precision, line.recall, line.f1)
            counts = (line.both + line.reference_only, line.both + line.mapped_only)
            lines.add_row(label, *map(str, counts), *("–" if value is None else f"{value:.2f}" for value in figures))
        console.print(lines)
    for what, counter in (("disease", coverage.without_disease), ("region", coverage.without_region)):
        if unmapped and counter:
            console.print(f"\nmost frequent without a {what}:", highlight=False)
            for sentence, count in counter.most_common(unmapped):
                console.print(f"  {count:4d}  {sentence[:100]}", highlight=False, markup=False)


def write(out: Path, table: ConceptTable, reports: list[ReportText], coverage: Coverage) -> None:
    """``chains.jsonl``, ``thinking.jsonl`` and ``unmapped.csv`` into the folder ``out``."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with (out / "chains.jsonl").open("w") as chains, (out / "thinking.jsonl").open("w") as thinking:
            for name, text, _ in reports:
                for line in chain_lines(table, name, text):
                    chains.write(json.dumps(line, ensure_ascii=False) + "\n")
                thinking.write(json.dumps(thinking_example(table, name, text), ensure_ascii=False) + "\n")
        with (out / "unmapped.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["missing", "count", "sentence"])
            for what, counter in (("disease", coverage.without_disease), ("region", coverage.without_region)):
                # A spreadsheet would run a sentence that begins with one of these.
                writer.writerows((what, count, text.lstrip("=+-@\t")) for text, count in counter.most_common())
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written ({error.strerror}); name another folder") from error


def chain_lines(table: ConceptTable, name: str, text: str) -> Iterator[dict[str, Any]]:
    """Every statement of a report as a line: sentence, finding, sign, concept, disease, region."""
    for chain in table.chains(text):
        yield {
            "report": name,
            "sentence": chain.sentence,
            "finding": chain.finding,
            "sign": chain.status.value if chain.finding else None,
            "via": chain.via,
            "disease": chain.disease,
            "region": chain.region,
            "table_version": table.version,
        }


def thinking_example(table: ConceptTable, name: str, text: str) -> dict[str, Any]:
    """A report as an example of thinking before writing (arXiv 2512.10691's cold start): chains, then the report."""
    thought = "; ".join(chain.words() for chain in table.chains(text) if chain.finding)
    return {
        "report": name,
        "prompt": INSTRUCTIONS[Task.REPORT],
        "response": f"<think>{thought or 'none'}</think><answer>{text}</answer>",
        "table_version": table.version,
    }
