-- Tokens of our own: sessions whose secret is in tokens and not in a cookie, and tickets.

-- refresh_key: what the tokens of such a session are made with, null for one in a cookie.  It makes
-- none without the secret, of which only the digest is here (id_hash).
-- generation: of the last refresh token that was given; rotated_at: when it was, null for the first.
alter table dalsegno.session
  add column refresh_key bytea,
  add column generation bigint not null default 1,
  add column rotated_at timestamptz;

-- Tickets to open one socket each: taken out by whoever shows one, so that each works once.
-- session_hash: of what was shown for it, whose end is its socket's too; empty where nobody ends
-- that before session_expires_at.
create table dalsegno.ticket (
  digest bytea primary key,
  path text not null,
  user_id text collate "C" not null,
  session_hash bytea not null,
  session_expires_at timestamptz,
  is_renewable boolean not null,
  expires_at timestamptz not null
);
create index ticket_of_user on dalsegno.ticket (user_id);
create index ticket_expiry on dalsegno.ticket (expires_at);
