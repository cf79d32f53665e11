"""The port to model providers: what is asked of a model, and what comes back, part by part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias

import msgspec

from dalsegno.protocol._errors import DalsegnoError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from ._settings import ProviderSettings

# ------------------------------------------------------------------------------- what is asked

MessageRole: TypeAlias = Literal["system", "user", "assistant", "tool"]


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A tool that a model wants to have called."""

    call_id: str
    name: str
    arguments: str
    """As the model wrote them: JSON, as a rule, which nobody has looked at."""


class ChatMessage(msgspec.Struct, frozen=True):
    """A message of a conversation with a model."""

    role: MessageRole
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    """Of an assistant's: what it wanted to have called."""
    tool_call_id: str | None = None
    """Of a tool's: the call that it is the result of."""


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """A tool that a model may want to have called."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = {}
    """JSON Schema of its arguments."""


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a model is asked."""

    model: str
    messages: tuple[ChatMessage, ...]
    max_tokens: int | None = None
    """None: as the provider has it."""
    temperature: float | None = None
    """None: as the provider has it."""
    tools: tuple[Tool, ...] = ()

    def __repr__(self) -> str:  # what people ask belongs into no log
        return f"<ChatRequest {self.model}, {len(self.messages)} messages>"

    @classmethod
    def of(
        cls,
        settings: ProviderSettings,
        messages: Sequence[ChatMessage],
        *,
        tools: Sequence[Tool] = (),
    ) -> ChatRequest:
        """Return what to ask by settings: their first model, their ``max_tokens`` and so on."""
        return cls(
            model=settings.model,
            messages=tuple(messages),
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            tools=tuple(tools),
        )


# --------------------------------------------------------------------------- what comes back


class TextDelta(msgspec.Struct, frozen=True):
    """More of the answer, 1 character at least: no NUL, no lone surrogate, so that it can be said
    by a run as it is.
    """

    text: str


class ReasoningDelta(msgspec.Struct, frozen=True):
    """More of what the model thinks; likewise."""

    text: str


class ToolCallDelta(msgspec.Struct, frozen=True):
    """More of a tool call."""

    index: int
    """Which of the answer's calls, from 0; the first delta of each comes in this order."""
    call_id: str
    name: str
    arguments: str
    """What is added to its arguments; the first delta of a call may have none."""


class Restarted(msgspec.Struct, frozen=True):
    """What was said is void: the attempt failed, and the model, or another one, begins anew.

    It comes only where something was said.
    """

    attempt: int
    """The attempt that begins; the first one is 1."""
    model: str
    """Whom it asks."""
    reason: Category
    """Why the one before failed."""


class Usage(msgspec.Struct, frozen=True):
    """Tokens that were counted by the provider."""

    prompt_tokens: int
    completion_tokens: int


FinishReason: TypeAlias = Literal["stop", "tool_calls"]


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """The answer is whole; the last part."""

    finish_reason: FinishReason
    tool_calls: tuple[ToolCall, ...] = ()
    """All of them, put together, in their order."""
    usage: Usage | None = None
    """None: the provider did not say, which is not 0."""
    model: str
    """That was asked; a provider may call it by another name in its answer."""
    provider_kind: str
    attempts: int = 1
    """How often models were asked until one answered."""


ChatPart: TypeAlias = TextDelta | ReasoningDelta | ToolCallDelta | Restarted | Answered


# ------------------------------------------------------------------------------- how it fails

Category: TypeAlias = Literal[
    "auth_failed",
    "rate_limited",
    "timeout",
    "unreachable",
    "invalid_payload",
    "upstream",
    "truncated",
    "refused",
    "bad_request",
]
"""What became of a question without an answer:

auth_failed: no key, a wrong one, or one that may not; nothing was asked where the key is missing.
rate_limited: too much was asked, or the account is used up.
timeout: it was silent for too long, or took too long altogether.
unreachable: no connection, or one that ended before an answer began.
invalid_payload: what came is no answer, or above a bound.
upstream: the provider says that it, or who stands behind it, failed.
truncated: the answer ends in the middle: the connection did, or the tokens did.
refused: the model, or a filter, does not want to.
bad_request: the provider says that it cannot be asked this; so again the next time.
"""

_CODES: dict[Category, str] = {
    "timeout": "LLM_PROVIDER_TIMEOUT",
    "unreachable": "LLM_PROVIDER_UNREACHABLE",
}
_UPSTREAM = "LLM_UPSTREAM_ERROR"
_DETAILS: dict[Category, str] = {
    "timeout": "PROVIDER_UNAVAILABLE",
    "unreachable": "PROVIDER_UNAVAILABLE",
    "upstream": "PROVIDER_UNAVAILABLE",
}
_MAY_PASS: Final[frozenset[Category]] = frozenset(
    {"timeout", "unreachable", "rate_limited", "upstream", "truncated"}
)


class ProviderError(DalsegnoError):
    """A model gave no answer, or not the whole of it.

    Its text and details have nothing of what was asked, of what was answered, and of keys.
    ``details`` has ``category``, ``detail`` (``PROVIDER_…``), and where they are known
    ``provider_kind``, ``model``, ``status`` (of HTTP) and ``upstream_code``.
    """

    def __init__(
        self,
        category: Category,
        message: str,
        *,
        is_retryable: bool | None = None,
        retry_after_s: float | None = None,
        **details: Any,  # noqa: ANN401 - JSON values
    ) -> None:
        self.code = _CODES.get(category, _UPSTREAM)
        detail = _DETAILS.get(category, f"PROVIDER_{category.upper()}")
        known = {name: value for name, value in details.items() if value is not None}
        super().__init__(message, category=category, detail=detail, **known)
        self.category: Category = category
        self.retryable = category in _MAY_PASS if is_retryable is None else is_retryable
        self.retry_after_s = retry_after_s
        """When the provider wants to be asked again, in seconds; None: it did not say."""

    @property
    def is_retryable(self) -> bool:
        """Whether the same question may be answered a little later."""
        return self.retryable

    @property
    def is_models(self) -> bool:
        """Whether another model of the same provider may answer.

        Not where the key or the question are at fault: it would be given the same.
        """
        is_gone = self.details.get("status") in {404, 410}
        return self.is_retryable or is_gone or self.category == "invalid_payload"


# ----------------------------------------------------------------------------------- the port


class ChatStream(Protocol):
    """An answer: an async iterator of its parts, of which the last one is an `Answered`."""

    def __aiter__(self) -> ChatStream:
        """Return it."""

    async def __anext__(self) -> ChatPart:
        """Wait for the next part.

        Cancelled, the answer is lost, and whoever waits again gets a failure.

        Raises:
            ProviderError: there is no more of it; what was said before is no answer.
            StopAsyncIteration: the answer is whole.

        """


class Provider(Protocol):
    """Somebody who has models, and answers."""

    def chat(self, request: ChatRequest) -> AbstractAsyncContextManager[ChatStream]:
        """Ask a model for the length of a block, at whose end the connection is closed.

        Nothing is asked until the first part is waited for.  A provider may go on thinking, and
        counting, after its connection was closed.
        """


class Providers(Protocol):
    """All providers that may be asked."""

    def of(self, settings: ProviderSettings) -> Provider:
        """Return who is asked by settings: with their bounds, retries and fall-back models."""
