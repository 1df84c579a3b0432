"""BoxMed-RL: reinforcement learning for chest X-ray models that show what they say, on Ray."""

__version__ = "0.1.0"
