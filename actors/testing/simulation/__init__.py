"""Whole nodes and clients under every fault, in one deterministic run."""

from ._choices import (
    Choices as Choices,
    HypothesisChoices as HypothesisChoices,
    Noise as Noise,
    SeededChoices as SeededChoices,
)
from ._failover import FailoverStore as FailoverStore
from ._faults import FAULTS as FAULTS
from ._link import Link as Link, LinkState as LinkState, Weather as Weather
from ._load import Ask as Ask
from ._result import Simulated as Simulated
from ._simulate import (
    OPERATIONS as OPERATIONS,
    RUNS as RUNS,
    SIM_LIMITS as SIM_LIMITS,
    simulate as simulate,
)
from ._store import SimStore as SimStore
