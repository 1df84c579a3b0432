"""RadGraph: entities and relations of radiology reports, and the F1 between two of them.

The span model of the published archives (Jain et al. 2021, Delbrouck et al. 2024) in plain PyTorch: many reports at
once, each distinct one once.
"""

from rewards.radgraph.annotate import RadGraph
from rewards.radgraph.annotation import Annotation, Entity, Relation
from rewards.radgraph.download import published_archive
from rewards.radgraph.metric import RadGraphMetric

__all__ = ["Annotation", "Entity", "RadGraph", "RadGraphMetric", "Relation", "published_archive"]
