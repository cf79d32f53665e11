-- The workspaces that have open runs: a run asks for its end at its deadline as long as it is open.
create index entity_open_run on dalsegno.entity (workspace_id)
  where due_at is not null and stream_id >= 'run:' and stream_id < 'run;';
