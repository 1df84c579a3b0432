"""Reinforcement (``svr``) and what is watched beside its reward."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from boxmed_ray.config.base import Part, Share
from boxmed_ray.config.model import TrainableConfig


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
