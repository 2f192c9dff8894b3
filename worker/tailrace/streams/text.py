"""The text that a stream's chunks add up to (protocol §8). Pure; view `stream_text` of the archive says the same.

=========================================================== =========================================================
chunk                                                       what it adds
=========================================================== =========================================================
a string                                                    itself
``{"type": "text-delta", "id", "delta"}``, AI SDK           ``delta`` (or ``text``, ``textDelta``) to the block ``id``
``{"type": "reasoning-delta", "id", "delta"}``              the same, to the reasoning
``{"type": "text-start" | "reasoning-start", "id"}``        begins a block
``{"type": "start"}``                                       a new message: nearly always a retry, so it takes the
                                                            place of the one before
``{"type": "reset-step"}``                                  takes back the text of the step
``{"object": "chat.completion.chunk", "choices"}``, OpenAI  ``choices[0].delta.content`` to the block of its ``index``
``{"type": "response.output_text.delta", "delta"}``, OpenAI ``delta``
``{"type": "content_block_delta", "delta"}``, Anthropic     ``delta.text`` of a ``text_delta``
anything else                                               nothing
=========================================================== =========================================================
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

_DELTAS = ("delta", "text", "textDelta")
_MESSAGE_PARTS = frozenset({"text-start", "text-delta"})
_UNREADABLE = re.compile("[\ud800-\udfff\x00]")


class _Part(NamedTuple):
    """What a chunk has to do with text. ``delta`` None: nothing is added; ``begins``: a block begins."""

    type: str
    block: str | None
    delta: str | None
    reasoning: bool
    begins: bool


class Transcript:
    """Chunks in, text out."""

    def __init__(self) -> None:
        self._parts: list[_Part] = []

    def add(self, text: bytes) -> None:
        """Take in a chunk, given as its JSON text. What is no JSON adds nothing."""
        try:
            value = json.loads(text.decode())
        except (ValueError, RecursionError):
            return
        part = _part(value)
        if part is not None:
            self._parts.append(part)

    def restart(self) -> None:
        """Forget everything: upstream began the stream anew."""
        self._parts.clear()

    @property
    def text(self) -> str:
        """The text so far; '' when no chunk had any."""
        return self._assembled(reasoning=False)

    @property
    def reasoning(self) -> str:
        """The text that the model kept to itself; '' when there was none."""
        return self._assembled(reasoning=True)

    def _assembled(self, *, reasoning: bool) -> str:
        parts = self._parts
        if any(part.type in _MESSAGE_PARTS for part in parts):
            starts = [at for at, part in enumerate(parts) if part.type == "start"]
            parts = parts[starts[-1] + 1 :] if starts else parts
        kept: list[_Part] = []
        step = 0
        for part in parts:
            if part.type == "reset-step":
                del kept[step:]
            elif part.type in ("start", "start-step"):
                step = len(kept)
            elif part.reasoning is reasoning and (part.begins or part.delta):
                kept.append(part)
        blocks: dict[tuple[str | None, int], list[str]] = {}
        uses: dict[str | None, int] = {}
        for part in kept:
            if part.begins:
                uses[part.block] = uses.get(part.block, 0) + 1
            blocks.setdefault((part.block, uses.get(part.block, 0)), []).append(part.delta or "")
        return "\n\n".join(text for pieces in blocks.values() if (text := "".join(pieces)))


def _part(value: Any) -> _Part | None:
    if isinstance(value, str):
        return _Part("", None, _readable(value), False, False)
    if not isinstance(value, dict):
        return None
    kind = value.get("type")
    kind = kind if isinstance(kind, str) else ""
    block = value.get("id")
    block = block if block is None or isinstance(block, str) else json.dumps(block)
    match kind:
        case "start" | "start-step" | "reset-step":
            return _Part(kind, None, None, False, False)
        case "text-start" | "reasoning-start":
            return _Part(kind, block, None, kind == "reasoning-start", True)
        case "text-delta" | "reasoning-delta":
            found = next((value[name] for name in _DELTAS if isinstance(value.get(name), str)), None)
            return _Part(kind, block, _readable(found), kind == "reasoning-delta", False)
        case "response.output_text.delta":
            return _Part(kind, block, _readable(value.get("delta")), False, False)
        case "content_block_delta":
            delta = value.get("delta")
            if isinstance(delta, dict) and delta.get("type") == "text_delta":
                return _Part(kind, block, _readable(delta.get("text")), False, False)
            return None
    if value.get("object") == "chat.completion.chunk":
        return _completion(value, block)
    return None


def _completion(value: dict[str, Any], block: str | None) -> _Part | None:
    choices = value.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    delta = choice.get("delta") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(delta, dict):
        return None
    index = json.dumps(choice.get("index"))
    return _Part("", index if block is None else block, _readable(delta.get("content")), False, False)


def _readable(text: Any) -> str | None:
    """Put U+FFFD where no text can be: halves of surrogate pairs can't be encoded, and no database takes NUL."""
    return _UNREADABLE.sub("\ufffd", text) if isinstance(text, str) else None
