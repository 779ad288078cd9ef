"""Gymnasium wrappers."""

from agile_gym.wrappers.discrete import DiscreteActions, ImageObservation, JigsawVisionDiscreteEnv

__all__ = ["DiscreteActions", "ImageObservation", "JigsawVisionDiscreteEnv"]
