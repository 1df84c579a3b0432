"""Text figures against COCO's captioning scorers, sacrebleu's own corpus score and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from boxmed_ray.evaluate.meteor import _wordnet, meteor
from boxmed_ray.evaluate.report_figures import score_figures, text_figures
from boxmed_ray.evaluate.text import bleu_4
from rewards.scorers import MissingScorerError
from rewards.text.bleu import word_tokens

REFERENCES = [
    "There is a small nodule in the left lung. The heart size is normal. No pleural effusion.",
    "The heart is enlarged. There is a large right pleural effusion. No pneumothorax.",
    "No acute cardiopulmonary process, 1.5 cm granuloma on the right side.",
    "Low lung volumes.",
]
HYPOTHESES = [
    "There is a large nodule in the left lung. The heart size is normal. No effusion.",
    "The heart is enlarged. There is a small right pleural effusion. There is no pneumothorax.",
    "No acute process, granuloma.",
    "Clear.",
]
COCO_BLEU = (0.744114161176496, 0.6637780721844531, 0.5937703244363178, 0.5358856848218939)
COCO_ROUGE = (0.9188284518828452, 0.891812865497076, 0.5922330097087379, 0.31443298969072164)
"""What pycocoevalcap 1.2 gives for these texts as ``word_tokens``: BLEU-1 to 4 of the corpus, ROUGE-L of each."""
_ABSENT = "pycocoevalcap is not installed: nothing to agree with (pip install --no-deps pycocoevalcap)"
STUDIES = ["a", "b", "c", "d"]


def _for_coco(texts: list[str]) -> dict[int, list[str]]:
    return {i: [" ".join(word_tokens(text))] for i, text in enumerate(texts)}


def test_bleu_and_rouge_l_are_what_cocos_scorers_gave_for_the_same_tokens():
    found = text_figures(REFERENCES, HYPOTHESES, STUDIES)
    assert [found.values()[f"bleu_{n}"] for n in (1, 2, 3, 4)] == pytest.approx(COCO_BLEU, abs=1e-3)
    assert found.columns["rouge_l_coco"] == pytest.approx(COCO_ROUGE, abs=1e-3)


def test_bleu_agrees_with_cocos_scorer_on_the_same_tokens():
    bleu = pytest.importorskip(
        "pycocoevalcap.bleu.bleu", reason="pycocoevalcap is not installed: nothing to agree with"
    )
    theirs, _ = bleu.Bleu(4).compute_score(_for_coco(REFERENCES), _for_coco(HYPOTHESES), verbose=0)
    ours = text_figures(REFERENCES, HYPOTHESES, STUDIES).values()
    assert [ours[f"bleu_{n}"] for n in (1, 2, 3, 4)] == pytest.approx(theirs, abs=1e-3)
    assert theirs == pytest.approx(COCO_BLEU)


def test_rouge_l_agrees_with_cocos_scorer_on_the_same_tokens():
    rouge = pytest.importorskip("pycocoevalcap.rouge.rouge", reason=_ABSENT)
    mean, each = rouge.Rouge().compute_score(_for_coco(REFERENCES), _for_coco(HYPOTHESES))
    assert each == pytest.approx(COCO_ROUGE)
    found = text_figures(REFERENCES, HYPOTHESES, STUDIES)
    assert found.values()["rouge_l_coco"] == pytest.approx(mean, abs=1e-3)
    assert found.columns["rouge_l_coco"] == pytest.approx(each, abs=1e-3)


def test_a_resample_is_the_corpus_score_of_the_chosen_reports():
    figure = next(f for f in text_figures(REFERENCES, HYPOTHESES, STUDIES).figures if f.name == "bleu_4")
    rows = [0, 0, 2, 1]
    expected = bleu_4([REFERENCES[i] for i in rows], [HYPOTHESES[i] for i in rows])
    assert figure.statistic(np.array(rows)) == pytest.approx(expected)


def test_an_empty_report_is_zero_everywhere():
    found = text_figures(["No effusion."], [""], ["a"])
    assert set(found.values().values()) == {0.0}
    assert all((values == 0).all() for values in found.columns.values())


def test_less_radcliq_is_better_and_a_mean_is_a_mean():
    figures = score_figures({"radcliq_v1": [1.0, 2.0], "bertscore": [0.5, 0.0]}, ["a", "b"])
    assert {figure.name: figure.sign for figure in figures.figures} == {"radcliq_v1": -1, "bertscore": 1}
    assert figures.values() == {"radcliq_v1": 1.5, "bertscore": 0.25}


def test_meteor_matches_stems_and_synonyms_where_wordnet_is():
    try:
        same, stem, synonym, far = meteor(
            ["he is quite ill"] * 4, ["he is quite ill", "he is quite ills", "he is quite sick", "normal heart"]
        )
    except MissingScorerError as error:
        pytest.skip(str(error))
    assert same == stem == synonym == pytest.approx(1 - 0.5 / 4**3)  # one chunk of four matches
    assert far == 0


def test_meteor_without_wordnet_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    import nltk

    _wordnet.cache_clear()
    monkeypatch.setattr(nltk.data, "path", [])
    with pytest.raises(MissingScorerError, match="python -m nltk"):
        meteor(["a"], ["a"])
    _wordnet.cache_clear()
