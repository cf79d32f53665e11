"""A history of what clients saw, and the checker that judges it."""

from ._check import check as check, correlation_marker as correlation_marker
from ._history import (
    AckSent as AckSent,
    Answered as Answered,
    CommandSent as CommandSent,
    ConnectionEnded as ConnectionEnded,
    Crashed as Crashed,
    CursorAsked as CursorAsked,
    Delivered as Delivered,
    ReadSent as ReadSent,
    Record as Record,
    RolledBack as RolledBack,
    Settled as Settled,
    Subscribed as Subscribed,
    SubscriptionEnded as SubscriptionEnded,
    dump_record as dump_record,
    fingerprint as fingerprint,
    load_history as load_history,
    merge_histories as merge_histories,
)
from ._log import RunRule as RunRule
from ._recorder import (
    UNKNOWN_CODES as UNKNOWN_CODES,
    Asked as Asked,
    Followed as Followed,
    Recorder as Recorder,
)
from ._verdicts import Report as Report, Verdict as Verdict, Violation as Violation
