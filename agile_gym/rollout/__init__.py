"""Rollouts: playing of batched episodes, and planning of their tokens."""

from agile_gym.rollout.play import EnvironmentPool, EpisodeRecorder, EpisodeSpec, play_episodes

__all__ = ["EnvironmentPool", "EpisodeRecorder", "EpisodeSpec", "play_episodes"]
