"""What is on record of all workspaces, as one stream: the log of ``$audit``."""

from ._dialect import (
    AUDIT as AUDIT,
    AuditDialect as AuditDialect,
    FollowAudit as FollowAudit,
    FollowAuditFromNow as FollowAuditFromNow,
    FollowAuditStream as FollowAuditStream,
    SetFilter as SetFilter,
    audit_socket as audit_socket,
)
from ._export import (
    CSV_HEAD as CSV_HEAD,
    csv_row as csv_row,
    json_row as json_row,
)
from ._filter import (
    FILTER_FIELDS as FILTER_FIELDS,
    RecordFilter as RecordFilter,
    Time as Time,
    filter_of as filter_of,
)
from ._trail import (
    AUDIT_READERS as AUDIT_READERS,
    TRAIL_ID as TRAIL_ID,
    AuditEvent as AuditEvent,
    Trail as Trail,
    audit_event_of as audit_event_of,
    not_a_reader as not_a_reader,
    trail as trail,
)
