"""Conversations with models behind OpenAI-compatible endpoints, put together by `agile_gym.policies.api.ChatAPIPolicy`.

- ``options``: what a user can set, checked
- ``endpoint``: where requests go, and the key that goes with them
- ``conversation``: observations as messages, images as data URLs
- ``replies``: what an answer's JSON says, and what the model wrote
- ``streams``: answers that come in pieces
- ``failures``: what went wrong, whether to try again, and what to tell the user
- ``pacing``: limits of requests and tokens a minute, pauses between attempts
- ``spending``: tokens and cost
- ``asking``: questions side by side, each with all its attempts
- ``background``: an event loop in a thread of its own
"""

__all__: list[str] = []
