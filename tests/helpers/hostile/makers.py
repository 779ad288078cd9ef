"""Turns around a text."""

import json


def code(body, think="Let me see."):
    return f"<think>{think}</think>\n<code>{body}</code>"


def call(body):
    return f"<think>Let me see.</think>\n<tool_call>{body}</tool_call>"


def answer(body):
    return f"<think>Let me see.</think>\n<answer>{body}</answer>"


def tool(name, **arguments):
    return call(json.dumps({"name": name, "arguments": arguments}))


def nested(opening, closing, depth, middle=""):
    return opening * depth + middle + closing * depth
