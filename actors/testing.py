"""What tests of programs on Dal Segno need.

A store and connections in memory, which keep every promise; a history of what clients saw, and the
checker that judges it; and a simulation of whole nodes under every fault.
"""

from ._check_log import RunRule as RunRule
from ._checker import check as check, correlation_marker as correlation_marker
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
from ._memory_store import MemoryStore as MemoryStore
from ._memory_transport import (
    MemoryClient as MemoryClient,
    MemoryTransport as MemoryTransport,
    memory_connection as memory_connection,
)
from ._recorder import Asked as Asked, Followed as Followed, Recorder as Recorder
from ._sim_choices import (
    Choices as Choices,
    HypothesisChoices as HypothesisChoices,
    Noise as Noise,
    SeededChoices as SeededChoices,
)
from ._sim_failover import FailoverStore as FailoverStore
from ._sim_faults import FAULTS as FAULTS
from ._sim_link import Link as Link, LinkState as LinkState, Weather as Weather
from ._sim_load import Ask as Ask
from ._sim_store import SimStore as SimStore
from ._simulation import (
    OPERATIONS as OPERATIONS,
    SIM_LIMITS as SIM_LIMITS,
    Simulated as Simulated,
    simulate as simulate,
)
from ._verdicts import Report as Report, Verdict as Verdict, Violation as Violation
