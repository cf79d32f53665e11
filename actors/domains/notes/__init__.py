"""Notes: titled texts that several people and agents change at once."""

from . import _listing as _listing
from ._automation_events import (
    RULE_LABEL as RULE_LABEL,
    TRIGGER_LABEL as TRIGGER_LABEL,
    ended_as as ended_as,
    problem_of as problem_of,
)
from ._dialect import (
    ApplyPatchMessage as ApplyPatchMessage,
    SubscribeNote as SubscribeNote,
    SubscribeWorkspace as SubscribeWorkspace,
    UnsubscribeNote as UnsubscribeNote,
    UnsubscribeWorkspace as UnsubscribeWorkspace,
    note_dialect as note_dialect,
)
from ._domain import (
    NOTE_KINDS as NOTE_KINDS,
    TITLE_CHARS_MAX as TITLE_CHARS_MAX,
    ApplyPatch as ApplyPatch,
    CreateNote as CreateNote,
    DeleteMetadata as DeleteMetadata,
    DeleteNote as DeleteNote,
    Note as Note,
    NoteCommand as NoteCommand,
    NoteCreated as NoteCreated,
    NoteDeleted as NoteDeleted,
    NoteEvent as NoteEvent,
    NoteMetadataDeleted as NoteMetadataDeleted,
    NoteMetadataUpdated as NoteMetadataUpdated,
    NotePatched as NotePatched,
    NoteProjectUpdated as NoteProjectUpdated,
    NoteRollback as NoteRollback,
    NoteTagsUpdated as NoteTagsUpdated,
    NoteTitleUpdated as NoteTitleUpdated,
    PutMetadata as PutMetadata,
    RollbackNote as RollbackNote,
    SetProject as SetProject,
    SetTags as SetTags,
    SetTitle as SetTitle,
    notes as notes,
)
from ._labels import (
    METADATA_BYTES_MAX as METADATA_BYTES_MAX,
    METADATA_KEYS_MAX as METADATA_KEYS_MAX,
    TAG_CHARS_MAX as TAG_CHARS_MAX,
    TAGS_MAX as TAGS_MAX,
    check_tags as check_tags,
    set_note_tags as set_note_tags,
)
from ._links import LINKS_MAX as LINKS_MAX, link_parts as link_parts
from ._listing import (
    LIVE as LIVE,
    link_key as link_key,
    project_key as project_key,
    tag_key as tag_key,
)
from ._served import (
    note_app as note_app,
    note_domains as note_domains,
    note_routes as note_routes,
)
from ._text import (
    create_note as create_note,
    patch_note as patch_note,
    set_note_title as set_note_title,
)
