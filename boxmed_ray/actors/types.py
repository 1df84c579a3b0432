"""What travels between driver, rollout workers, reward actors and learner ranks.

What lives here: small frozen records, light enough to pickle by the thousand. What does not: pixels
(every actor opens and caches an image once, by study id) and Ray itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from boxmed_ray.data.prompts import Task
from boxmed_ray.data.study import Box

Measured = Mapping[str, tuple[float, float]]
"""Name → mean and standard deviation over some responses: ``reward``, habits (rewards/habits.py), HELD_OUT scorers."""
HELD_OUT = "held_out."
"""Before the name of a scorer that measures and does not reward."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question about one image.

    Attributes:
        id: unique within a step.
        study_id: key under which actors cache the image.
        image: path of the stored image.
        width, height: pixels of the stored image, in which ``targets`` are.
        targets: the right boxes; empty means that ``none`` is right.
    """

    id: str
    task: Task
    phrase: str | None
    study_id: str
    image: str
    width: int
    height: int
    targets: tuple[Box, ...] = ()
    target_text: str | None = None

    @property
    def name(self) -> str:
        """The id for logs and messages: words of a report, which are a patient's, are not in it."""
        if not self.phrase or not self.id.endswith(self.phrase):
            return self.id
        short = hashlib.blake2b(self.phrase.encode(), digest_size=4).hexdigest()
        return self.id.removesuffix(self.phrase) + short


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled response.

    Attributes:
        token_ids: [R] int64, the response with its end-of-turn token when it finished.
        logprobs: [R] float32, of each token as sampled (temperature and banned ids applied).
        finish_reason: "stop" or "length".
        weight_version: learner updates behind the weights that sampled it.
        text: decoded, without the end-of-turn token.
    """

    token_ids: NDArray[np.int64]
    logprobs: NDArray[np.float32]
    finish_reason: str
    weight_version: int
    text: str

    @property
    def truncated(self) -> bool:
        """Whether the token cap cut the response off."""
        return self.finish_reason != "stop"


@dataclass(frozen=True, slots=True)
class Group:
    """The N rollouts of one prompt; scored and learned whole.

    Attributes:
        prompt_tokens: of the prompt with its image, as the sampler counted them; the learner's budget counts
            them once. 0 where nobody has counted.
    """

    prompt: Prompt
    rollouts: tuple[Rollout, ...]
    prompt_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """A group with its rewards, [N] each: the total, the parts by name, and what went wrong.

    Attributes:
        malformed: responses whose answer cannot be read.
        unscored: responses on which a scorer failed; they have the group's lowest reward, unless it failed on all.
    """

    group: Group
    rewards: NDArray[np.float32]
    components: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    malformed: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))
    unscored: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))
