"""Rollouts: playing episodes side by side, and planning their tokens."""

from agile_gym.rollout.play import EnvironmentPool, EpisodeRecorder, EpisodeSpec, play_episodes

__all__ = ["EnvironmentPool", "EpisodeRecorder", "EpisodeSpec", "play_episodes"]
