"""Configuration: one pydantic model per part, one RunConfig over them; unknown keys are errors.

What lives here: fields, their meaning, defaults and ranges, and reading them from YAML and ``--set``.
What does not: torch, vLLM or Ray, so that a wrong key fails within a second.
"""

from boxmed_ray.config.base import ConfigError, Part, Share
from boxmed_ray.config.data import DataConfig
from boxmed_ray.config.evaluate import EvaluateConfig, JudgeConfig, JudgesConfig, ScorersConfig
from boxmed_ray.config.model import LoraConfig, LoraFields, ModelConfig, TrainableConfig, TrainedPart
from boxmed_ray.config.reading import RECIPES, load_config, parse_config, recipe_names, validate_config
from boxmed_ray.config.reinforce import SVRConfig, TaskName, WatchConfig
from boxmed_ray.config.resources import PoolConfig, ResourcesConfig, ScalingConfig
from boxmed_ray.config.run import RunConfig, TrackingConfig, is_uri
from boxmed_ray.config.supervised import AdapterConfig, MCLConfig, SupervisedConfig

__all__ = [
    "RECIPES",
    "AdapterConfig",
    "ConfigError",
    "DataConfig",
    "EvaluateConfig",
    "JudgeConfig",
    "JudgesConfig",
    "LoraConfig",
    "LoraFields",
    "MCLConfig",
    "ModelConfig",
    "Part",
    "PoolConfig",
    "ResourcesConfig",
    "RunConfig",
    "SVRConfig",
    "ScalingConfig",
    "ScorersConfig",
    "Share",
    "SupervisedConfig",
    "TaskName",
    "TrackingConfig",
    "TrainableConfig",
    "TrainedPart",
    "WatchConfig",
    "is_uri",
    "load_config",
    "parse_config",
    "recipe_names",
    "validate_config",
]
