"""A tool in the shape of OpenAI's chat completions, however its provider writes it."""

from __future__ import annotations

from agentlightning.types.chat_shape import Json


def chat_tool(tool: Json) -> Json:
    """Return the tool as `{"type": "function", "function": …}`; one that is no function stays as it is."""
    schema = tool.get("parameters", tool.get("input_schema"))
    if "function" in tool or schema is None or "name" not in tool:
        return tool
    function = {"name": tool["name"], "description": tool.get("description"), "parameters": schema}
    kept = {key: value for key, value in function.items() if value is not None}
    return {"type": "function", "function": kept | ({"strict": tool["strict"]} if "strict" in tool else {})}
