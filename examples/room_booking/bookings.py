"""The rooms, who has them when, and what people ask for."""

from __future__ import annotations

from typing import Any, TypedDict


class Request(TypedDict):
    """What somebody asks for, and which rooms are right."""

    words: str
    right: list[str]


ROOMS: dict[str, dict[str, Any]] = {
    "Attic": {"seats": 4, "has": ["whiteboard"], "taken": [(9, 11)]},
    "Garden": {"seats": 6, "has": ["screen"], "taken": [(13, 15)]},
    "Library": {"seats": 10, "has": ["screen", "whiteboard"], "taken": [(10, 12), (14, 16)]},
    "Hall": {"seats": 40, "has": ["screen", "microphone"], "taken": [(9, 17)]},
}

REQUESTS: list[Request] = [
    {"words": "Four of us want to draw on a whiteboard from 11 to 12.", "right": ["Attic"]},
    {"words": "A meeting of nine with a screen, 12 to 14.", "right": ["Library"]},
    {"words": "Two people, a talk on the phone at 13, one hour.", "right": ["Attic", "Library"]},
    {"words": "Thirty guests in the evening, from 17 on, two hours, with a microphone.", "right": ["Hall"]},
    {"words": "Six people, screen, 9 to 10.", "right": ["Garden", "Library"]},
    {"words": "We are eight and need a screen from 14 to 15.", "right": []},
    {"words": "Three of us, whiteboard, 9 to 10.", "right": ["Library"]},
    {"words": "Twelve people at 10 for an hour.", "right": []},
]


def free_rooms(start: int, end: int, seats: int, needs: list[str] | None = None) -> list[str]:
    """Return the rooms that are large enough, have what is needed, and are free all the time."""
    return [
        name
        for name, room in ROOMS.items()
        if room["seats"] >= seats
        and set(needs or ()) <= set(room["has"])
        and all(end <= begin or start >= until for begin, until in room["taken"])
    ]


TOOL: Any = {
    "type": "function",
    "function": {
        "name": "free_rooms",
        "description": "Find rooms that are free between two full hours.",
        "parameters": {
            "type": "object",
            "properties": {
                "start": {"type": "integer", "description": "hour, 0 to 23"},
                "end": {"type": "integer", "description": "hour, 1 to 24"},
                "seats": {"type": "integer"},
                "needs": {"type": "array", "items": {"type": "string", "enum": ["screen", "whiteboard", "microphone"]}},
            },
            "required": ["start", "end", "seats"],
        },
    },
}
