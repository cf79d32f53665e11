-- What was revoked of late: every node asks once a second.
create index session_revoked on dalsegno.session (revoked_at) where revoked_at is not null;
create index api_key_revoked on dalsegno.api_key (revoked_at) where revoked_at is not null;
