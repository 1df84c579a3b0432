"""What every part of a configuration is: unknown keys are errors, values are fixed after validation."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]


class ConfigError(ValueError):
    """A configuration that cannot run. The message names the key, the value and the remedy."""


class Part(BaseModel):
    """Base of every part: unknown keys are errors, values are fixed after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True)
