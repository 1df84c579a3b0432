"""`boxmed data`: read and check the data set of a recipe without training, and count what is in it."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from boxmed_ray.config import ConfigError, load_config
from boxmed_ray.data.feedback import read_feedback
from boxmed_ray.data.load import Dataset, load_studies
from boxmed_ray.data.readers.manifest import write_manifest
from boxmed_ray.data.study import DataError


def data(recipe: str, overrides: Sequence[str]) -> None:
    """Print counts by split and by disease.

    Raises:
        ConfigError, DataError: what `boxmed train` would refuse, in the same words.
    """
    config = load_config(recipe, overrides)
    with tempfile.TemporaryDirectory(prefix="boxmed-data-") as folder:
        dataset = load_studies(config.data, config.seed, Path(folder))
    _print_counts(dataset)


def from_feedback(folder: Path, to: Path) -> None:
    """Write studies made of readers' verdicts.

    Raises:
        ConfigError: the target holds a manifest, or cannot be written.
        DataError: no feedback, a broken line, or nothing that can be learnt from.
    """
    result = read_feedback(folder)
    for reason, count in sorted(result.left_out.items()):
        print(f"left out: {count} {reason}")
    if not result.studies:
        raise DataError(f"{folder}: no verdict makes a study; reasons are above")
    target = to / "manifest.jsonl"
    if target.exists():
        raise ConfigError(f"{target} exists; name another folder with --to")
    try:
        to.mkdir(parents=True, exist_ok=True)
        write_manifest(target, result.studies)
    except OSError as error:
        raise ConfigError(f"{target}: cannot be written ({error.strerror}); name another folder with --to") from error
    findings = sum(len(study.findings) for study in result.studies)
    print(f"{target}: {len(result.studies)} studies, {findings} findings; train with --set data.kind=manifest", end="")
    print(f" --set data.root={to}")


def _print_counts(dataset: Dataset) -> None:
    from rich.console import Console
    from rich.table import Table

    splits = sorted({study.split for study in dataset.studies}, key=["train", "val", "test"].index)
    rows: dict[str, Counter[str]] = {
        name: Counter() for name in ("studies", "patients", "reports", "findings", "boxes")
    }
    diseases: dict[str, Counter[str]] = {}
    for split in splits:
        studies = [study for study in dataset.studies if study.split == split]
        rows["studies"][split] = len(studies)
        rows["patients"][split] = len({(study.source, study.patient_id) for study in studies})
        rows["reports"][split] = sum(study.report is not None for study in studies)
        for finding in (finding for study in studies for finding in study.findings):
            rows["findings"][split] += 1
            rows["boxes"][split] += len(finding.boxes)
            if finding.disease is not None and finding.boxes:
                diseases.setdefault(finding.disease, Counter())[split] += 1
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for split in splits:
        table.add_column(split, justify="right")
    for name, counts in rows.items():
        table.add_row(name, *(str(counts[split]) for split in splits))
    for name, counts in sorted(diseases.items()):
        table.add_row(f"  {name}, with boxes", *(str(counts[split]) for split in splits))
    console = Console()
    console.print(table)
    console.print(f"skipped {len(dataset.skipped)}, hash {dataset.hash[:16]}", highlight=False)
    for problem in dataset.skipped:
        console.print(f"  {problem.reason}", highlight=False, markup=False, soft_wrap=True)
