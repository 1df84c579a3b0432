"""What is asked of the engine and what it answers, free of vLLM.

What lives here: a question, how it is sampled, what came out and what it cost. What does not: the engine (engine.py),
which questions make a report (grounded.py) or a chat (chat.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from boxmed_ray.data.prompts import Task


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen; the default is greedy.

    Attributes:
        temperature: 0 is greedy.
        top_p: share of probability that is sampled from, above 0 and at most 1.
        seed: of this question's sampling; None leaves it to the engine.
        stop: texts that end the answer and are not part of it.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


GREEDY = Sampling()


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt, about one image or none.

    Attributes:
        task: one of training's prompts, with its ``phrase``; or None, and ``turns`` hold a conversation.
        phrase: of a grounding prompt.
        max_new_tokens: at most.
        adapter: name of the one that answers; None: the backbone alone.
        sampling: how.
        turns: messages as ``processor.apply_chat_template`` takes them.
    """

    task: Task | None
    phrase: str | None
    max_new_tokens: int
    adapter: str | None = None
    sampling: Sampling = GREEDY
    turns: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """What the engine wrote.

    Attributes:
        text: the answer.
        truncated: the token limit ended it, not the model.
        prompt_tokens: of the prompt, those of the image among them; 0 where the prompt did not fit.
        cached_tokens: of these, found in the prefix cache.
        tokens: of the answer.
    """

    text: str
    truncated: bool
    prompt_tokens: int = 0
    cached_tokens: int = 0
    tokens: int = 0


class EngineDeadError(RuntimeError):
    """The engine has failed and answers no more; the replica must be replaced."""


Listener = Callable[[int, str], None]
"""Told the number of a question and the text that was added to its answer; from another thread."""


class Engine(Protocol):
    """The part of the engine that is needed here."""

    async def ask(
        self, image: Image.Image | None, questions: Sequence[Question], listener: Listener | None = None
    ) -> list[Completion]:
        """Answer all ``questions`` about ``image`` in one batch, in their order; raises EngineDeadError."""
        ...
