"""Models behind OpenAI-compatible endpoints.

options       what a user can set, checked, and where requests go
conversation  observations as messages, images as data URLs
replies       content of an answer's JSON
failures      errors of requests, and whether to try again
limits        rate limits, pauses, tokens and cost, the event loop
asking        requests side by side, each with all its attempts
policy        `ChatAPIPolicy`
"""

from agile_gym.policies.api.policy import ChatAPIPolicy

__all__ = ["ChatAPIPolicy"]
