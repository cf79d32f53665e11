"""One commit's way out: from the hub to each reader, live or from pages."""

from ._acks import (
    AckFrontiers as AckFrontiers,
    AckStatistics as AckStatistics,
    Frontier as Frontier,
)
from ._catch_up import read_ahead as read_ahead, read_page as read_page
from ._delivery import Delivery as Delivery, DeliveryStatistics as DeliveryStatistics
from ._hub import Hub as Hub
from ._live import TAIL_S as TAIL_S, Live as Live, Spoken as Spoken
from ._presence import (
    Attendance as Attendance,
    Entry as Entry,
    Presence as Presence,
    Presences as Presences,
    PresenceStatistics as PresenceStatistics,
)
from ._resume import (
    check_cursor as check_cursor,
    check_not_ahead as check_not_ahead,
    read_length as read_length,
)
from ._tail import event_bytes as event_bytes
