-- What is on record is taken into the log of `$audit`, and marked with the event by which it is
-- there: null is not yet, and so is all that an earlier release has written, or still writes.
alter table dalsegno.command_audit add column collected_seq bigint;
alter table dalsegno.audit add column collected_seq bigint;

create index command_audit_uncollected on dalsegno.command_audit
  (recorded_at, workspace_id, event_seq, n) where collected_seq is null;
create index audit_uncollected on dalsegno.audit (recorded_at, workspace_id, id)
  where collected_seq is null;

-- What was refused, until it has been there for a day.
create table dalsegno.audit_refusal (
  refusal_id text collate "C" primary key,
  recorded_at timestamptz not null,
  workspace_id text collate "C",
  user_id text collate "C",
  action text collate "C" not null,
  resource_type text collate "C" not null,
  resource_id text collate "C" not null,
  new_value json,
  request_id text,
  address text,
  collected_seq bigint
);
create index audit_refusal_uncollected on dalsegno.audit_refusal (recorded_at, refusal_id)
  where collected_seq is null;
create index audit_refusal_collected on dalsegno.audit_refusal (recorded_at)
  where collected_seq is not null;
