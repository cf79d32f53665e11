"""What this process serves: its workspaces, its lease, and what is looked up of both."""

from ._directory import Directory as Directory
from ._lease import (
    Lease as Lease,
    LeaseStatistics as LeaseStatistics,
    NodeReplacedError as NodeReplacedError,
)
from ._repair import RepairReport as RepairReport, repair as repair
from ._supervisor import (
    ServiceFailedError as ServiceFailedError,
    ServiceStatistics as ServiceStatistics,
    Supervisor as Supervisor,
    first_of as first_of,
)
from ._workspace_supervisor import SlotStatistics as SlotStatistics
