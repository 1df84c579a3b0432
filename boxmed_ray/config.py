"""Configuration: one pydantic model per part, one RunConfig over them; unknown keys are errors.

What lives here: fields, their meaning, defaults and ranges, and reading them from YAML and ``--set``.
What does not: torch, vLLM or Ray, so that a wrong key fails within a second.
"""

from __future__ import annotations

import importlib.resources
import re
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

RECIPES = importlib.resources.files("boxmed_ray") / "recipes"

Share = Annotated[float, Field(ge=0, le=1)]


class ConfigError(ValueError):
    """A configuration that cannot run. The message names the key, the value and the remedy."""


class Part(BaseModel):
    """Base of every part: unknown keys are errors, values are fixed after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(Part):
    """Where studies come from and how they are split."""

    kind: Literal[
        "phantom", "nih", "coco", "manifest", "ms-cxr", "latte-cxr", "mimic-cxr", "iu-xray", "vindr-cxr",
        "chest-imagenome", "padchest-gr",
    ] = Field("phantom", description="Which reader (data/readers).")  # fmt: skip
    root: Path | None = Field(None, description="Folder of the data set; phantoms are generated and need none.")
    train_studies: int = Field(4096, ge=8, description="Phantoms generated for training.")
    test_studies: int = Field(512, ge=4, description="Phantoms generated and held out.")
    test_share: Share = Field(
        0.2, description="Share of patients held out, for data sets without a split of their own."
    )
    image_size: int = Field(112, ge=28, multiple_of=28, description="Side of the square the model sees, in pixels.")
    coordinates: Literal["permille", "pixel", "unit"] = Field("permille", description="Meaning of numbers in answers.")
    concept_table: Path | None = Field(
        None, description="Table that maps reports onto the knowledge banks (docs/data.md); null: the shipped one."
    )
    skip_corrupt: bool = Field(
        False, description="Skip, count and list studies that cannot be read, instead of refusing."
    )

    @model_validator(mode="after")
    def _root_where_needed(self) -> DataConfig:
        if self.kind != "phantom" and self.root is None:
            raise ValueError(
                f"data.kind {self.kind!r} needs data.root, the folder of the data set (--set data.root=DIR)"
            )
        return self


class ModelConfig(Part):
    """Which backbone. ``tiny`` builds a small one from scratch; a path or hub name is loaded."""

    name_or_path: str = Field("tiny", description="'tiny', a local folder, or a hub name.")
    family: Literal["qwen2_vl", "qwen2_5_vl", "qwen3_vl"] = Field(
        "qwen2_vl", description="tiny: whose architecture it has."
    )
    hidden_size: int = Field(192, ge=32, multiple_of=32, description="tiny: width of the language model.")
    layers: int = Field(4, ge=1, description="tiny: layers of the language model.")
    vision_hidden_size: int = Field(128, ge=32, multiple_of=32, description="tiny: width of the vision tower.")
    vision_layers: int = Field(3, ge=1, description="tiny: layers of the vision tower.")
    patch_size: int = Field(28, ge=7, description="tiny: side of a vision patch in pixels; four make an image token.")
    warmup_steps: int = Field(300, ge=0, description="tiny: steps of 64 images that start its vision tower.")
    vocabulary: int = Field(768, ge=300, description="tiny: size at which the tokenizer stops merging.")
    max_length: int = Field(512, ge=64, description="Tokens of image, prompt and response that an engine holds.")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Weights in training and generation.")
    gradient_checkpointing: bool = Field(
        False, description="Compute layers again in the backward pass instead of keeping what is inside them."
    )


TrainedPart = Literal["language_model", "projector", "vision_tower"]


class LoraFields(Part):
    """The size of LoRA matrices (arXiv 2106.09685)."""

    rank: int = Field(8, ge=1, le=256, description="LoRA r.")
    alpha: int = Field(16, ge=1, description="LoRA alpha; the product of the matrices is scaled by alpha / r.")
    dropout: Share = Field(0.0, description="LoRA dropout.")


class LoraConfig(LoraFields):
    """LoRA on parts of the model, which are frozen themselves."""

    parts: tuple[TrainedPart, ...] = Field(
        ("language_model",), min_length=1, description="Which parts get LoRA on their linear layers."
    )


class TrainableConfig(Part):
    """What a stage trains (arXiv 2504.18453, table 5). A part with LoRA is frozen whatever its switch says."""

    language_model: bool = Field(True, description="Train the language model, with its embeddings and head.")
    projector: bool = Field(True, description="Train what maps image features to tokens: the merger or mergers.")
    vision_tower: bool = Field(True, description="Train the vision tower without its mergers.")
    lora: LoraConfig | None = Field(None, description="LoRA on some parts; null for none, {} for the defaults.")

    @property
    def adapter_alone(self) -> bool:
        """Whether an adapter that vLLM can apply, LoRA on the language model, is all that trains."""
        return (
            self.lora is not None
            and self.lora.parts == ("language_model",)
            and not (self.projector or self.vision_tower)
        )

    @model_validator(mode="after")
    def _something_trains(self) -> TrainableConfig:
        if not (self.language_model or self.projector or self.vision_tower or self.lora):
            raise ValueError(
                "language_model, projector and vision_tower are all false and lora is null, so nothing would train; "
                "switch one on, or set lora"
            )
        return self


class SupervisedConfig(Part):
    """A supervised stage: AdamW, cosine, cross-entropy on the response tokens only."""

    steps: int = Field(300, ge=1, description="Optimiser steps.")
    epochs: float | None = Field(None, gt=0, description="Passes over the training examples, in the place of steps.")
    batch_size: int = Field(32, ge=1, description="Examples per step over all workers.")
    lr: float = Field(1e-3, gt=0, description="Peak learning rate.")
    warmup_steps: int = Field(20, ge=0, description="Linear warm-up.")
    min_lr_ratio: Share = Field(0.05, description="Learning rate at the end of the cosine, relative to the peak.")
    weight_decay: float = Field(0.01, ge=0, description="AdamW.")
    adam_beta2: float = Field(0.95, gt=0, lt=1, description="AdamW: memory of the squared gradient.")
    grad_clip: float = Field(1.0, gt=0, description="Global gradient norm above which gradients are scaled down.")
    checkpoint_every: int = Field(100, ge=1, description="Steps between checkpoints (one is also left on interrupt).")
    keep_checkpoints: int = Field(2, ge=1, description="Newest checkpoints that are kept; 2 survive damage to one.")
    zero_stage: Literal[0, 1, 2, 3] = Field(2, description="DeepSpeed ZeRO stage.")
    max_bad_steps: int = Field(3, ge=1, description="Steps in a row with a number not finite that stop the run.")


class MCLConfig(SupervisedConfig):
    """Medical concept learning."""

    train: TrainableConfig = TrainableConfig()
    report_share: Share = Field(0.0, description="Share of examples that ask for plain reports.")
    joint_share: Share = Field(0.0, description="Share of examples that ask for reports with boxes.")
    grounding_share: Share = Field(
        0.8, description="Share of the other examples that ask for boxes; the rest ask for chains."
    )
    noisy_box_share: Share = Field(1.0, description="Share of boxes drawn as a second reader would draw them.")
    box_jitter: float = Field(0.15, ge=0, le=1, description="Spread of a noisy box's sides, relative to side length.")
    box_margin: float = Field(
        0.0, ge=0, le=0.3, description="How far outward a noisy box's sides lie, relative likewise."
    )

    @model_validator(mode="after")
    def _shares_fit(self) -> MCLConfig:
        if self.report_share + self.joint_share > 1:
            raise ValueError(
                f"report_share {self.report_share:g} and joint_share {self.joint_share:g} are more than 1 together"
            )
        return self


class AdapterConfig(SupervisedConfig, LoraFields):
    """The downstream LoRA adapter on plain reports; the backbone is frozen.

    ``lora`` off or ``train_also`` is for comparison (arXiv 2504.18453, table 5): the stage then writes a whole model.
    """

    lora: bool = Field(True, description="Train LoRA on the language model.")
    train_also: tuple[TrainedPart, ...] = Field((), description="Parts of the backbone that are trained whole.")

    @property
    def train(self) -> TrainableConfig:
        """LoRA on the language model alone by default: vLLM serves adapters of no other part."""
        lora = LoraConfig(rank=self.rank, alpha=self.alpha, dropout=self.dropout) if self.lora else None
        return TrainableConfig(
            language_model="language_model" in self.train_also,
            projector="projector" in self.train_also,
            vision_tower="vision_tower" in self.train_also,
            lora=lora,
        )

    @model_validator(mode="after")
    def _something_trains(self) -> AdapterConfig:
        if not (self.lora or self.train_also):
            raise ValueError("lora is false and train_also is empty, so nothing would train; set one of the two")
        if self.lora and "language_model" in self.train_also:
            raise ValueError("the language model is frozen under LoRA; set lora=false, or leave it out of train_also")
        return self


class WatchConfig(Part):
    """What is measured beside the reward during SVR, and when that raises an alarm (docs/rewards.md)."""

    every: int = Field(5, ge=0, description="Updates between measurements; 0 measures nothing.")
    responses: int = Field(64, ge=2, description="Responses of a task that are measured, of as many prompts as can be.")
    scorers: tuple[str, ...] | None = Field(
        None, description="Rewards that measure; null for all that need nothing that is not loaded for the rewards."
    )
    window: int = Field(3, ge=1, description="Measurements over which the rules take the mean.")
    drift: float = Field(
        0.25, gt=0, description="Standard deviations of the starting model that the reward rises and other scores fall."
    )
    length_band: tuple[float, float] = Field(
        (0.6, 1.6), description="Mean length of a response, relative to the starting model's, that raises no alarm."
    )
    on_alarm: Literal["warn", "stop"] = Field(
        "warn", description="Go on, or stop the run with a checkpoint; --resume goes on in spite of it."
    )

    @model_validator(mode="after")
    def _band_holds_the_start(self) -> WatchConfig:
        low, high = self.length_band
        if not 0 <= low < 1 < high:
            raise ValueError(f"length_band {low:g}, {high:g} must hold 1, the starting model: [0.6, 1.6] for instance")
        return self


TaskName = Literal["grounding", "report", "joint"]


def _grounding_alone() -> dict[TaskName, float]:
    return {"grounding": 1.0}


class SVRConfig(Part):
    """Reinforcement by GRPO: spatially verifiable on grounding prompts, and on reports with and without boxes."""

    train: TrainableConfig = TrainableConfig()
    steps: int = Field(60, ge=1, description="Learner updates.")
    epochs: float | None = Field(None, gt=0, description="Passes over the training prompts, in the place of steps.")
    prompts_per_step: int = Field(32, ge=1, description="Groups per update.")
    group_size: int = Field(8, ge=2, description="N, responses sampled per prompt.")
    temperature: float = Field(1.0, gt=0, le=2, description="Sampling temperature.")
    max_new_tokens: int = Field(64, ge=8, description="Cap of a response.")
    tasks: dict[TaskName, Annotated[float, Field(ge=0)]] = Field(
        default_factory=_grounding_alone,
        description="What prompts ask for, and how often relative to each other: boxes, a report, a report with boxes.",
    )
    none_share: Share = Field(
        0.05, description="Share of grounding prompts about a denied finding, for which the answer is none."
    )
    lr: float = Field(1.5e-4, gt=0, description="Peak learning rate (AdamW).")
    warmup_steps: int = Field(5, ge=0, description="Linear warm-up.")
    min_lr_ratio: Share = Field(0.1, description="Cosine floor, relative to the peak.")
    weight_decay: float = Field(0.0, ge=0, description="AdamW.")
    adam_beta2: float = Field(0.999, gt=0, lt=1, description="AdamW: memory of the squared gradient.")
    grad_clip: float = Field(1.0, gt=0, description="Global gradient norm above which gradients are scaled down.")
    kl_beta: float = Field(0.01, ge=0, description="Weight of KL to the frozen reference; 0 runs no reference pass.")
    kl_kind: Literal["k1", "k2", "k3"] = Field("k3", description="KL estimator.")
    reference_device: Literal["learner", "cpu"] = Field(
        "learner", description="Where the reference waits between its passes; cpu costs a copy to the GPU per update."
    )
    kl_in: Literal["loss", "reward"] = Field(
        "loss", description="Where kl_beta times KL goes: a term of every token's loss, or off every response's reward."
    )
    clip_low: float = Field(0.2, gt=0, lt=1, description="ε_low.")
    clip_high: float = Field(0.28, gt=0, description="ε_high.")
    dual_clip: float | None = Field(
        None, gt=1, description="c: the loss of a token with negative advantage is at most c times its size."
    )
    ratio: Literal["token", "sequence"] = Field(
        "token", description="Importance ratio of each token, or of the whole response (GSPO; clip far closer then)."
    )
    scale: Literal["group", "batch", "none"] = Field("group", description="What advantages are divided by.")
    aggregation: Literal["token", "sequence", "constant"] = Field("token", description="How token losses are averaged.")
    constant_length: int | None = Field(
        None, ge=1, description="L of aggregation constant; max_new_tokens where it is not set."
    )
    inner_epochs: int = Field(1, ge=1, description="Updates per batch of rollouts.")
    importance_cap: float | None = Field(
        2.0, gt=0, description="C of the truncated importance correction; null corrects nothing."
    )
    max_staleness: int = Field(
        0,
        ge=0,
        description="Updates that generation may run ahead of the weights it samples from; 0 is strictly on-policy.",
    )
    dynamic_sampling: bool = Field(
        False, description="Learn only groups whose rewards differ, and draw further prompts for the others (DAPO)."
    )
    max_draws: int = Field(
        3, ge=1, description="dynamic_sampling: groups drawn for an update at most, in multiples of prompts_per_step."
    )
    overlong_buffer: int | None = Field(
        None, ge=1, description="Last tokens before max_new_tokens over which up to 1 is taken off the reward (DAPO)."
    )
    micro_tokens: int = Field(
        4096, ge=1, description="Tokens per forward and backward of a learner rank: prompts with image once, responses."
    )
    rewards: dict[str, float] = Field(
        default_factory=lambda: {"iou": 1.0, "format": 1.0},
        description="Reward names and their weights, for every task that task_rewards does not name.",
    )
    task_rewards: dict[TaskName, dict[str, float]] = Field(
        default_factory=dict, description="Task → reward names and their weights, in the place of rewards."
    )
    watch: WatchConfig = WatchConfig()
    shared_prompt: Literal["auto", "prefix_cache", "packed_row", "replicated"] = Field(
        "auto", description="How the learner computes a group (docs/training.md)."
    )
    checkpoint_every: int = Field(20, ge=1, description="Updates between checkpoints (one is also left on interrupt).")
    keep_checkpoints: int = Field(2, ge=1, description="Newest checkpoints that are kept, beside the best one.")
    reward_window: int = Field(
        10, ge=1, description="Updates over which the reward is averaged to tell the best checkpoint."
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(2, description="DeepSpeed ZeRO stage.")
    max_bad_updates: int = Field(3, ge=1, description="Updates in a row with a number not finite that stop the run.")

    push: Literal["auto", "shm", "object_store", "nccl", "ipc", "lora"] = Field(
        "auto", description="How weights reach the rollout workers; auto takes the cheapest that reaches all of them."
    )

    @property
    def adapter_rank(self) -> int:
        """Rank of the adapters that rollout workers are started for, 0 where whole weights are pushed to them."""
        fits = self.train.adapter_alone and self.push in ("auto", "lora")
        return self.train.lora.rank if fits and self.train.lora else 0

    @property
    def draws(self) -> int:
        """Prompts drawn for one update at most."""
        return self.prompts_per_step * (self.max_draws if self.dynamic_sampling else 1)

    @property
    def shares(self) -> dict[TaskName, float]:
        """Task → share of prompts, of the tasks that are asked."""
        total = sum(self.tasks.values())
        return {task: weight / total for task, weight in self.tasks.items() if weight}

    @property
    def routes(self) -> dict[TaskName, dict[str, float]]:
        """Task → rewards and their weights, of the tasks that are asked."""
        return {task: self.task_rewards.get(task, self.rewards) for task in self.shares}

    @model_validator(mode="after")
    def _asks_what_it_rewards(self) -> SVRConfig:
        if not sum(self.tasks.values()):
            raise ValueError("tasks names none that is asked; set svr.tasks={grounding: 1.0}, report or joint")
        unasked = [task for task in self.task_rewards if task not in self.shares]
        if unasked:
            raise ValueError(
                f"task_rewards has rewards for {' and '.join(unasked)}, which svr.tasks does not ask for; "
                f"set svr.tasks={{{unasked[0]}: 1.0}}, with the other tasks that are wanted, or leave them out"
            )
        return self

    @model_validator(mode="after")
    def _choices_agree(self) -> SVRConfig:
        if self.kl_in == "reward" and not self.kl_beta:
            raise ValueError("kl_in 'reward' takes nothing off with kl_beta 0; set svr.kl_beta, or svr.kl_in=loss")
        if self.constant_length is not None and self.aggregation != "constant":
            raise ValueError(
                f"constant_length {self.constant_length} has no part in aggregation {self.aggregation!r}; "
                "set svr.aggregation=constant, or leave it out"
            )
        if self.overlong_buffer is not None and self.overlong_buffer > self.max_new_tokens:
            raise ValueError(
                f"overlong_buffer {self.overlong_buffer} is longer than a response can be "
                f"(svr.max_new_tokens {self.max_new_tokens})"
            )
        return self

    @model_validator(mode="after")
    def _corrects_what_is_stale(self) -> SVRConfig:
        if self.max_staleness and self.importance_cap is None:
            raise ValueError(
                f"max_staleness {self.max_staleness} learns from older weights' responses and needs the importance "
                "correction; set svr.importance_cap, 2.0 for instance"
            )
        return self

    @model_validator(mode="after")
    def _what_is_pushed_is_what_trains(self) -> SVRConfig:
        if self.push == "lora" and not self.train.adapter_alone:
            raise ValueError(
                "push 'lora' sends the adapter alone, and vLLM applies adapters to the language model only, but other "
                "parts train or have LoRA; set svr.train.projector=false, svr.train.vision_tower=false and "
                "svr.train.lora={}, or svr.push=auto"
            )
        return self

    @model_validator(mode="after")
    def _learns_the_policy_that_sampled(self) -> SVRConfig:
        if self.train.lora and self.train.lora.dropout:
            raise ValueError(
                f"train.lora.dropout = {self.train.lora.dropout:g}: responses are sampled without dropout, so that "
                "with it another policy would be learned than the one that sampled; set it to 0"
            )
        return self


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


class PoolConfig(Part):
    """How many workers of a kind there are: ``4``, or ``{min: 1, max: 16}`` for as many as the load asks for."""

    min: int = Field(1, ge=0, description="Kept although idle; with 0 the first work starts one.")
    max: int = Field(1, ge=1, description="Never exceeded.")

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: Any) -> Any:
        return {"min": value, "max": value} if isinstance(value, int) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _ordered(self) -> PoolConfig:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


class ScalingConfig(Part):
    """How quickly pools with ``min`` below ``max`` follow their load (docs/rollouts.md)."""

    grow_after_s: float = Field(5, ge=0, description="Wait for queued work after which workers are added.")
    shrink_after_s: float = Field(
        120, gt=0, description="Workers that had no work for so long are ended. Above the time of a step."
    )
    start_timeout_s: float = Field(
        900, gt=0, description="Time-out of a worker's start, in which the cluster may first have to add a node."
    )


class ResourcesConfig(Part):
    """What a run occupies. The defaults fit two cores and no GPU."""

    train_workers: int = Field(2, ge=1, description="Ray Train workers of a supervised stage.")
    learner_ranks: int = Field(2, ge=1, description="DeepSpeed learner actors.")
    rollout_workers: PoolConfig = Field(PoolConfig(min=2, max=2), description="vLLM actors.")
    reward_workers: PoolConfig = Field(PoolConfig(min=1, max=1), description="Reward actors.")
    scaling: ScalingConfig = ScalingConfig()
    max_tries: int = Field(3, ge=1, description="Workers that may be lost on one group before it is given up.")
    threads: int = Field(1, ge=1, description="CPU threads of each actor.")
    gpus_per_learner: float = Field(0, ge=0, le=1, description="GPUs of a learner rank or train worker.")
    gpus_per_rollout: float = Field(
        0, ge=0, description="GPUs of a rollout worker; a whole number above 1 is its tensor-parallel size."
    )
    colocated: bool = Field(
        False, description="Each learner rank shares its GPU with a rollout worker; apart, each has its own."
    )
    gpu_memory_gb: float = Field(80, gt=0, description="Memory of each GPU; a run that cannot fit is refused.")
    cpus_per_reward: float = Field(
        0, ge=0, description="Cores of a reward worker in Ray's books; 0 fits in anywhere, above 0 asks for CPU nodes."
    )
    kv_cache_gb: float = Field(0.5, gt=0, description="vLLM's key-value cache: per worker, or on each of its GPUs.")
    max_sequences: int = Field(128, ge=1, description="Sequences a rollout worker runs at once.")
    phase_timeout_s: float = Field(
        300, gt=0, description="Time-out of one generation, scoring, update or push phase; what is later is replaced."
    )
    check_weights: bool = Field(
        False, description="Compare a digest of every push with what each worker loaded; costs seconds a gigabyte."
    )

    @property
    def tensor_parallel(self) -> int:
        """GPUs that share one rollout worker's engine."""
        return max(1, int(self.gpus_per_rollout))

    @property
    def on_gpus(self) -> bool:
        """Whether anything of the run is to have a GPU."""
        return bool(self.gpus_per_learner or self.gpus_per_rollout)

    @property
    def gpus(self) -> float:
        """GPUs that the fullest stage takes, all rollout workers counted."""
        learners = self.learner_ranks * self.gpus_per_learner
        rollouts = 0.0 if self.colocated else self.rollout_workers.max * self.gpus_per_rollout
        return max(learners + rollouts, self.train_workers * self.gpus_per_learner)

    @model_validator(mode="after")
    def _gpus_can_be_given(self) -> ResourcesConfig:
        if self.gpus_per_rollout > 1 and self.gpus_per_rollout % 1:
            raise ValueError(f"gpus_per_rollout {self.gpus_per_rollout:g}: above 1 it must be a whole number")
        if not self.colocated:
            return self
        if self.gpus_per_learner != 1 or self.gpus_per_rollout != 1:
            raise ValueError(
                "colocated puts a learner rank and a rollout worker on each GPU; set resources.gpus_per_learner=1 and "
                "resources.gpus_per_rollout=1, or resources.colocated=false"
            )
        if self.rollout_workers.max > self.learner_ranks:
            raise ValueError(
                f"colocated has a GPU for each learner rank, and {self.rollout_workers.max} rollout workers do not fit "
                f"on {self.learner_ranks}; set resources.rollout_workers={self.learner_ranks}"
            )
        return self


class TrackingConfig(Part):
    """Where numbers go besides metrics.jsonl (docs/operating.md)."""

    to: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = Field(
        ("tensorboard",), description="By name; services read their address and key from the environment."
    )
    experiment: str = Field("boxmed", min_length=1, description="MLflow's experiment, Weights & Biases' project.")
    prometheus: bool = Field(True, description="Also as Ray metrics ray_boxmed_…, which Prometheus collects.")


def is_uri(runs_dir: str) -> bool:
    """Whether a place is named by a URI, as against the path of a folder."""
    return "://" in runs_dir


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


class RunConfig(Part):
    """A whole run: stages in order, on one data set, from one seed."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Folder below runs_dir.")
    runs_dir: Annotated[str, BeforeValidator(_as_text)] = Field(
        "runs", description="Where run folders are written: a folder, or a URI of pyarrow.fs (docs/operating.md)."
    )
    work_dir: Path = Field(
        Path("runs"), description="Local folder below which a run is worked on whose runs_dir is a URI."
    )
    seed: int = Field(0, ge=0, description="Seeds data, initial weights, order and sampling.")
    skip: tuple[Literal["mcl", "svr"], ...] = Field(
        (), description="Stages that are left out, as an ablation does (docs/evaluation.md)."
    )
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    mcl: MCLConfig = MCLConfig()
    svr: SVRConfig = SVRConfig()
    adapter: AdapterConfig = AdapterConfig()
    scorers: ScorersConfig = ScorersConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    resources: ResourcesConfig = ResourcesConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _tiny_was_taught(self) -> RunConfig:
        taught: dict[TaskName, float] = {"report": self.mcl.report_share, "joint": self.mcl.joint_share}
        for task, share in taught.items():
            if self.model.name_or_path == "tiny" and task in self.svr.shares and not share:
                raise ValueError(
                    f"svr.tasks asks for {task}, which a tiny model has never seen: mcl.{task}_share is 0; "
                    f"set mcl.{task}_share=0.5"
                )
        return self

    @model_validator(mode="after")
    def _each_train_worker_has_an_example(self) -> RunConfig:
        workers = self.resources.train_workers
        for name, stage in {"mcl": self.mcl, "adapter": self.adapter}.items():
            if name not in self.skip and stage.batch_size < workers:
                raise ValueError(
                    f"{name}.batch_size {stage.batch_size} leaves some of resources.train_workers {workers} without an "
                    f"example; set resources.train_workers={stage.batch_size}, or a larger batch"
                )
        return self

    @property
    def folder(self) -> Path:
        """The run folder; where ``runs_dir`` is a URI, the local folder that the run is worked on in."""
        if not is_uri(self.runs_dir):
            return Path(self.runs_dir, self.name)
        scheme, _, rest = self.runs_dir.partition("://")
        parts = re.split(r"[^A-Za-z0-9._-]+", rest.partition("?")[0].rpartition("@")[2])
        return Path(self.work_dir, scheme, *(part for part in parts if part.strip(".")), self.name)


def recipe_names() -> list[str]:
    """Names of the shipped recipes."""
    return sorted(entry.name.removesuffix(".yaml") for entry in RECIPES.iterdir() if entry.name.endswith(".yaml"))


def load_config(recipe: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a shipped recipe or a YAML file and apply ``a.b=value`` overrides (values are YAML).

    Raises:
        ConfigError: unknown recipe, missing file, bad YAML, unknown key or wrong type; the message
            names the key, the value and the remedy.
    """
    path = Path(recipe)
    if recipe in recipe_names():
        return parse_config((RECIPES / f"{recipe}.yaml").read_text(), f"recipe {recipe}", overrides)
    if path.suffix not in {".yaml", ".yml"}:
        raise ConfigError(f"recipe {recipe!r} is unknown; use one of: {', '.join(recipe_names())}, or a .yaml file")
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give a YAML file or one of: {', '.join(recipe_names())}")
    return parse_config(path.read_text(), str(path), overrides)


def parse_config(text: str, where: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read YAML and apply ``a.b=value`` overrides; ``where`` names the text in errors.

    Raises:
        ConfigError: as ``load_config``.
    """
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not readable as YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: must be a mapping of keys to values, found {type(values).__name__}")
    for override in overrides:
        _apply(values, override)
    return validate_config(values, where)


def validate_config(values: dict[str, Any], where: str) -> RunConfig:
    """Validate, turning pydantic's report into one message with key, value and what was expected."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(dict(item), where) for item in error.errors())) from None


def _explain(item: dict[str, Any], where: str) -> str:
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"{where}: unknown key {key!r}; known keys there: {', '.join(_known_keys(item['loc'][:-1]))}"
    message = item["msg"].removeprefix("Value error, ")
    if isinstance(item["input"], dict):  # keys that do not go together: the message names them
        return f"{where}: {key}: {message}" if key else f"{where}: {message}"
    return f"{where}: {key} = {item['input']!r}: {message}" if key else f"{where}: {message}"


def _known_keys(loc: tuple[Any, ...]) -> list[str]:
    model: type[BaseModel] = RunConfig
    for part in loc:
        annotation = model.model_fields[str(part)].annotation
        choices = [annotation, *typing.get_args(annotation)]  # of an optional part, ``Part | None``
        found = next((c for c in choices if isinstance(c, type) and issubclass(c, BaseModel)), None)
        if found is None:
            break
        model = found
    return list(model.model_fields)


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override!r}: must be key=value, for example --set svr.steps=20")
    *parents, last = key.split(".")
    node = values
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise ConfigError(f"--set {override!r}: {parent!r} is a value, not a group of keys")
    try:
        node[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override!r}: {text!r} is not readable as YAML") from error
