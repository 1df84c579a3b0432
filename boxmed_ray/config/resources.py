"""What a run occupies (``resources``)."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from boxmed_ray.config.base import Part


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
