"""Model providers: which one is asked, what, and what comes back; values alone."""

from ._chat import (
    Answered as Answered,
    Category as Category,
    ChatMessage as ChatMessage,
    ChatPart as ChatPart,
    ChatRequest as ChatRequest,
    ChatStream as ChatStream,
    FinishReason as FinishReason,
    MessageRole as MessageRole,
    Provider as Provider,
    ProviderError as ProviderError,
    Providers as Providers,
    ReasoningDelta as ReasoningDelta,
    Restarted as Restarted,
    TextDelta as TextDelta,
    Tool as Tool,
    ToolCall as ToolCall,
    ToolCallDelta as ToolCallDelta,
    Usage as Usage,
)
from ._settings import (
    DEFAULT_ORIGINS as DEFAULT_ORIGINS,
    DEFAULT_URLS as DEFAULT_URLS,
    ProviderKind as ProviderKind,
    ProviderSettings as ProviderSettings,
    ProviderSettingsError as ProviderSettingsError,
    provider_problem as provider_problem,
    read_provider_settings as read_provider_settings,
)
