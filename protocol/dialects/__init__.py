"""Dialects: how a client's requests are read, and how events, answers and errors are written."""

from ._dialect import (
    Ack as Ack,
    Begun as Begun,
    ClientMessage as ClientMessage,
    CommandRequest as CommandRequest,
    Dialect as Dialect,
    Ping as Ping,
    SubscribeRequest as SubscribeRequest,
    UnsubscribeRequest as UnsubscribeRequest,
)
from ._generic import (
    GENERIC as GENERIC,
    CommandMessage as CommandMessage,
    Subscribe as Subscribe,
    Unsubscribe as Unsubscribe,
)
from ._language import (
    NOWHERE as NOWHERE,
    WEBSOCKET as WEBSOCKET,
    Addressed as Addressed,
    AnyRequest as AnyRequest,
    Language as Language,
    address_of as address_of,
)
from ._notes import (
    NOTES as NOTES,
    ApplyPatch as ApplyPatch,
    SubscribeNote as SubscribeNote,
    SubscribeWorkspace as SubscribeWorkspace,
    UnsubscribeNote as UnsubscribeNote,
    UnsubscribeWorkspace as UnsubscribeWorkspace,
)
from ._texts import error_message as error_message, message as message
from ._views import Views as Views
