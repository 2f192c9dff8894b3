"""The text that a stream's chunks add up to (protocol §8). Pure; view `stream_text` of the archive says the same.

The answer of a stream is the text of its newest generation: of AI SDK messages that of the last message, without the
steps that ``reset-step`` took back, whether it finished, was aborted or failed; of any other stream all of it.

=========================================================== =========================================================
chunk                                                       what it adds
=========================================================== =========================================================
a string                                                    itself
``{"type": "text-delta", "id", "delta"}``, AI SDK           ``delta`` (or ``text``, ``textDelta``) to the block ``id``
``{"type": "reasoning-delta", "id", "delta"}``              the same, to the reasoning
``{"type": "text-start" | "reasoning-start", "id"}``        begins a block
``{"type": "text-end" | "reasoning-end", "id"}``            ends it: a delta after it begins one of its own
``{"type": "start", "messageId"}``                          a new message, which takes the place of the one before; not
                                                            if it is the first and names none
``{"type": "reset-step"}``                                  takes back the text of the step
``{"object": "chat.completion.chunk", "choices"}``, OpenAI  ``choices[0].delta.content`` to a block for each ``id`` and
                                                            ``index``
``{"type": "response.output_text.delta", "delta"}``, OpenAI ``delta``
``{"type": "content_block_delta", "delta"}``, Anthropic     ``delta.text`` of a ``text_delta``
those of Google, Cohere, Mistral, Bedrock, Ollama, AG-UI,   see docs/shapes.md; reasoning and the arguments of tools
LangChain; ``{"text": "…"}`` and the like                   are no text
anything else                                               nothing
=========================================================== =========================================================
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

_DELTAS = ("delta", "text", "textDelta")
_MESSAGE_PARTS = frozenset({"text-start", "text-delta"})
_STARTS = frozenset({"text-start", "reasoning-start"})
_ENDS = frozenset({"text-end", "reasoning-end"})
_PLAIN = frozenset({"text", "delta", "content"})
_BESIDE = frozenset({"role", "id", "index"})
_HALF = re.compile("[\ud800-\udfff]")


class _Part(NamedTuple):
    """What a chunk has to do with text. ``delta`` None: nothing is added. ``block``: of a start, its message."""

    type: str
    block: str | None
    delta: str | None = None
    reasoning: bool = False


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
        begins = _begins(parts)
        if begins and any(part.type in _MESSAGE_PARTS for part in parts):
            parts = parts[begins[-1] + 1 :]
            begins = []
        blocks: list[list[str]] = []
        open_: dict[str | None, list[str]] = {}
        step = 0
        for at, part in enumerate(parts):
            if part.type == "reset-step":
                del blocks[step:]
                open_.clear()
            elif part.type == "start-step" or at in begins:
                step = len(blocks)
            elif part.type == "start" or part.reasoning is not reasoning:
                continue
            elif part.type in _STARTS or (part.delta and part.block not in open_):
                blocks.append([part.delta or ""])
                open_[part.block] = blocks[-1]
            elif part.type in _ENDS:
                open_.pop(part.block, None)
            elif part.delta:
                open_[part.block].append(part.delta)
        return "\n\n".join(text for pieces in blocks if (text := rejoined("".join(pieces))))


def _begins(parts: list[_Part]) -> list[int]:
    """Which of these are starts that begin a message."""
    starts = [at for at, part in enumerate(parts) if part.type == "start"]
    return starts if starts and parts[starts[0]].block else starts[1:]


def rejoined(text: str) -> str:
    """Make text of what deltas add up to.

    JavaScript cuts by UTF-16 units, and so between the halves of a character outside the first 65 536. Halves that meet
    are that character; U+FFFD takes the place of all others, which no encoding has, and of NUL, which no database
    takes. Function `tailrace.rejoined` of the archive does the same.
    """
    if _HALF.search(text):
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text.replace("\x00", "\ufffd")


def _part(value: Any) -> _Part | None:
    if isinstance(value, str):
        return _Part("", "", value)
    if isinstance(value, list):
        return _Part("", "", _of_graph(value))
    if not isinstance(value, dict):
        return None
    kind = value.get("type")
    kind = kind if isinstance(kind, str) else ""
    match kind:
        case "start":
            return _Part(kind, _name(value.get("messageId")))
        case "start-step" | "reset-step":
            return _Part(kind, None)
        case "text-start" | "text-end" | "reasoning-start" | "reasoning-end":
            return _Part(kind, _name(value.get("id")), reasoning=kind.startswith("reasoning"))
        case "text-delta" | "reasoning-delta":
            found = next((value[name] for name in _DELTAS if isinstance(value.get(name), str)), None)
            return _Part(kind, _name(value.get("id")), found, kind.startswith("reasoning"))
        case "response.output_text.delta":
            return _Part(kind, None, _text(value.get("delta")))
        case "content_block_delta":
            delta = value.get("delta")
            if isinstance(delta, dict) and delta.get("type") == "text_delta":
                return _Part(kind, None, _text(delta.get("text")))
            return None
        case "TEXT_MESSAGE_CONTENT" | "TEXT_MESSAGE_CHUNK":
            return _Part(kind, _name(value.get("messageId")), _said(value.get("delta")))
        case "content-delta":
            return _Part(kind, None, _said(_at(value, "delta", "message", "content", "text")))
        case "constructor" | "AIMessageChunk":
            return _Part(kind, None, _of_langchain(value))
    if value.get("type") is not None:
        return None
    names = (_name(value.get("id")), _name(_at(value, "choices", 0, "index")))
    return _Part("", "/".join(name for name in names if name is not None), _said(_untyped(value)))


def _untyped(value: dict[str, Any]) -> Any:
    """Find the text in a chunk that says no type, by what else it has."""
    match value.get("object"), value.get("event_type"):
        case "chat.completion.chunk", _:
            return _at(value, "choices", 0, "delta", "content")
        case "text_completion", _:
            return _at(value, "choices", 0, "text")
        case _, "text-generation":
            return value.get("text")
    if "candidates" in value:
        return _at(value, "candidates", 0, "content", "parts")
    if "contentBlockDelta" in value:
        return _at(value, "contentBlockDelta", "delta", "text")
    if "done" in value:
        message = _at(value, "message")
        return message["content"] if isinstance(message, dict) and "content" in message else value.get("response")
    texts = value.keys() & _PLAIN
    return value[texts.pop()] if len(texts) == 1 and value.keys() <= _PLAIN | _BESIDE else None


def _of_graph(value: list[Any]) -> str | None:
    """Return the text of a message of LangGraph: [message, metadata], or that after "messages"."""
    message = (
        _at(value, 1, 0) if value[:1] == ["messages"] else _at(value, 0) if isinstance(_at(value, 1), dict) else None
    )
    return _of_langchain(message) if isinstance(message, dict) else None


def _of_langchain(message: dict[str, Any]) -> str | None:
    if message.get("type") == "constructor":
        return _said(_at(message, "kwargs", "content")) if _at(message, "id", -1) == "AIMessageChunk" else None
    return _said(message.get("content")) if message.get("type") == "AIMessageChunk" else None


def _at(value: Any, *path: str | int) -> Any:
    """Return what is there; None: nothing."""
    for step in path:
        try:
            value = value[step]
        except (LookupError, TypeError):
            return None
    return value


def _said(content: Any) -> str | None:
    """Return a text, or that of a list of parts without what is thought."""
    if isinstance(content, list):
        texts = [
            part["text"]
            for part in content
            if isinstance(part, dict)
            and isinstance(part.get("text"), str)
            and part.get("type") in (None, "text")
            and part.get("thought") is not True
        ]
        return "".join(texts) if texts else None
    return _text(content)


def _name(value: Any) -> str | None:
    """Return an id as text, whatever it is."""
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
