"""Tools for testing programs on Dal Segno.

A store and connections in memory, which keep every promise; a history of what clients saw, and the
checker that judges it; and a simulation of whole nodes under every fault.
"""

from .checker import (
    AckSent as AckSent,
    Answered as Answered,
    Asked as Asked,
    CommandSent as CommandSent,
    ConnectionEnded as ConnectionEnded,
    Crashed as Crashed,
    CursorAsked as CursorAsked,
    Delivered as Delivered,
    Followed as Followed,
    ReadSent as ReadSent,
    Record as Record,
    Recorder as Recorder,
    Report as Report,
    RolledBack as RolledBack,
    RunRule as RunRule,
    Settled as Settled,
    Subscribed as Subscribed,
    SubscriptionEnded as SubscriptionEnded,
    Verdict as Verdict,
    Violation as Violation,
    check as check,
    correlation_marker as correlation_marker,
    dump_record as dump_record,
    fingerprint as fingerprint,
    load_history as load_history,
    merge_histories as merge_histories,
)
from .memory import (
    MemoryClient as MemoryClient,
    MemoryStore as MemoryStore,
    MemoryTransport as MemoryTransport,
    memory_connection as memory_connection,
)
from .simulation import (
    FAULTS as FAULTS,
    OPERATIONS as OPERATIONS,
    RUNS as RUNS,
    SIM_LIMITS as SIM_LIMITS,
    Ask as Ask,
    Choices as Choices,
    FailoverStore as FailoverStore,
    HypothesisChoices as HypothesisChoices,
    Link as Link,
    LinkState as LinkState,
    Noise as Noise,
    SeededChoices as SeededChoices,
    SimStore as SimStore,
    Simulated as Simulated,
    Weather as Weather,
    simulate as simulate,
)
