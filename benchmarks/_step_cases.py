"""What the step benchmark measures: its shapes, and for each a model folder, prompts and a configuration.

What lives here: those, made once and read by both sides. What does not: either side's loop.

Response lengths must be alike on both sides and uneven where real ones are, so they come from the
model: ``taught`` ones write well-formed answers, ``drawn`` ones end with equal chance at every token.
"""

from __future__ import annotations

import math
import pickle
from dataclasses import dataclass, field
from pathlib import Path

import torch
from _common import say

from boxmed_ray.actors.types import Prompt
from boxmed_ray.config import DataConfig, ModelConfig, ResourcesConfig, RunConfig, SVRConfig, load_config
from boxmed_ray.data.examples import corpus, ground_prompts, mcl_examples
from boxmed_ray.data.load import Dataset, load_studies
from boxmed_ray.data.prompts import Task
from boxmed_ray.model import policy
from boxmed_ray.model.collate import GroupEncoder
from boxmed_ray.model.shared_prefix import GroupInputs, response_logprobs
from boxmed_ray.model.tiny import build_tiny
from boxmed_ray.stages.evaluation import prompt_of

_BATCH = 16
_STUDIES = 192
"""Enough that every step of a run but those of demo-64 sees images it has not seen, as in training."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One workload.

    Attributes:
        image_size: side in pixels; (side / 28)² image tokens.
        prompts: groups a step.
        group_size: responses a prompt.
        cap: tokens of a response at most.
        hazard: chance in 1/tokens that a response ends at a token; 0 takes a model taught to answer in form.
        recipe: the model is the demo recipe's instead of one of 192 x 4 layers with Qwen2-VL's patches of 14 px.
        lr: of both sides. Small where nothing is to be learned, so that lengths stay as they are.
        rewards: name → weight. ``length`` lets rewards differ inside a group where no answer is well formed.
    """

    name: str
    image_size: int
    prompts: int
    group_size: int
    cap: int
    hazard: float = 0.0
    recipe: bool = False
    lr: float = 1e-6
    rewards: dict[str, float] = field(default_factory=lambda: {"iou": 1.0, "format": 1.0})

    @property
    def samples(self) -> int:
        """Responses a step."""
        return self.prompts * self.group_size

    @property
    def image_tokens(self) -> int:
        """Tokens of one image at most."""
        return (self.image_size // 28) ** 2


_ANY = {"iou": 1.0, "format": 1.0, "length": 1.0}
SHAPES = {
    "demo": Shape("demo", 112, prompts=2, group_size=8, cap=64),
    "demo-64": Shape("demo-64", 112, prompts=8, group_size=8, cap=64),
    "recipe": Shape("recipe", 112, prompts=32, group_size=8, cap=48, recipe=True),
    # A cap of 256 cuts one in five: the mean is 160 (1 − e^(−256/160)) = 128.
    "real": Shape("real", 672, prompts=1, group_size=16, cap=256, hazard=1 / 160, rewards=_ANY),
}
QUICK = {
    "demo": Shape("demo", 112, prompts=1, group_size=4, cap=32, hazard=1 / 20, rewards=_ANY),
    "real": Shape("real", 672, prompts=1, group_size=4, cap=32, hazard=1 / 20, rewards=_ANY),
}


@dataclass(frozen=True, slots=True)
class Case:
    """A shape with what both sides read.

    Attributes:
        model: folder of the policy, which is the frozen reference too.
        prompts: of all steps in order, ``shape.prompts`` a step.
    """

    shape: Shape
    config: RunConfig
    model: Path
    prompts: list[Prompt]

    def save(self, path: Path) -> None:
        """For the worker processes."""
        path.write_bytes(pickle.dumps(self))

    @staticmethod
    def load(path: Path) -> Case:
        """What ``save`` wrote, in a process started by the one that wrote it."""
        case: Case = pickle.loads(path.read_bytes())
        return case


def prepare(shape: Shape, steps: int, folder: Path, teach_steps: int) -> Path:
    """Make the case of ``shape`` for ``steps`` steps below ``folder``; the path of its file."""
    torch.set_num_threads(1)  # two would spin against whatever else runs
    say(f"{shape.name}: {shape.samples} responses a step, image of {shape.image_size} px, cap {shape.cap}")
    config = _config(shape, steps)
    dataset = load_studies(config.data, config.seed, folder / "data")
    examples = ground_prompts(dataset.split("train"), steps * shape.prompts, none_share=0.05, seed=config.seed)
    kind = f"ends-{1 / shape.hazard:.0f}" if shape.hazard else "taught-recipe" if shape.recipe else "taught"
    model = folder / f"model-{shape.image_size}-{kind}"
    if not model.is_dir():
        part = model.with_suffix(".part")
        build_tiny(config.model, shape.image_size, corpus(dataset.split("train")), config.seed, part)
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            if shape.hazard:
                _draw_lengths(part, dataset, config, shape.hazard)
            else:
                _teach(part, dataset, config, teach_steps)
        part.rename(model)
    case = Case(shape, config, model.resolve(), [prompt_of(example) for example in examples])
    path = folder / f"case-{shape.name}.pkl"
    case.save(path)
    return path


def _config(shape: Shape, steps: int) -> RunConfig:
    length = shape.image_tokens + shape.cap + 64  # the chat turn around the image has some 30
    model = ModelConfig(hidden_size=192, layers=4, vision_hidden_size=128, vision_layers=3, patch_size=14)
    if shape.recipe:
        model = load_config("phantom-cpu").model
    return RunConfig(
        name="benchmark-step",
        data=DataConfig(kind="phantom", train_studies=_STUDIES, test_studies=4, image_size=shape.image_size),
        model=model.model_copy(update={"max_length": length}),
        svr=SVRConfig(
            steps=steps, prompts_per_step=shape.prompts, group_size=shape.group_size, max_new_tokens=shape.cap,
            rewards=shape.rewards, lr=shape.lr, warmup_steps=0, min_lr_ratio=1.0, kl_beta=0.01, micro_tokens=5120,
            checkpoint_every=steps + 1,
        ),
        resources=ResourcesConfig(
            train_workers=1, learner_ranks=1, rollout_workers=1, reward_workers=1, threads=1,
            max_sequences=max(16, shape.samples),
        ),
    )  # fmt: skip


def _teach(folder: Path, dataset: Dataset, config: RunConfig, steps: int) -> None:
    """Supervise the model of ``folder`` on the run's chains until it answers in form."""
    say(f"teaching the demo's model to answer: {steps} steps of {_BATCH}")
    model, processor = policy.load_policy(folder), policy.load_processor(folder)
    encoder = GroupEncoder(processor, config.data.image_size)
    examples = mcl_examples(dataset.split("train"), steps * _BATCH, config=config.mcl, seed=config.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(steps):
        groups = [
            encoder.group(e.study.image, e.task, e.phrase, [encoder.response_ids(e.response)])
            for e in examples[step * _BATCH : (step + 1) * _BATCH]
        ]
        out = response_logprobs(model, groups)
        loss = -torch.cat([logprobs.flatten() for logprobs in out.logprobs]).sum()
        loss = loss / sum(int(mask.sum()) for mask in out.mask)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 25 == 0:
            say(f"step {step}: loss {loss.item():.3f}")
    say(f"loss {loss.item():.3f}")
    policy.save_policy(model, processor, folder)


def _draw_lengths(folder: Path, dataset: Dataset, config: RunConfig, hazard: float) -> None:
    """Let the untrained model of ``folder`` end with chance ``hazard`` at every token.

    All embeddings get a large equal first component, so the final hidden state has one of a known
    size; the end token's own is raised by what its logit needs.
    """
    model, processor = policy.load_policy(folder), policy.load_processor(folder)
    tokenizer = processor.tokenizer
    embeddings, end = model.get_input_embeddings().weight, tokenizer.eos_token_id
    banned = policy.vision_token_ids(tokenizer)
    with torch.no_grad():
        for matrix in (parameter for parameter in model.parameters() if parameter.dim() > 1):
            # As small as published models start: all tokens are about equally likely.
            matrix.mul_(0.02 / model.config.text_config.initializer_range)
        embeddings[:, 0] = 0.5
        for _ in range(3):  # raising the end token's component changes the hidden states a little
            ends, first = _end_statistics(model, processor, dataset, config)
            embeddings[end, 0] += (math.log(hazard / (1 - hazard)) - ends) / first
    ends, _ = _end_statistics(model, processor, dataset, config)
    say(f"untrained model ends with chance 1/{1 + math.exp(-ends):.0f} at a token; {len(banned)} ids are banned")
    policy.save_policy(model, processor, folder)


@torch.no_grad()
def _end_statistics(
    model: torch.nn.Module, processor: object, dataset: Dataset, config: RunConfig
) -> tuple[float, float]:
    """Mean log-odds of the end token after random response tokens, and the hidden state's mean first component."""
    tokenizer = processor.tokenizer  # type: ignore[attr-defined]
    banned, end = policy.vision_token_ids(tokenizer), tokenizer.eos_token_id
    encoder = GroupEncoder(processor, config.data.image_size)
    study = dataset.split("train")[0]
    plain = [i for i in range(len(tokenizer)) if i not in {end, *banned}]
    words = torch.tensor(plain)[torch.randint(len(plain), (64,))]
    inputs: GroupInputs = encoder.group(study.image, Task.GROUND, "No nodule.", [words])
    ids = torch.cat([inputs.prompt_ids, words])[None]
    hidden = model.model(  # type: ignore[operator, union-attr]
        input_ids=ids,
        pixel_values=inputs.pixel_values,
        image_grid_thw=inputs.image_grid_thw,
        mm_token_type_ids=(ids == model.config.image_token_id).int(),  # type: ignore[union-attr]
    ).last_hidden_state[0, len(inputs.prompt_ids) :]
    logits = model.lm_head(hidden)  # type: ignore[operator]
    logits[:, banned] = float("-inf")
    chance = logits.softmax(-1)[:, end].mean()
    return float(torch.logit(chance)), float(hidden[:, 0].mean())
