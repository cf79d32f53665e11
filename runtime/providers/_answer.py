"""The answer of a model, put together of what a provider sends: chat completions of OpenAI's form.

Providers differ, so it takes what they send in fact (each line was seen with one of them):

- chunks without choices, such as one with the usage alone; choices other than the first;
- ``content`` and ``reasoning`` (or ``reasoning_content``) that are null, empty, or absent;
- a tool call in deltas, which are joined by their ``index``: id and name come with the first one
  only, or with each; or a whole call at a time, all with the same index, or without any;
- a character outside of the basic plane in two deltas, a surrogate in each;
- fields that nobody knows; ids that another answer has too, which is why they count for nothing.

Only ``stop`` and ``tool_calls`` (and ``function_call``, its old name) end an answer well.  A
``length`` is a truncation, ``content_filter`` and a ``refusal`` are no answer, and what is none of
those is a failure, and not taken for an end.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import msgspec

from dalsegno.protocol.providers import (
    Answered,
    ProviderError,
    ReasoningDelta,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    Usage,
)

from ._failures import error_of, failure_in_answer

if TYPE_CHECKING:
    from dalsegno.protocol.providers import FinishReason

Delta: TypeAlias = TextDelta | ReasoningDelta | ToolCallDelta

_ENDS: dict[str, FinishReason] = {
    "stop": "stop",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None
    """An object at Ollama's own API, and what imitates it."""


class _Call(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Said(msgspec.Struct):
    """A delta, or a whole message."""

    content: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    index: int | None = None
    delta: _Said | None = None
    message: _Said | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None


def parse_json(text: str | bytes) -> Any:  # noqa: ANN401 - JSON of others
    """Return a document, whose texts may have lone surrogates, which msgspec does not read.

    Raises:
        ProviderError: ``invalid_payload``.

    """
    try:
        return json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):  # their text repeats the document
        raise ProviderError("invalid_payload", "the provider sent no JSON") from None


def _no_number(_name: str) -> NoReturn:
    raise ValueError("no number of JSON")


class _Text:
    """Text of one kind: without NUL, and without a surrogate that has no other half."""

    def __init__(self) -> None:
        self._held = ""

    def add(self, text: str) -> str:
        """Return what can be said by now: the first half of a pair waits for the second."""
        text = self._held + text
        self._held = ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self._held = text[:-1], text[-1]
        return _clean(text)

    def rest(self) -> str:
        """Return what can be said once nothing more comes."""
        text, self._held = self._held, ""
        return _clean(text)


def _clean(text: str) -> str:
    """Join pairs of surrogates, and replace what nobody can store: lone ones, and NUL."""
    if not text.isascii():
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text.replace("\0", "\ufffd")


class _OpenCall:
    """A tool call that may get more arguments."""

    def __init__(self, index: int, call_id: str, name: str) -> None:
        self.index = index
        self.call_id = call_id
        self.name = name
        self.text = _Text()
        self.arguments: list[str] = []

    def delta(self, arguments: str) -> ToolCallDelta:
        self.arguments.append(arguments)
        return ToolCallDelta(self.index, self.call_id, self.name, arguments)

    def whole(self) -> ToolCall:
        arguments = "".join(self.arguments)
        return ToolCall(call_id=self.call_id, name=self.name, arguments=arguments)


class Answer:
    """An answer, chunk by chunk."""

    def __init__(self, *, model: str, provider_kind: str, tool_calls_max: int) -> None:
        self._model = model
        self._provider_kind = provider_kind
        self._tool_calls_max = tool_calls_max
        self._content, self._reasoning = _Text(), _Text()
        self._calls: list[_OpenCall] = []
        self._by_index: dict[int, _OpenCall] = {}
        self._usage: Usage | None = None
        self._finish_reason: str | None = None
        self._is_refused = False

    @property
    def is_finished(self) -> bool:
        """Whether it says how it ended; what may come is the usage."""
        return self._finish_reason is not None

    def take(self, document: Any) -> list[Delta]:  # noqa: ANN401 - JSON of others
        """Take a chunk, or a body that is the whole answer; return what it adds.

        Raises:
            ProviderError: it is an error, or cannot be read.

        """
        error = error_of(document)
        if error is not None:
            raise failure_in_answer(error)
        try:
            return self._take_chunk(msgspec.convert(document, _Chunk))
        except (msgspec.ValidationError, RecursionError):
            raise ProviderError("invalid_payload", "the provider sent no chunk") from None

    def _take_chunk(self, chunk: _Chunk) -> list[Delta]:
        usage = chunk.usage
        if usage is not None and usage.prompt_tokens is not None:
            self._usage = Usage(usage.prompt_tokens, usage.completion_tokens or 0)
        deltas: list[Delta] = []
        for choice in chunk.choices or ():
            if not choice.index:
                deltas += self._take_choice(choice)
        return deltas

    def _take_choice(self, choice: _Choice) -> list[Delta]:
        said = choice.delta or choice.message or _Said()
        self._is_refused = self._is_refused or bool(said.refusal)
        deltas: list[Delta] = []
        if reasoning := self._reasoning.add(said.reasoning or said.reasoning_content or ""):
            deltas.append(ReasoningDelta(reasoning))
        if content := self._content.add(said.content or ""):
            deltas.append(TextDelta(content))
        deltas += [self._take_call(call) for call in said.tool_calls or ()]
        if choice.finish_reason:
            self._finish_reason = choice.finish_reason
            deltas += self._rest()
        return deltas

    def _take_call(self, call: _Call) -> ToolCallDelta:
        function = call.function or _Function()
        found = self._find(call, function)
        if found is None:
            found = self._open(call, function)
        arguments = function.arguments or ""
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        return found.delta(found.text.add(arguments))

    def _find(self, call: _Call, function: _Function) -> _OpenCall | None:
        """Return the call that a delta belongs to; None: it begins one."""
        if call.index is not None:
            found = self._by_index.get(call.index)
            is_other = found is not None and call.id and call.id != found.call_id
            return None if is_other and function.name else found
        if call.id:
            return next((each for each in self._calls if each.call_id == call.id), None)
        return self._calls[-1] if self._calls and not function.name else None

    def _open(self, call: _Call, function: _Function) -> _OpenCall:
        if not function.name:
            raise ProviderError("invalid_payload", "a tool call without a name")
        index = len(self._calls)
        if index == self._tool_calls_max:
            raise ProviderError("invalid_payload", f"more than {index} tool calls")
        call_id = _clean(call.id or f"call_{index}")
        opened = _OpenCall(index, call_id, _clean(function.name))
        self._calls.append(opened)
        self._by_index[index if call.index is None else call.index] = opened
        return opened

    def _rest(self) -> list[Delta]:
        """Return what waited for the other half of a character that does not come."""
        deltas: list[Delta] = []
        if rest := self._reasoning.rest():
            deltas.append(ReasoningDelta(rest))
        if rest := self._content.rest():
            deltas.append(TextDelta(rest))
        rests = ((call, call.text.rest()) for call in self._calls)
        deltas += [call.delta(rest) for call, rest in rests if rest]
        return deltas

    def end(self) -> Answered:
        """Return the end, once nothing more comes.

        Raises:
            ProviderError: this was no whole answer.

        """
        reason = self._finish_reason
        if reason is None:
            raise ProviderError("truncated", "the answer ends in the middle")
        if reason == "length":
            message = "the answer has as many tokens as it may"
            raise ProviderError("truncated", message, is_retryable=False)
        if reason == "content_filter" or self._is_refused:
            raise ProviderError("refused", "the model does not answer this")
        if reason == "error":
            raise ProviderError("upstream", "the provider failed while it answered")
        if reason not in _ENDS:
            raise ProviderError("invalid_payload", "the answer ends in an unknown way")
        return Answered(
            finish_reason="tool_calls" if self._calls else _ENDS[reason],  # some say `stop`
            tool_calls=tuple(call.whole() for call in self._calls),
            usage=self._usage,
            model=self._model,
            provider_kind=self._provider_kind,
        )
