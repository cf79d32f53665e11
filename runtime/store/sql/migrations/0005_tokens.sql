-- Tokens of our own: sessions whose secret is in tokens and not in a cookie, and tickets.

-- refresh_key: what the tokens of such a session are made with, null for one in a cookie.  It makes
-- none without the secret, of which only the digest is here (id_hash).
-- generation: of the last refresh token that was given; rotated_at: when it was, null for the first.
alter table dalsegno.session
  add column refresh_key bytea,
  add column generation bigint not null default 1,
  add column rotated_at timestamptz;
