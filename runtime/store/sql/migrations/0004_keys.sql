-- API keys: the programs that act in a workspace, each a member of it under the key's own id.

-- The digests are of secrets of 256 bits; the previous one counts until it is dropped, so that a key
-- can be replaced where it is used without a moment in which neither works.
-- connection: the digest by which its sockets are closed, as a session's id_hash is.
create table dalsegno.api_key (
  key_id text collate "C" primary key,
  workspace_id text collate "C" not null,
  name text not null,
  created_by text not null,
  created_at timestamptz not null,
  expires_at timestamptz,
  last_used_at timestamptz,
  revoked_at timestamptz,
  digest bytea not null,
  previous bytea,
  connection bytea not null unique
);
create index api_key_of_workspace on dalsegno.api_key (workspace_id, key_id);
