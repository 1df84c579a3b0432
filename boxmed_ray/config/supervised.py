"""Supervised stages: concept learning (``mcl``) and the adapter on reports (``adapter``)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from boxmed_ray.config.base import Part, Share
from boxmed_ray.config.model import LoraConfig, LoraFields, TrainableConfig, TrainedPart


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
