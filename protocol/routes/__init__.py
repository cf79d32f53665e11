"""Routes as values: how a request becomes a command or a read, and its result an answer."""

from ._asked import Asked as Asked
from ._bodies import ChangedBody as ChangedBody, RunBody as RunBody, changed as changed
from ._openapi import Served as Served, openapi_of as openapi_of
from ._operation import Access as Access, Method as Method, Operation as Operation
from ._params import Params as Params
from ._prefer import preferred_wait_s as preferred_wait_s
from ._reads import (
    BaseVersion as BaseVersion,
    Limit as Limit,
    Limited as Limited,
    Memberships as Memberships,
    MinSeq as MinSeq,
    Page as Page,
    Paging as Paging,
    Reading as Reading,
    Reads as Reads,
    Seen as Seen,
    SeenMembership as SeenMembership,
    found as found,
    page_of as page_of,
)
from ._route import (
    EVENT_STREAM_TYPE as EVENT_STREAM_TYPE,
    FROM_NOW as FROM_NOW,
    OF_EVENT_STREAMS as OF_EVENT_STREAMS,
    ArtifactRoute as ArtifactRoute,
    At as At,
    CommandRoute as CommandRoute,
    Download as Download,
    EventStreamRoute as EventStreamRoute,
    Following as Following,
    InSystem as InSystem,
    InWorkspace as InWorkspace,
    OfCaller as OfCaller,
    OfEntity as OfEntity,
    ReadRoute as ReadRoute,
    Route as Route,
    RunRoute as RunRoute,
    as_it_is as as_it_is,
    check_routes as check_routes,
    operation_of as operation_of,
)
