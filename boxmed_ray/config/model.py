"""The backbone (``model``), and which of its parts a stage trains (``mcl.train``, ``svr.train``)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from boxmed_ray.config.base import Part, Share


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
