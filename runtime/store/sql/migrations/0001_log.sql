-- The log and what is kept beside it.
--
-- Keys are COLLATE "C": they order by code point, as Python does and as every locale of a host's
-- database would not, and a range over a prefix stays a range of the index.

-- One row a workspace: where its log ends, and the epoch that alone may append to it.  It is
-- updated with every commit, so pages are kept half empty for updates that touch no index (HOT).
create table dalsegno.workspace_head (
  workspace_id text collate "C" primary key,
  epoch bigint not null,
  owner text,
  head_seq bigint not null default 0,
  first_seq bigint not null default 1,
  chain bigint not null default 0,           -- unsigned 64 bit, as its two's complement
  recorded_at timestamptz,
  halted_reason text,
  created_at timestamptz not null default now()
) with (fillfactor = 50);

-- json, never jsonb: a payload is stored and sent back byte for byte.
-- payload_bytes bounds a page of a replay by bytes without unpacking what does not fit in it.
create table dalsegno.event (
  workspace_id text collate "C" not null,
  event_seq bigint not null,
  stream_id text collate "C" not null,
  stream_seq bigint not null,
  event_id uuid not null,
  type text collate "C" not null,
  type_version integer not null,
  schema_version integer not null,
  payload json not null,
  actor_id text,
  command_id text collate "C" not null,
  source text,
  causation text,
  correlation_id text,
  recorded_at timestamptz not null,
  chain bigint not null,
  payload_bytes integer not null generated always as (octet_length(payload::text)) stored,
  primary key (workspace_id, event_seq),
  unique (workspace_id, stream_id, stream_seq)
);

-- Every kind of event that was ever appended, so that a start need not read the log to find out.
create table dalsegno.event_type (
  domain text collate "C" not null,
  type text collate "C" not null,
  type_version integer not null,
  primary key (domain, type, type_version)
);

create table dalsegno.command_result (
  workspace_id text collate "C" not null,
  scope text collate "C" not null,
  key text collate "C" not null,
  payload_hash bytea not null,
  answer json not null,
  event_seq bigint not null,
  expires_at timestamptz not null,
  primary key (workspace_id, scope, key)
);
create index command_result_expiry on dalsegno.command_result (expires_at);

-- An entity as of `version`; `state` may be an older one, of `state_version`.
create table dalsegno.entity (
  workspace_id text collate "C" not null,
  stream_id text collate "C" not null,
  version bigint not null,
  live boolean not null,
  keys text[] collate "C" not null,
  title text,
  state json,
  state_version bigint not null,
  domain_version integer not null,
  updated_at timestamptz not null,
  primary key (workspace_id, stream_id)
) with (fillfactor = 70);
create index entity_location on dalsegno.entity (stream_id, workspace_id);

create table dalsegno.snapshot (
  workspace_id text collate "C" not null,
  stream_id text collate "C" not null,
  version bigint not null,
  domain_version integer not null,
  state json not null,
  primary key (workspace_id, stream_id, version)
);

create table dalsegno.ack_cursor (
  user_id text collate "C" not null,
  client_id text collate "C" not null,
  workspace_id text collate "C" not null,
  stream_id text collate "C" not null,
  seq bigint not null,
  updated_at timestamptz not null,
  primary key (user_id, client_id, workspace_id, stream_id)
) with (fillfactor = 70);

-- The id is a hash: who reads the table cannot become somebody.
create table dalsegno.session (
  id_hash bytea primary key,
  user_id text collate "C" not null,
  csrf_token text not null,
  created_at timestamptz not null,
  expires_at timestamptz not null,
  last_seen_at timestamptz not null,
  revoked_at timestamptz
);
create index session_of_user on dalsegno.session (user_id);

create table dalsegno.credential (
  user_id text collate "C" primary key,
  password_hash text not null,
  updated_at timestamptz not null
);

-- lz4 packs several times faster than the default; a server may be built without it.
do $$
begin
  alter table dalsegno.event alter column payload set compression lz4;
  alter table dalsegno.entity alter column state set compression lz4;
  alter table dalsegno.snapshot alter column state set compression lz4;
exception when feature_not_supported then
  null;
end
$$;
