-- How far reactors have come.  A row a workspace has the places of all of them, since they are told
-- of its events together: names, and cursors as text.  Without a row, or a name in it, a reactor
-- begins with the first event: the workspace is newer than the reactor.
-- registered_at: once its place in every workspace that there was has been written.
create table dalsegno.reactor (
  name text collate "C" primary key,
  was text collate "C",
  since text not null,
  registered_at timestamptz
);

create table dalsegno.reactor_place (
  workspace_id text collate "C" primary key,
  places jsonb not null,
  to_begin boolean not null,
  updated_at timestamptz not null
) with (fillfactor = 70);

-- Where a reactor has to begin at the beginning, served or not.
create index reactor_place_to_begin on dalsegno.reactor_place (workspace_id) where to_begin;

-- Whose owner has gone.
create index workspace_head_owner on dalsegno.workspace_head (owner, workspace_id)
  where owner is not null;
