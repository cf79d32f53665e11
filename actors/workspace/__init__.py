"""One command's way: mailbox, decision, batch, commit."""

from ._command import (
    Command as Command,
    Domains as Domains,
    Receipt as Receipt,
    make_command as make_command,
)
from ._committer import (
    Committer as Committer,
    CommitterStatistics as CommitterStatistics,
    LiveKeyError as LiveKeyError,
)
from ._entity import (
    Entity as Entity,
    absent_entity as absent_entity,
    encoded_state as encoded_state,
    load_entity as load_entity,
    state_write as state_write,
)
from ._incarnation import Incarnation as Incarnation
from ._mailbox import Mailbox as Mailbox
