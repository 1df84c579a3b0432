"""What measures: published scorers (``scorers``), judges and the held-out split (``evaluate``)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from boxmed_ray.config.base import Part


class ScorersConfig(Part):
    """Where published scorers lie; what is not named here is looked for below $BOXMED_SCORERS (docs/rewards.md)."""

    bertscore: Path | None = Field(None, description="Folder of distilroberta-base.")
    chexbert: Path | None = Field(None, description="Folder with chexbert.pth, configuration and tokenizer.")
    radgraph: Path | None = Field(None, description="RadGraph's archive, unpacked or not.")
    radgraph_xl: Path | None = Field(None, description="RadGraph-XL's archive, unpacked or not.")
    idf_corpus: Path | None = Field(None, description="Reports, one a line, whose words weigh BERTScore with IDF.")

    @property
    def paths(self) -> dict[str, Path]:
        """Name → path of those that are named."""
        return {name: path.expanduser() for name, path in self if path is not None}


class JudgeConfig(Part):
    """A language model that judges reports, at an OpenAI-compatible endpoint (docs/evaluation.md)."""

    url: str = Field(pattern=r"^https?://", description="Base address, as http://HOST:8000/v1.")
    model: str = Field(min_length=1, description="Name under which the endpoint serves it.")
    key_variable: str | None = Field(None, description="Environment variable that holds the key; null sends none.")
    form: Literal["schema", "published"] = Field(
        "schema",
        description="schema: our question, the reply held to a JSON schema; published: question_file is asked, and "
        "the reply read in the form that the metric's authors gave their judge.",
    )
    question_file: Path | None = Field(
        None, description="The question in form published, with {reference} and {candidate} where the reports go."
    )
    concurrency: int = Field(16, ge=1, description="Questions that wait for their replies at once.")
    max_tokens: int = Field(1024, ge=64, description="Cap of a reply; one that reaches it is unreadable.")
    timeout_s: float = Field(300, gt=0, description="Time-out of one reply.")
    retries: int = Field(3, ge=0, description="Further tries of a question after a failure of network or server.")

    @model_validator(mode="after")
    def _asks_what_the_judge_knows(self) -> JudgeConfig:
        if (self.form == "published") != (self.question_file is not None):
            raise ValueError(
                "form 'published' asks the question of question_file and form 'schema' asks its own; "
                "set both form=published and question_file, or neither"
            )
        return self


class JudgesConfig(Part):
    """Judges of reports; a metric without one is left out."""

    green: JudgeConfig | None = Field(None, description="GREEN (arXiv 2405.03595).")
    gema: JudgeConfig | None = Field(None, description="GEMA-Score (arXiv 2503.05347).")


class EvaluateConfig(Part):
    """Evaluation on held-out studies."""

    images: int = Field(500, ge=1, description="Held-out images at most.")
    temperature: float = Field(1.0, gt=0, description="Temperature of the sampled decoding.")
    report_tokens: int = Field(160, ge=8, description="Cap of a report.")
    concept_tokens: int = Field(160, ge=8, description="Cap of a chain of reasoning.")
    judges: JudgesConfig = JudgesConfig()
    second_reader: Path | None = Field(
        None,
        description="Manifest of held-out studies as another person read them: their agreement stands beside every "
        "figure of grounding (docs/evaluation.md).",
    )
