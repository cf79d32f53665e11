"""Python's garbage collector, set for what a runtime does.

A command is some twenty small objects that live until its commit, in which there are hardly any
cycles.  By default Python looks for them after every 700 new objects, and goes through all that the
process ever made from time to time: with a thousand commands on their way that costs a tenth of the
processor time.

The collector is the process's, so only whoever runs the process may set it: `dalsegno serve` does,
and a program by ``Runtime.open(gc="server")``.
"""

from __future__ import annotations

import gc

_AFTER = 50_000
"""How many new objects make the collector look for young cycles.

A pass over so many that are alive takes 40 ms, in one step; but at 2,000 a command under full load
costs 40 % more, since what is on its way is looked at again and again.
"""


def set_for_server() -> None:
    """Collect more rarely from now on, and never again look at what exists by now.

    It is for the rest of the process's life: other parts of it may have set it meanwhile.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_AFTER)
