"""Where the log is kept: PostgreSQL, the host's own or embedded."""

from dalsegno.runtime._account_store import (
    KeyRow as KeyRow,
    SessionRow as SessionRow,
    TicketRow as TicketRow,
)

from ._driver import (
    CommitUncertainError as CommitUncertainError,
    Connect as Connect,
    Connection as Connection,
    ConnectionBrokenError as ConnectionBrokenError,
    DatabaseError as DatabaseError,
    DriverError as DriverError,
    Pool as Pool,
    PoolStatistics as PoolStatistics,
    SessionRefusedError as SessionRefusedError,
)
from ._drivers import (
    DRIVERS as DRIVERS,
    DriverMissingError as DriverMissingError,
    DriverName as DriverName,
    open_driver as open_driver,
)
from ._dumps import PostgresDumps as PostgresDumps
from ._embedded import open_embedded as open_embedded
from ._held import abandon_all as abandon_all
from ._memory_accounts import MemoryAccounts as MemoryAccounts
from ._migrations import check as check, migrate as migrate
from ._postgres import PostgresStore as PostgresStore
from ._postgres_accounts import PostgresAccounts as PostgresAccounts
from ._psycopg import connect as connect
from ._readiness import bring_up_to_date as bring_up_to_date
from ._restoring import (
    RestoreRefusedError as RestoreRefusedError,
    Restoring as Restoring,
    check_rows_version as check_rows_version,
    restoring as restoring,
)
from ._suitability import (
    DatabaseRefusedError as DatabaseRefusedError,
    RightsMissingError as RightsMissingError,
    SchemaTooNewError as SchemaTooNewError,
    SchemaTooOldError as SchemaTooOldError,
    ServerUnsuitableError as ServerUnsuitableError,
)
