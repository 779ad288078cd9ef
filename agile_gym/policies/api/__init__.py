"""Models behind OpenAI-compatible endpoints.

options       options of a user, checked, and the address of requests
conversation  observations as messages, images as data URLs
replies       content of an answer's JSON
failures      errors of requests, and the decision to retry
limits        rate limits, pauses, tokens and cost, the event loop
asking        concurrent requests, each with all its attempts
policy        `ChatAPIPolicy`
"""

from agile_gym.policies.api.policy import ChatAPIPolicy

__all__ = ["ChatAPIPolicy"]
