"""`boxmed evaluate` and `boxmed compare`: which model is measured on what, and the tables on the terminal.

What lives here: resolving options and printing. What does not: asking the model (stages/held_out.py), figures,
comparison and files (evaluate/).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from boxmed_ray.config import ConfigError, RunConfig, load_config, parse_config

if TYPE_CHECKING:
    from boxmed_ray.stages.held_out import Adapter

_CONFIG, _DONE = "config.yaml", "evaluation.json"


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured.

    Attributes:
        name: of the evaluation.
        config: with the overrides.
        model: folder of the backbone.
        adapter: folder of the adapter that writes reports, or None.
        run: folder of the run it belongs to, if any.
        own_data: the data set is that of the run, which lies in its folder.
    """

    name: str
    config: RunConfig
    model: Path
    adapter: Path | None
    run: Path | None
    own_data: bool


def evaluate(
    what: Path,
    adapter: Path | None,
    overrides: Sequence[str],
    recipe: str | None,
    out: Path | None,
    resamples: int,
    adapter_for: str = "reports",
) -> None:
    """Ask, measure, write the folder and print the tables.

    Raises:
        ConfigError: no model there, an adapter that is none, ``out`` holds an evaluation, or a judge is not there.
        DataError, PoolError: as ``load_studies`` and the rollout pool raise.
    """
    if adapter_for not in ("reports", "all"):
        raise ConfigError(f"--adapter-for {adapter_for}: must be reports or all")
    subject = find_subject(what, adapter, overrides, recipe)
    out = out or Path("evaluations", subject.name)
    if (out / _DONE).exists():
        raise ConfigError(f"--out {out}: holds an evaluation; give another folder")
    lora = _adapter(subject.adapter, subject.model, for_all=adapter_for == "all")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # scorers list the weights that they leave out
    from boxmed_ray.data.load import load_studies
    from boxmed_ray.evaluate.judge_scores import check_judges
    from boxmed_ray.evaluate.tables import show_evaluation
    from boxmed_ray.measure import Measured, write_measured
    from boxmed_ray.stages.held_out import answer_held_out
    from boxmed_ray.tracking import read_metrics

    check_judges(subject.config.evaluate.judges)
    folder = subject.run / "data" if subject.run and subject.own_data else out / "data"
    dataset = load_studies(subject.config.data, subject.config.seed, folder)
    with_adapter = f", adapter {lora.folder} for {adapter_for}" if lora else ", no adapter"
    print(
        f"evaluate {subject.name}: model {subject.model}{with_adapter}, {len(dataset.split('test'))} held-out studies",
        file=sys.stderr,
    )
    answers = answer_held_out(subject.config, dataset, subject.model, lora)
    measured = Measured(subject.name, subject.model, lora, subject.config)
    metrics = subject.run / "metrics.jsonl" if subject.run else None
    lines = read_metrics(metrics) if metrics is not None and metrics.is_file() else []
    show_evaluation(write_measured(out, measured, dataset, answers, resamples, lines))
    print(f"written to {out}")


def find_subject(what: Path, adapter: Path | None, overrides: Sequence[str], recipe: str | None) -> Subject:
    """The model that is meant by a run folder, or by a model folder in a run or outside of any.

    Raises:
        ConfigError: it is neither, or a recipe is given for a run, which has its own.
    """
    what = what.expanduser().resolve()
    run = next((folder for folder in (what, *what.parents[:3]) if (folder / _CONFIG).is_file()), None)
    if recipe is not None and run is not None:
        raise ConfigError(f"--recipe {recipe}: {run} has a configuration of its own; change it with --set")
    if what != run and not (what / "config.json").is_file():
        raise ConfigError(
            f"{what}: is neither a run folder ({_CONFIG}) nor a model folder (config.json); give one of the two"
        )
    if run is not None:
        text = (run / _CONFIG).read_text()
        config = parse_config(text, str(run / _CONFIG), overrides)
        trained = parse_config(text, str(run / _CONFIG))
        own = (trained.data, trained.seed) == (config.data, config.seed)
    else:
        config, own = load_config(recipe, overrides) if recipe else parse_config("", "--set", overrides), False
    if what != run:
        parts = what.relative_to(run).parts if run is not None else (what.name,)
        name = "-".join([*([run.name] if run else []), *(part for part in parts if part not in ("stages", "model"))])
        return Subject(name, config, what, adapter, run, own)
    stages = run / "stages"
    done = [s for s in ("adapter", "svr", "mcl") if (stages / s / "done.json").is_file()]
    model = next((stages / s / "model" for s in done if (stages / s / "model").is_dir()), None)
    if model is None and "adapter" in done:  # of a run that skips what trains the backbone
        name = config.model.name_or_path
        model = stages / "init" / "model" if name == "tiny" else Path(name)
    if model is None:
        raise ConfigError(f"{run}: neither MCL nor SVR is done; go on with it: boxmed train --resume {run.name}")
    its_own = stages / "adapter" / "adapter"
    return Subject(run.name, config, model, adapter or (its_own if its_own.is_dir() else None), run, own)


def compare(first: Path, second: Path, out: Path | None, resamples: int) -> None:
    """Print whether the first evaluation is better than the second, and write comparison.csv and comparison.html.

    Raises:
        ConfigError: a folder is no evaluation, the samples differ, or ``out`` exists.
    """
    from boxmed_ray.evaluate.comparison import compare_samples
    from boxmed_ray.evaluate.comparison_page import Side, write_comparison_page
    from boxmed_ray.evaluate.curves import CURVES, read_curves
    from boxmed_ray.evaluate.evaluation import read_evaluation
    from boxmed_ray.evaluate.tables import baselines_beside, comparison_csv, show_comparison

    if out is not None and out.exists():
        raise ConfigError(f"--out {out}: exists; give a folder that does not")
    (one, ours), (two, theirs) = read_evaluation(first), read_evaluation(second)
    found = compare_samples(ours, theirs, resamples)
    # One run may have been evaluated twice, with the adapter and without.
    names = (one.name, two.name) if one.name != two.name else (str(first), str(second))
    beside = baselines_beside(one, two)
    show_comparison(*names, found, {**one.missing, **two.missing}, beside)
    if out is not None:
        left = Side(names[0], ours, read_curves(first / CURVES))
        right = Side(names[1], theirs, read_curves(second / CURVES))
        write_comparison_page(out / "comparison.html", found, left, right, beside)
        (out / "comparison.csv").write_text(comparison_csv(found, beside), encoding="utf-8", newline="")
        print(f"written to {out}")


def _adapter(folder: Path | None, model: Path, *, for_all: bool) -> Adapter | None:
    from boxmed_ray.model.adapter_fit import check_adapter
    from boxmed_ray.stages.held_out import Adapter

    if folder is None:
        return None
    folder = folder.expanduser().resolve()
    try:
        rank = int(json.loads((folder / "adapter_config.json").read_text())["r"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"--adapter {folder}: no adapter_config.json with a rank r; give a PEFT folder") from error
    check_adapter(folder, model)
    return Adapter(folder, rank, for_all)
