"""Model providers: who answers what a run asks of a model, part by part.

`open_providers` keeps the connections, `HttpProviders.of` makes of settings who is asked.
"""

from dalsegno.protocol.providers import (
    DEFAULT_ORIGINS as DEFAULT_ORIGINS,
    Answered as Answered,
    Category as Category,
    ChatMessage as ChatMessage,
    ChatPart as ChatPart,
    ChatRequest as ChatRequest,
    ChatStream as ChatStream,
    Provider as Provider,
    ProviderError as ProviderError,
    Providers as Providers,
    ProviderSettings as ProviderSettings,
    ProviderSettingsError as ProviderSettingsError,
    ReasoningDelta as ReasoningDelta,
    Restarted as Restarted,
    TextDelta as TextDelta,
    Tool as Tool,
    ToolCall as ToolCall,
    ToolCallDelta as ToolCallDelta,
    Usage as Usage,
    read_provider_settings as read_provider_settings,
)

from ._keys import (
    ProviderKey as ProviderKey,
    key_from_environment as key_from_environment,
    read_key as read_key,
)
from ._limits import ProviderLimits as ProviderLimits
from ._open import HttpProviders as HttpProviders, open_providers as open_providers
from ._openai import OpenAIChat as OpenAIChat
from ._persistent import Persistent as Persistent
