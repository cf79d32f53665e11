-- What domains say beside events: under which keys an entity is listed and in what order, when it
-- is to be asked again, what is put on record of a change, and how far those have come who follow.

-- A server of the release before would leave the new columns as they are, so all of them end:
-- somebody else is their node now, which they are told by their next beat, and they acquire nothing
-- until then.  No process is called so; servers of this release wait until such a lease is over.
update dalsegno.node set incarnation = 'fenced ' || incarnation;

-- The version of the program that owned a workspace last: an older one is refused.
alter table dalsegno.workspace_head add column app_version integer not null default 0;

-- Keyed into the payload's digest, so that a short payload cannot be guessed from the chain; null:
-- an event of before.  An erased payload leaves its digest.
alter table dalsegno.event add column salt bytea, add column erased_digest bytea;

-- index_version: of the domain that computed keys, sort and due_at; a lower one is computed again
-- before it is relied on.  null: no lower than the version that folded the stored state.
-- state_bytes: of the state as text, null where it was stored before.
alter table dalsegno.entity
  add column sort text collate "C",
  add column due_at timestamptz,
  add column index_version integer,
  add column state_bytes bigint;
create index entity_due on dalsegno.entity (due_at, workspace_id, stream_id)
  where due_at is not null;
create index entity_index_version on dalsegno.entity
  (split_part(stream_id, ':', 1), coalesce(index_version, domain_version), workspace_id, stream_id);

-- One row a key of an entity that exists, and one with the empty key where it has a sort.
create table dalsegno.entity_key (
  workspace_id text collate "C" not null,
  domain text collate "C" not null,
  key text collate "C" not null,
  sort text collate "C" not null,
  stream_id text collate "C" not null,
  primary key (workspace_id, domain, key, sort, stream_id)
);
insert into dalsegno.entity_key
select distinct e.workspace_id, split_part(e.stream_id, ':', 1), k.key, '', e.stream_id
  from dalsegno.entity e cross join lateral unnest(e.keys) as k(key)
 where e.live;

-- Servers of the release before write until their next beat; what they list is listed here too.
-- Servers of this release set index_version with every row.
create function dalsegno.entity_key_of_before() returns trigger language plpgsql as $$
begin
  delete from dalsegno.entity_key
   where workspace_id = new.workspace_id and domain = split_part(new.stream_id, ':', 1)
     and key = any(old.keys) and stream_id = new.stream_id;
  insert into dalsegno.entity_key
  select distinct new.workspace_id, split_part(new.stream_id, ':', 1), k.key, '', new.stream_id
    from unnest(new.keys) as k(key) where new.live
  on conflict do nothing;
  return null;
end $$;
create trigger entity_key_of_before after insert or update on dalsegno.entity
  for each row when (new.index_version is null)
  execute function dalsegno.entity_key_of_before();

-- What domains put on record of their events, in the statement that appends these.
create table dalsegno.command_audit (
  workspace_id text collate "C" not null,
  event_seq bigint not null,
  n integer not null,
  recorded_at timestamptz not null,
  actor_id text collate "C",
  action text collate "C" not null,
  resource_type text collate "C" not null,
  resource_id text collate "C" not null,
  old_value json,
  new_value json,
  request_id text,
  address text,
  primary key (workspace_id, event_seq, n)
);

create table dalsegno.follower_cursor (
  name text collate "C" not null,
  version integer not null,
  workspace_id text collate "C" not null,
  seq bigint not null,
  chain bigint not null,
  updated_at timestamptz not null,
  primary key (name, version, workspace_id)
) with (fillfactor = 70);
