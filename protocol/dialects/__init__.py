"""Dialects: how a client's requests are read, and how events, answers and errors are written."""

from ._asyncapi import asyncapi_of as asyncapi_of
from ._dialect import (
    SHARED as SHARED,
    Ack as Ack,
    AttendRequest as AttendRequest,
    Authenticate as Authenticate,
    Begun as Begun,
    ClientMessage as ClientMessage,
    CommandRequest as CommandRequest,
    Dialect as Dialect,
    LeaveRequest as LeaveRequest,
    Passes as Passes,
    Ping as Ping,
    Seq as Seq,
    Shown as Shown,
    StateRequest as StateRequest,
    SubscribeRequest as SubscribeRequest,
    Text as Text,
    UnsubscribeRequest as UnsubscribeRequest,
    ViewRequest as ViewRequest,
)
from ._event_stream import (
    COMMENT as COMMENT,
    EVENT_STREAM as EVENT_STREAM,
    EventStreamDialect as EventStreamDialect,
    EventStreamLanguage as EventStreamLanguage,
    Follow as Follow,
    FollowFromNow as FollowFromNow,
    FollowProjectFromNow as FollowProjectFromNow,
    FollowProjectStream as FollowProjectStream,
)
from ._generic import (
    GENERIC as GENERIC,
    Attend as Attend,
    ChangeState as ChangeState,
    CommandMessage as CommandMessage,
    GenericDialect as GenericDialect,
    Leave as Leave,
    Subscribe as Subscribe,
    Unsubscribe as Unsubscribe,
)
from ._language import (
    NOWHERE as NOWHERE,
    Addressed as Addressed,
    AnyRequest as AnyRequest,
    Beginning as Beginning,
    Language as Language,
    address_of as address_of,
)
from ._presence import (
    PRESENCE_SAYS as PRESENCE_SAYS,
    PresenceDialect as PresenceDialect,
    PresenceSubscribe as PresenceSubscribe,
    PresenceUnsubscribe as PresenceUnsubscribe,
    PresenceUpdate as PresenceUpdate,
)
from ._project import (
    PROJECT as PROJECT,
    FollowProject as FollowProject,
    ProjectDialect as ProjectDialect,
    ProjectHeartbeat as ProjectHeartbeat,
    project_socket as project_socket,
)
from ._said import (
    Said as Said,
    asked_by as asked_by,
    encode_said as encode_said,
    error_message as error_message,
)
from ._socket import Conversation as Conversation, Opening as Opening, Socket as Socket
from ._texts import quoted as quoted
from ._views import Views as Views
