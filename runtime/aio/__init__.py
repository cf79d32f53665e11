"""For programs on asyncio: the runtime in a thread of its own, with awaitables and async iterators.

    async with aio.open_runtime("postgresql://…", app=app) as rt:
        await rt.workspace("acme").send(AddTask("t1", "Write"), key="k1")

The names, the arguments and the errors are those of `dalsegno.runtime`.
"""

from ._events import AioEvents as AioEvents
from ._runtime import AioRuntime as AioRuntime, Served as Served, open_runtime as open_runtime
from ._workspace import AioEntities as AioEntities, AioWorkspace as AioWorkspace
