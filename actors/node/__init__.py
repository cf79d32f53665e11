"""What this process serves: its workspaces, its lease, and what is looked up of both."""

from ._as_of import AsOf as AsOf
from ._catalog import Catalog as Catalog
from ._clock import StoreClock as StoreClock
from ._connection_ids import ConnectionIds as ConnectionIds
from ._directory import Directory as Directory
from ._dumping import StoreDump as StoreDump
from ._lease import (
    Lease as Lease,
    LeaseStatistics as LeaseStatistics,
    NodeReplacedError as NodeReplacedError,
)
from ._lifecycle import WorkspaceStatistics as WorkspaceStatistics
from ._listing import (
    entities_of as entities_of,
    list_anew as list_anew,
    list_entities as list_entities,
    list_keys as list_keys,
    snapshot as snapshot,
)
from ._look import look as look, look_at as look_at, read_head as read_head
from ._repair import RepairReport as RepairReport, repair as repair
from ._send import (
    collect as collect,
    relist as relist,
    send as send,
    send_all as send_all,
    send_group as send_group,
)
from ._serving_node import ServingNode as ServingNode
from ._supervisor import (
    ServiceFailedError as ServiceFailedError,
    ServiceStatistics as ServiceStatistics,
    Supervisor as Supervisor,
    first_of as first_of,
)
from ._sweeper import Sweep as Sweep, Sweeper as Sweeper
from ._workspace_supervisor import WorkspaceSupervisor as WorkspaceSupervisor
