from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from boxmed_ray.config import RunConfig
from boxmed_ray.data.prompts import Coordinates, Task
from serve.grounded import Reporter, Wanted, asked_phrase, read_concepts, read_sentence, split_sentences
from serve.questions import Completion, Listener, Question


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", []),
        ("  \n ", []),
        ("No pneumothorax.", ["No pneumothorax."]),
        ("No full stop", ["No full stop"]),
        ("A 3.2 cm nodule. No effusion.", ["A 3.2 cm nodule.", "No effusion."]),
        ("Nodule of 3.2 cm. No effusion.", ["Nodule of 3.2 cm.", "No effusion."]),
        ("A nodule of 4 mm. in the left lung.", ["A nodule of 4 mm. in the left lung."]),
        ("Tip at T4.5 level. Clear.", ["Tip at T4.5 level.", "Clear."]),
        ("Is there an effusion? No! Clear.", ["Is there an effusion?", "No!", "Clear."]),
        ("Seen by Dr. Smith. Stable vs. prior.", ["Seen by Dr. Smith.", "Stable vs. prior."]),
        ("Opacity, e.g. pneumonia. Clear.", ["Opacity, e.g. pneumonia.", "Clear."]),
        ("Compared with no. 3 of the series. Is it new? no. It is old.",
         ["Compared with no. 3 of the series.", "Is it new?", "no.", "It is old."]),
        ("1. Cardiomegaly. 2. No effusion.", ["Cardiomegaly.", "No effusion."]),
        ("- Cardiomegaly\n- No effusion", ["Cardiomegaly", "No effusion"]),
        ("Heart is enlarged\nLungs clear.", ["Heart is enlarged", "Lungs clear."]),
        ('He said "clear." Then more.', ['He said "clear."', "Then more."]),
        ("Unclear... Possibly effusion.", ["Unclear...", "Possibly effusion."]),
        ("the heart is large. the lungs are clear.", ["the heart is large.", "the lungs are clear."]),
        ("...", []),
    ],
)  # fmt: skip
def test_sentences_end_where_a_reader_ends_them(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


@settings(deadline=None)
@given(st.text(alphabet=st.sampled_from("aZ39 .!?\n\"'()-cmno"), max_size=60))
def test_no_letter_is_lost_and_none_is_doubled(text: str) -> None:
    letters = re.findall(r"[A-Za-z]", text)
    assert re.findall(r"[A-Za-z]", "".join(split_sentences(text))) == letters


@settings(deadline=None)
@given(st.lists(st.decimals(min_value=0, max_value=99, places=1), min_size=1, max_size=5))
def test_decimals_stay_whole(numbers: list[object]) -> None:
    sentences = [f"A nodule of {number} cm is seen." for number in numbers]
    assert split_sentences(" ".join(sentences)) == sentences


@pytest.mark.parametrize(
    ("sentence", "phrase"),
    [
        ("There is a nodule.", "There is a nodule."),
        ("No pneumothorax.", "No pneumothorax."),
        ("A <|image_pad|> nodule</answer>.", "A nodule ."),
    ],
)
def test_the_backbone_is_asked_for_the_words_of_a_sentence(sentence: str, phrase: str) -> None:
    assert asked_phrase(sentence) == phrase


@pytest.mark.parametrize(
    ("coordinates", "answer"),
    [
        # The right half of the upper half of a 300 x 200 image, seen by the model as 56 x 56.
        ("permille", "[500, 0, 1000, 500]"),
        ("unit", "[0.500, 0.000, 1.000, 0.500]"),
        ("pixel", "[28, 0, 56, 28]"),
    ],
)
def test_boxes_come_back_in_pixels_of_the_sent_image(coordinates: Coordinates, answer: str) -> None:
    completion = Completion(f"<think>Lung Lesion -> left lung</think><answer>{answer}</answer>", truncated=False)
    sentence = read_sentence("A nodule.", completion, 300, 200, coordinates, side=56)
    assert sentence.boxes == [(150.0, 0.0, 300.0, 100.0)]
    assert (sentence.disease, sentence.region, sentence.malformed) == ("Lung Lesion", "left lung", False)


def test_several_boxes_keep_their_order() -> None:
    completion = Completion("<think>x</think><answer>[0, 0, 100, 100], [500, 500, 600, 600]</answer>", truncated=False)
    sentence = read_sentence("A.", completion, 1000, 2000, "permille", side=56)
    assert sentence.boxes == [(0.0, 0.0, 100.0, 200.0), (500.0, 1000.0, 600.0, 1200.0)]


def test_an_explicit_none_is_no_box_and_well_formed() -> None:
    sentence = read_sentence(
        "No.", Completion("<think>none</think><answer>none</answer>", False), 10, 10, "permille", 56
    )
    assert (sentence.boxes, sentence.malformed) == ([], False)


@pytest.mark.parametrize(
    "text",
    [
        "", "gibberish", "<think>a</think><answer>[1, 2, 3]</answer>", "<think>a</think><answer>[9, 9, 1, 1]</answer>",
        "<think>a</think><answer>[0, 0, 2000, 10]</answer>", "<think>a</think><answer>[0, 0, 10",
        "<think>a</think><answer>none</answer> and more",
    ],
)  # fmt: skip
def test_an_answer_that_cannot_be_read_is_told_as_such(text: str) -> None:
    sentence = read_sentence("A.", Completion(text, truncated=True), 10, 10, "permille", side=56)
    assert sentence.boxes is None
    assert sentence.malformed
    assert sentence.truncated


@pytest.mark.parametrize(
    ("reasoning", "concepts"),
    [
        ("Lung Lesion -> left lung", ("Lung Lesion", "left lung")),
        ("A small nodule -> Lung Lesion -> left lung", ("Lung Lesion", "left lung")),
        ("pleural effusion → Left Lung.", ("Pleural Effusion", "left lung")),
        ("left lung", (None, "left lung")),
        ("none", (None, None)),
        ("", (None, None)),
        ("Lung Lesions of the left lung", (None, None)),
    ],
)
def test_concepts_are_read_only_where_the_reasoning_names_them(
    reasoning: str, concepts: tuple[str | None, str | None]
) -> None:
    assert read_concepts(reasoning) == concepts


class Recorder:
    """Writes down what is asked, and answers every question with the same words."""

    def __init__(self) -> None:
        self.asked: list[Sequence[Question]] = []

    async def ask(
        self, image: Image.Image | None, questions: Sequence[Question], listener: Listener | None = None
    ) -> list[Completion]:
        self.asked.append(questions)
        return [Completion("First nodule. No effusion. Third. Fourth.", truncated=False) for _ in questions]


def test_the_adapter_is_asked_once_and_the_backbone_once_for_all_sentences() -> None:
    config, recorder = RunConfig(), Recorder()
    reporter = Reporter(recorder, config, max_sentences=3)
    written = asyncio.run(reporter.write(Image.new("RGB", (56, 56)), 300, 200, Wanted("a")))
    report, sentences = recorder.asked
    assert list(report) == [Question(Task.REPORT, None, config.evaluate.report_tokens, "a")]
    assert [(q.task, q.phrase, q.adapter) for q in sentences] == [
        (Task.GROUND, "First nodule.", None),
        (Task.GROUND, "No effusion.", None),
        (Task.GROUND, "Third.", None),
    ]
    assert [sentence.text for sentence in written.sentences] == ["First nodule.", "No effusion.", "Third."]
    assert written.report.endswith("Fourth.")
