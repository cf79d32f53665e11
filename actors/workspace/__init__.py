"""One command's way: mailbox, decision, batch, commit."""

from ._budget import WriteBudgets as WriteBudgets
from ._cache import CacheBound as CacheBound
from ._command import (
    Command as Command,
    Receipts as Receipts,
    Sender as Sender,
    checking as checking,
    make_collecting as make_collecting,
    make_command as make_command,
    make_group as make_group,
    make_relisting as make_relisting,
    scope_of as scope_of,
)
from ._committer import (
    Committer as Committer,
    CommitterStatistics as CommitterStatistics,
    LiveKeyError as LiveKeyError,
)
from ._entity import (
    KEY_BYTES_MAX as KEY_BYTES_MAX,
    Entity as Entity,
    encoded_state as encoded_state,
    entity_from as entity_from,
    load_entity as load_entity,
    relisted_write as relisted_write,
    state_write as state_write,
    unlisted_write as unlisted_write,
)
from ._incarnation import Incarnation as Incarnation
from ._local_node import LocalNode as LocalNode
from ._mailbox import Mailbox as Mailbox
from ._room import Room as Room
from ._turn import Turn as Turn, in_turns as in_turns
