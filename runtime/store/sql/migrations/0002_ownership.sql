-- Who serves a workspace, and what is done to one from outside its log.

-- One row a node.  Its lease runs by this database's clock, and tells who should serve what the node
-- owns; what may be written is for a workspace's epoch alone to say.  It is updated every other
-- second, so its page is kept half empty (HOT).
create table dalsegno.node (
  node_id text collate "C" primary key,
  incarnation text not null,                 -- the one process that is this node now
  address text,
  expires_at timestamptz not null,
  started_at timestamptz not null
) with (fillfactor = 50);

-- The version of the code that halted the workspace: another one may try again.
alter table dalsegno.workspace_head add column halted_code text;

-- Rows of a workspace are written under the lock of its head, so that their ids are in order.
create table dalsegno.audit (
  id bigint generated always as identity primary key,
  recorded_at timestamptz not null default clock_timestamp(),
  workspace_id text collate "C" not null,
  actor text not null,
  action text not null,
  detail text not null
);
create index audit_of_workspace on dalsegno.audit (workspace_id, id);

create index session_expiry on dalsegno.session (expires_at);
