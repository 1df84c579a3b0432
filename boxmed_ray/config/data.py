"""Where studies come from (``data``)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from boxmed_ray.config.base import Part, Share


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
