-- Each statement is headed by its name.  Parameters are text; arrays travel as array literals,
-- which costs the client a third of what adapting a list would.
--
-- Look-ups of many rows are lateral sub-selects on the whole primary key: whatever statistics say,
-- and a database that was never analysed says nothing, there is one way to run them.

-- append --
-- The group commit: all that it writes hangs on the heads that were won.  Arrays are unnested side
-- by side in a select list, a tenth faster than `from unnest(…, …)`, which stores each one first.
-- Of a column of events that has one value throughout, that value comes behind an empty array, and
-- is parsed once.
-- $1-6 heads, $7 lifetime of a key in seconds, $8-13 results, $14-41 events, $42-52 entities,
-- $53-57 snapshots.
with want as materialized (
  select * from (
      select unnest($1::text::text[]) as workspace_id,
             unnest($2::text::bigint[]) as epoch, unnest($3::text::bigint[]) as old_head,
             unnest($4::text::bigint[]) as new_head, unnest($5::text::bigint[]) as chain,
             unnest($6::text::timestamptz[]) as recorded_at
    ) as w
   order by workspace_id
), result as materialized (
  select * from (
      select unnest($8::text::text[]) as workspace_id, unnest($9::text::text[]) as scope,
             unnest($10::text::text[]) as key, unnest($11::text::text[]) as payload_hash,
             unnest($12::text::text[]) as answer, unnest($13::text::bigint[]) as event_seq
    ) as r
), taken as materialized (
  -- A live key refuses its own workspace and nobody else's.
  select distinct r.workspace_id from result r cross join lateral (
    select from dalsegno.command_result c
     where c.workspace_id = r.workspace_id and c.scope = r.scope and c.key = r.key
       and c.expires_at > statement_timestamp()
    offset 0) c
), locked as materialized (
  -- The fence: epoch and head are compared under the lock of the row, in the latest version of
  -- the row.  Skip locked: nobody waits for a neighbour.
  select w.* from want w cross join lateral (
    select from dalsegno.workspace_head h
     where h.workspace_id = w.workspace_id and h.epoch = w.epoch and h.head_seq = w.old_head
       and h.halted_reason is null
       for no key update skip locked) h
   where w.workspace_id not in (select workspace_id from taken)
), won as (
  update dalsegno.workspace_head h
     set head_seq = l.new_head, chain = coalesce(l.chain, h.chain),
         recorded_at = coalesce(l.recorded_at, h.recorded_at)
    from locked l where h.workspace_id = l.workspace_id
  returning h.workspace_id
), new_event as (
  insert into dalsegno.event (workspace_id, event_seq, stream_id, stream_seq, event_id, type,
    type_version, schema_version, payload, actor_id, command_id, source, causation, correlation_id,
    recorded_at, chain, salt)
  select coalesce(e.workspace_id, $15::text),
         e.event_seq,
         coalesce(e.stream_id, $18::text),
         e.stream_seq,
         e.event_id,
         coalesce(e.type, $22::text),
         coalesce(e.type_version, (select $24::text::integer)),
         coalesce(e.schema_version, (select $26::text::integer)),
         e.payload::json,
         coalesce(e.actor_id, $29::text),
         coalesce(e.command_id, $31::text),
         coalesce(e.source, $33::text),
         coalesce(e.causation, $35::text),
         coalesce(e.correlation_id, $37::text),
         coalesce(e.recorded_at, (select $39::text::timestamptz)),
         e.chain,
         decode(e.salt, 'hex')
    from (
      select unnest($14::text::text[]) as workspace_id,
             unnest($16::text::bigint[]) as event_seq,
             unnest($17::text::text[]) as stream_id,
             unnest($19::text::bigint[]) as stream_seq,
             unnest($20::text::uuid[]) as event_id,
             unnest($21::text::text[]) as type,
             unnest($23::text::integer[]) as type_version,
             unnest($25::text::integer[]) as schema_version,
             unnest($27::text::text[]) as payload,
             unnest($28::text::text[]) as actor_id,
             unnest($30::text::text[]) as command_id,
             unnest($32::text::text[]) as source,
             unnest($34::text::text[]) as causation,
             unnest($36::text::text[]) as correlation_id,
             unnest($38::text::timestamptz[]) as recorded_at,
             unnest($40::text::bigint[]) as chain,
             unnest($41::text::text[]) as salt
    ) as e
   where coalesce(e.workspace_id, $15::text) in (select workspace_id from won)
), new_result as (
  -- A row that is in the way has expired, or its workspace would not have won.
  insert into dalsegno.command_result
    (workspace_id, scope, key, payload_hash, answer, event_seq, expires_at)
  select workspace_id, scope, key, decode(payload_hash, 'hex'), answer::json, event_seq,
    statement_timestamp() + make_interval(secs => $7::text::double precision)
    from result where workspace_id in (select workspace_id from won)
  on conflict (workspace_id, scope, key) do update
    set payload_hash = excluded.payload_hash, answer = excluded.answer,
        event_seq = excluded.event_seq, expires_at = excluded.expires_at
), new_entity as (
  insert into dalsegno.entity as old
    (workspace_id, stream_id, version, live, keys, title, state, state_version, domain_version,
     updated_at, sort, due_at, index_version, state_bytes)
  select workspace_id, stream_id, version, live, keys::text[], title, state::json,
    case when state is null then 0 else version end, domain_version, updated_at, sort, due_at,
    domain_version, octet_length(state)
    from (
      select unnest($42::text::text[]) as workspace_id,
             unnest($43::text::text[]) as stream_id,
             unnest($44::text::bigint[]) as version, unnest($45::text::boolean[]) as live,
             unnest($46::text::text[]) as keys, unnest($47::text::text[]) as title,
             unnest($48::text::text[]) as state,
             unnest($49::text::integer[]) as domain_version,
             unnest($50::text::timestamptz[]) as updated_at,
             unnest($51::text::text[]) as sort, unnest($52::text::timestamptz[]) as due_at
    ) as n
   where workspace_id in (select workspace_id from won)
  on conflict (workspace_id, stream_id) do update
    set version = excluded.version, live = excluded.live, keys = excluded.keys,
        title = excluded.title, sort = excluded.sort, due_at = excluded.due_at,
        index_version = excluded.index_version,
        updated_at = case when excluded.version = old.version then old.updated_at
                          else excluded.updated_at end,
        state = coalesce(excluded.state, old.state),
        state_bytes = case when excluded.state is null then old.state_bytes
                           else excluded.state_bytes end,
        state_version = case when excluded.state is null then old.state_version
                             else excluded.state_version end,
        domain_version = case when excluded.state is null then old.domain_version
                              else excluded.domain_version end
), new_snapshot as (
  insert into dalsegno.snapshot (workspace_id, stream_id, version, domain_version, state)
  select workspace_id, stream_id, version, domain_version, state::json
    from (
      select unnest($53::text::text[]) as workspace_id,
             unnest($54::text::text[]) as stream_id,
             unnest($55::text::bigint[]) as version,
             unnest($56::text::integer[]) as domain_version,
             unnest($57::text::text[]) as state
    ) as s
   where workspace_id in (select workspace_id from won)
  on conflict (workspace_id, stream_id, version) do update
    set domain_version = excluded.domain_version, state = excluded.state
)
select workspace_id from won

-- append_more --
-- What `append` grows by where a batch has entities that are listed otherwise than before, or
-- something to put on record: it takes these in front of its last line.  What was listed is read in
-- the snapshot of the statement, which sees every batch of this workspace: one is on its way at a
-- time, and who owns the workspace next has waited for the last one.
-- $58-62 listed entities, $63-74 records.
), listed as materialized (
  select * from (
      select unnest($58::text::text[]) as workspace_id, unnest($59::text::text[]) as stream_id,
             unnest($60::text::boolean[]) as live, unnest($61::text::text[]) as keys,
             unnest($62::text::text[]) as sort
    ) as n
   where workspace_id in (select workspace_id from won)
), key_before as materialized (
  select l.workspace_id, split_part(l.stream_id, ':', 1) as domain, k.key,
         coalesce(e.sort, '') as sort, l.stream_id
    from listed l
    cross join lateral (
      select keys, sort from dalsegno.entity
       where workspace_id = l.workspace_id and stream_id = l.stream_id and live
      offset 0) e
    cross join lateral (
      select unnest(e.keys) union select '' where e.sort is not null) k(key)
), key_after as materialized (
  select l.workspace_id, split_part(l.stream_id, ':', 1) as domain, k.key,
         coalesce(l.sort, '') as sort, l.stream_id
    from listed l
    cross join lateral (
      select unnest(l.keys::text[]) union select '' where l.sort is not null) k(key)
   where l.live
), key_gone as (
  delete from dalsegno.entity_key k using (table key_before except table key_after) g
   where (k.workspace_id, k.domain, k.key, k.sort, k.stream_id)
       = (g.workspace_id, g.domain, g.key, g.sort, g.stream_id)
), key_new as (
  insert into dalsegno.entity_key (workspace_id, domain, key, sort, stream_id)
  table key_after except table key_before
  on conflict do nothing
), new_record as (
  insert into dalsegno.command_audit (workspace_id, event_seq, n, recorded_at, actor_id, action,
    resource_type, resource_id, old_value, new_value, request_id, address)
  select workspace_id, event_seq, n, recorded_at, actor_id, action, resource_type, resource_id,
    old_value::json, new_value::json, request_id, address
    from (
      select unnest($63::text::text[]) as workspace_id, unnest($64::text::bigint[]) as event_seq,
             unnest($65::text::integer[]) as n,
             unnest($66::text::timestamptz[]) as recorded_at,
             unnest($67::text::text[]) as actor_id, unnest($68::text::text[]) as action,
             unnest($69::text::text[]) as resource_type,
             unnest($70::text::text[]) as resource_id,
             unnest($71::text::text[]) as old_value, unnest($72::text::text[]) as new_value,
             unnest($73::text::text[]) as request_id, unnest($74::text::text[]) as address
    ) as r
   where workspace_id in (select workspace_id from won)

-- append_collecting --
-- What `append_more` grows by where a batch is made of what is on record: the log of `$audit`.
-- $75 its workspace, $76-80 the rows and the events by which they are there.
), collecting as materialized (
  select * from (
      select unnest($75::text::text[]) as workspace_id, unnest($76::text::text[]) as kind,
             unnest($77::text::text[]) as scope, unnest($78::text::bigint[]) as number,
             unnest($79::text::integer[]) as n, unnest($80::text::bigint[]) as event_seq
    ) as c
   where workspace_id in (select workspace_id from won)
), collected_event as (
  update dalsegno.command_audit a set collected_seq = c.event_seq from collecting c
   where c.kind = 'event' and a.workspace_id = c.scope and a.event_seq = c.number and a.n = c.n
), collected_intervention as (
  update dalsegno.audit a set collected_seq = c.event_seq from collecting c
   where c.kind = 'intervention' and a.id = c.number
), collected_refusal as (
  update dalsegno.audit_refusal r set collected_seq = c.event_seq from collecting c
   where c.kind = 'refusal' and r.refusal_id = c.scope

-- append_one --
-- The same for one event of one workspace, with a key or without ($24 and $25 are null).  A command
-- that comes alone is waited for, and to set up the statement above takes longer than to run it.
-- $1-6 the head, $7-18 the event, $19-23 its entity, $24-27 the result, $28 lifetime of a key in
-- seconds, $29 the event's salt, $30 and $31 the entity's sort and when it is due.
with locked as materialized (
  select h.workspace_id from dalsegno.workspace_head h
   where h.workspace_id = $1::text and h.epoch = $2::text::bigint
     and h.head_seq = $3::text::bigint and h.halted_reason is null
     and not exists (
       select from dalsegno.command_result c
        where c.workspace_id = $1::text and c.scope = $24::text and c.key = $25::text
          and c.expires_at > statement_timestamp())
     for no key update skip locked
), won as (
  update dalsegno.workspace_head h
     set head_seq = $4::text::bigint, chain = $5::text::bigint,
         recorded_at = $6::text::timestamptz
    from locked l where h.workspace_id = l.workspace_id
  returning h.workspace_id
), new_event as (
  insert into dalsegno.event (workspace_id, event_seq, stream_id, stream_seq, event_id, type,
    type_version, schema_version, payload, actor_id, command_id, source, causation, correlation_id,
    recorded_at, chain, salt)
  select workspace_id, $4::text::bigint, $7::text, $8::text::bigint, $9::text::uuid, $10::text,
    $11::text::integer, $12::text::integer, $13::text::json, $14::text, $15::text, $16::text,
    $17::text, $18::text, $6::text::timestamptz, $5::text::bigint, decode($29::text, 'hex')
    from won
), new_result as (
  insert into dalsegno.command_result
    (workspace_id, scope, key, payload_hash, answer, event_seq, expires_at)
  select workspace_id, $24::text, $25::text, decode($26::text, 'hex'), $27::text::json,
    $4::text::bigint,
    statement_timestamp() + make_interval(secs => $28::text::double precision)
    from won where $25::text is not null
  on conflict (workspace_id, scope, key) do update
    set payload_hash = excluded.payload_hash, answer = excluded.answer,
        event_seq = excluded.event_seq, expires_at = excluded.expires_at
), new_entity as (
  insert into dalsegno.entity as old
    (workspace_id, stream_id, version, live, keys, title, state, state_version, domain_version,
     updated_at, sort, due_at, index_version, state_bytes)
  select workspace_id, $7::text, $8::text::bigint, $19::text::boolean, $20::text::text[],
    $21::text, $22::text::json, case when $22::text is null then 0 else $8::text::bigint end,
    $23::text::integer, $6::text::timestamptz, $30::text, $31::text::timestamptz,
    $23::text::integer, octet_length($22::text)
    from won
  on conflict (workspace_id, stream_id) do update
    set version = excluded.version, live = excluded.live, keys = excluded.keys,
        title = excluded.title, sort = excluded.sort, due_at = excluded.due_at,
        index_version = excluded.index_version, updated_at = excluded.updated_at,
        state = coalesce(excluded.state, old.state),
        state_bytes = case when excluded.state is null then old.state_bytes
                           else excluded.state_bytes end,
        state_version = case when excluded.state is null then old.state_version
                             else excluded.state_version end,
        domain_version = case when excluded.state is null then old.domain_version
                              else excluded.domain_version end
)
select workspace_id from won

-- add_event_types --
insert into dalsegno.event_type (domain, type, type_version)
select * from unnest($1::text::text[], $2::text::text[], $3::text::integer[])
on conflict do nothing

-- event_types --
select domain, type, type_version from dalsegno.event_type

-- read_head --
select workspace_id, epoch, owner, head_seq, first_seq, chain, recorded_at, halted_reason,
       halted_code, app_version
  from dalsegno.workspace_head where workspace_id = $1::text

-- read_heads --
select h.workspace_id, h.epoch, h.owner, h.head_seq, h.first_seq, h.chain, h.recorded_at,
       h.halted_reason, h.halted_code, h.app_version
  from unnest($1::text::text[]) as w(workspace_id)
  cross join lateral (
    select * from dalsegno.workspace_head
     where workspace_id = w.workspace_id
    offset 0) h

-- acquire --
-- $1 workspace, $2 node, $3 whether to begin a workspace that is absent, $4 the node's incarnation,
-- $5 the program's version.
-- One row: the head as it is now, or as it was found where another node keeps it, or a later program
-- has owned it, or, without its owner, where another process is this node.  No row: absent, or begun by somebody else just now,
-- which the snapshot of this statement cannot see.
with me as materialized (
  -- A process that was replaced a moment ago may still get through: its epoch is not the last one,
  -- and whoever replaced it compares what it owns with every beat.
  select coalesce(bool_or(incarnation <> $4::text), false) as replaced
    from dalsegno.node where node_id = $2::text
), seen as materialized (
  -- What another node serves is only looked at: appends of that node skip a head that is locked.
  select h.*, me.replaced,
         not me.replaced and (h.owner is null or h.owner = $2::text or n.expires_at is null) as free
    from dalsegno.workspace_head h cross join me
    left join lateral (
      select expires_at from dalsegno.node
       where node_id = h.owner and expires_at > clock_timestamp()
      offset 0) n on true
   where h.workspace_id = $1::text
), locked as materialized (
  -- In its latest version, for which this may have waited.
  select h.*, h.owner is not distinct from s.owner as same_owner
    from seen s cross join lateral (
      select workspace_id, epoch, owner, head_seq, first_seq, chain, recorded_at, halted_reason,
             halted_code, app_version
        from dalsegno.workspace_head
       where workspace_id = s.workspace_id
         for no key update) h
   where s.free
), judged as materialized (
  -- The lease too counts in its latest version, and is kept from being prolonged until the head is
  -- taken: from the return of a beat on, nobody takes over what it had let run out.
  -- An owner that came while this waited is not judged: its lease may be younger than the snapshot.
  select l.*, l.app_version <= $5::text::integer
           and (l.owner is null or l.owner = $2::text
                or l.same_owner and coalesce(n.expires_at <= clock_timestamp(), true)) as free
    from locked l
    left join lateral (
      select expires_at from dalsegno.node
       where node_id = l.owner and l.owner <> $2::text and l.same_owner
         for share) n on true
), taken as (
  update dalsegno.workspace_head h
     set epoch = h.epoch + 1, owner = $2::text, app_version = $5::text::integer
    from judged j where h.workspace_id = j.workspace_id and j.free
  returning h.workspace_id, h.epoch, h.owner, h.head_seq, h.first_seq, h.chain, h.recorded_at,
            h.halted_reason, h.halted_code, h.app_version
), begun as (
  insert into dalsegno.workspace_head (workspace_id, epoch, owner, app_version)
  select $1::text, 1, $2::text, $5::text::integer
    from me where $3::text::boolean and not replaced and not exists (select from seen)
  on conflict (workspace_id) do nothing
  returning workspace_id, epoch, owner, head_seq, first_seq, chain, recorded_at, halted_reason,
            halted_code, app_version
)
select * from taken
union all
select * from begun
union all
select workspace_id, epoch, owner, head_seq, first_seq, chain, recorded_at, halted_reason,
       halted_code, app_version
  from judged where not free
union all
select workspace_id, epoch, case when replaced then null else owner end, head_seq, first_seq, chain,
       recorded_at, halted_reason, halted_code, app_version
  from seen where not free

-- release --
update dalsegno.workspace_head set owner = null
 where workspace_id = $1::text and epoch = $2::text::bigint
returning epoch

-- halt --
-- $1 workspace, $2 epoch, $3 reason, $4 code, $5 actor.
with locked as materialized (
  select workspace_id, halted_reason from dalsegno.workspace_head
   where workspace_id = $1::text and epoch = $2::text::bigint
     for no key update
), halted as (
  update dalsegno.workspace_head h set halted_reason = $3::text, halted_code = $4::text
    from locked l where h.workspace_id = l.workspace_id and l.halted_reason is null
  returning h.workspace_id
), noted as (
  insert into dalsegno.audit (workspace_id, actor, action, detail)
  select workspace_id, $5::text, 'halted', $3::text from halted
)
select workspace_id from locked

-- resume --
-- $1 workspace, $2 epoch, $3 actor, $4 detail.
with locked as materialized (
  select workspace_id, halted_reason from dalsegno.workspace_head
   where workspace_id = $1::text and epoch = $2::text::bigint
     for no key update
), resumed as (
  update dalsegno.workspace_head h set halted_reason = null, halted_code = null
    from locked l where h.workspace_id = l.workspace_id and l.halted_reason is not null
  returning h.workspace_id
), noted as (
  insert into dalsegno.audit (workspace_id, actor, action, detail)
  select workspace_id, $3::text, 'resumed', $4::text from resumed
)
select workspace_id from locked

-- read_audit --
select recorded_at, workspace_id, actor, action, detail from dalsegno.audit
 where workspace_id = $1::text
 order by id desc
 limit $2::text::integer

-- read_records --
-- $1 workspace, $2 actor, $3 action, $4 resource's type, $5 its id, $6 from then on, $7 up to then,
-- $8-10 where the last page ended, $11 limit.  Both kinds have their own order; merged by time.
select recorded_at, event_seq, n, actor_id, action, resource_type, resource_id, old_value,
       new_value, request_id, address
  from (
    (select recorded_at, event_seq, n::bigint as n, actor_id, action, resource_type, resource_id,
            old_value::text, new_value::text, request_id, address
       from dalsegno.command_audit
      where workspace_id = $1::text
        and event_seq <= $8::text::bigint and (event_seq, n) < ($8::text::bigint, $9::text::bigint)
        and ($2::text is null or actor_id = $2::text)
        and ($3::text is null or action = $3::text)
        and ($4::text is null or resource_type = $4::text)
        and ($5::text is null or resource_id = $5::text)
        and ($6::text is null or recorded_at >= $6::text::timestamptz)
        and ($7::text is null or recorded_at < $7::text::timestamptz)
      order by event_seq desc, n desc limit $11::text::integer)
    union all
    (select recorded_at, null, id, actor, action, 'workspace', workspace_id, null,
            to_json(detail)::text, null, null
       from dalsegno.audit
      where workspace_id = $1::text and id < $10::text::bigint
        and ($2::text is null or actor = $2::text)
        and ($3::text is null or action = $3::text)
        and ($4::text is null or 'workspace' = $4::text)
        and ($5::text is null or workspace_id = $5::text)
        and ($6::text is null or recorded_at >= $6::text::timestamptz)
        and ($7::text is null or recorded_at < $7::text::timestamptz)
      order by id desc limit $11::text::integer)) r
 order by recorded_at desc, event_seq desc nulls first, n desc
 limit $11::text::integer

-- add_refusals --
insert into dalsegno.audit_refusal
  (refusal_id, recorded_at, workspace_id, user_id, action, resource_type, resource_id, new_value,
   request_id, address)
select refusal_id, recorded_at, workspace_id, user_id, action, resource_type, resource_id,
       new_value::json, request_id, address
  from (
    select unnest($1::text::text[]) as refusal_id, unnest($2::text::timestamptz[]) as recorded_at,
           unnest($3::text::text[]) as workspace_id, unnest($4::text::text[]) as user_id,
           unnest($5::text::text[]) as action, unnest($6::text::text[]) as resource_type,
           unnest($7::text::text[]) as resource_id, unnest($8::text::text[]) as new_value,
           unnest($9::text::text[]) as request_id, unnest($10::text::text[]) as address
  ) as r
on conflict (refusal_id) do nothing

-- may_collect --
-- $1 node, $2 the workspace of the audit.
select (exists (select from dalsegno.command_audit where collected_seq is null)
        or exists (select from dalsegno.audit where collected_seq is null)
        or exists (select from dalsegno.audit_refusal where collected_seq is null))
   and not exists (
     select from dalsegno.workspace_head h
      where h.workspace_id = $2::text
        and (h.halted_reason is not null
             or h.owner <> $1::text
                and exists (select from dalsegno.node n
                             where n.node_id = h.owner and n.expires_at > clock_timestamp())))

-- read_uncollected --
-- $1 how many, $2 bytes of values.  The numbers of a workspace grow with their times.
select kind, scope, number, n, recorded_at, workspace_id, actor_id, action, resource_type,
       resource_id, old_value, new_value, request_id, address
  from (
    select r.*,
           row_number() over (order by recorded_at, kind, scope, number, n) as place,
           sum(coalesce(octet_length(old_value), 0) + coalesce(octet_length(new_value), 0))
             over (order by recorded_at, kind, scope, number, n) as bytes
      from (
        (select 'event' as kind, workspace_id as scope, event_seq as number, n, recorded_at,
                workspace_id, actor_id, action, resource_type, resource_id,
                old_value::text as old_value, new_value::text as new_value, request_id, address
           from dalsegno.command_audit where collected_seq is null
          order by recorded_at, workspace_id, event_seq, n limit $1::text::integer)
        union all
        (select 'intervention', workspace_id, id, 0, recorded_at, workspace_id, actor, action,
                'workspace', workspace_id, null, to_json(detail)::text, null, null
           from dalsegno.audit where collected_seq is null
          order by recorded_at, workspace_id, id limit $1::text::integer)
        union all
        (select 'refusal', refusal_id, 0, 0, recorded_at, workspace_id, user_id, action,
                resource_type, resource_id, null, new_value::text, request_id, address
           from dalsegno.audit_refusal where collected_seq is null
          order by recorded_at, refusal_id limit $1::text::integer)) r) r
 where place <= $1::text::integer and (place = 1 or bytes <= $2::text::bigint)
 order by place

-- is_collected --
-- $1 workspace, $2 event, $3 node, $4 the workspace of the audit.
select not exists (
         select from dalsegno.command_audit
          where collected_seq is null and workspace_id = $1::text
            and event_seq <= $2::text::bigint)
    or not exists (
         select from dalsegno.workspace_head h
           join dalsegno.node n on n.node_id = h.owner
          where h.workspace_id = $4::text and h.halted_reason is null and h.owner <> $3::text
            and n.expires_at > clock_timestamp())

-- sweep_refusals --
-- $1 at most so many.
delete from dalsegno.audit_refusal where refusal_id in (
  select refusal_id from dalsegno.audit_refusal
   where collected_seq is not null and recorded_at < clock_timestamp() - interval '1 day'
   order by recorded_at limit $1::text::integer
   for update skip locked)
returning 1

-- lower_app_version --
-- $1 version, $2 actor.
with lowered as (
  update dalsegno.workspace_head set app_version = $1::text::integer
   where app_version > $1::text::integer
  returning workspace_id
)
insert into dalsegno.audit (workspace_id, actor, action, detail)
select workspace_id, $2::text, 'app_version', 'programs of version ' || $1::text || ' may own it'
  from lowered
returning 1

-- read_time --
select clock_timestamp()::text

-- beat --
-- $1 node, $2 incarnation, $3 address, $4 seconds, $5 whether this process is the node from now on.
-- One row, what was left of the lease; none where another process is the node.
with was as materialized (
  select incarnation, expires_at from dalsegno.node where node_id = $1::text
     for no key update
), looked as materialized (
  -- The time is asked for once the row is locked.
  select w.incarnation, w.expires_at, clock_timestamp() as at
    from (values (true)) as always left join was w on true
), written as (
  insert into dalsegno.node as n (node_id, incarnation, address, expires_at, started_at)
  select $1::text, $2::text, $3::text,
         at + make_interval(secs => $4::text::double precision), at
    from looked
   where $5::text::boolean or coalesce(incarnation, $2::text) = $2::text
  on conflict (node_id) do update
    set incarnation = excluded.incarnation, address = excluded.address,
        expires_at = excluded.expires_at,
        started_at = case when n.incarnation = excluded.incarnation then n.started_at
                          else excluded.started_at end
    where $5::text::boolean or n.incarnation = excluded.incarnation
  returning n.node_id
)
select coalesce(extract(epoch from l.expires_at - l.at), 0)::double precision
  from looked l cross join written

-- fenced_s --
-- $1 this node.  How long servers of the release before may go on; see the migrations.
select coalesce(extract(epoch from max(expires_at) - clock_timestamp()), 0)::double precision
  from dalsegno.node where incarnation like 'fenced %' and node_id <> $1::text

-- next_end_s --
-- $1 this node.
select extract(epoch from min(expires_at) - clock_timestamp())::double precision
  from dalsegno.node where node_id <> $1::text and expires_at > clock_timestamp()

-- forget --
update dalsegno.node set expires_at = least(expires_at, clock_timestamp())
 where node_id = $1::text and incarnation = $2::text

-- sweep_nodes --
with dead as materialized (
  select node_id from dalsegno.node where expires_at <= clock_timestamp() - interval '1 day'
   limit 1000
     for update skip locked
)
delete from dalsegno.node n using dead d where n.node_id = d.node_id

-- find_node --
select node_id, address, extract(epoch from expires_at - clock_timestamp())::double precision
  from dalsegno.node where node_id = $1::text

-- read_events --
-- The sum runs along the primary key, so reading stops at the limit; of a payload that does not
-- fit, only its length is read.
select event_seq, stream_id, stream_seq, event_id, type, type_version, schema_version, payload,
       actor_id, command_id, source, causation, correlation_id, recorded_at, chain, salt
  from (
    select e.event_seq, e.stream_id, e.stream_seq, e.event_id::text, e.type, e.type_version,
           e.schema_version, e.payload, e.actor_id, e.command_id, e.source, e.causation,
           e.correlation_id, e.recorded_at::text, e.chain, encode(e.salt, 'hex') as salt,
           row_number() over page as place, sum(e.payload_bytes) over page as bytes
      from dalsegno.event e
     where e.workspace_id = $1::text
       and e.event_seq >= $2::text::bigint and e.event_seq <= $3::text::bigint
    window page as (order by e.event_seq rows unbounded preceding)
     order by e.event_seq
     limit $4::text::integer) p
 where place = 1 or bytes <= $5::text::bigint
 order by event_seq

-- read_stream --
select event_seq, stream_id, stream_seq, event_id, type, type_version, schema_version, payload,
       actor_id, command_id, source, causation, correlation_id, recorded_at, chain, salt
  from (
    select e.event_seq, e.stream_id, e.stream_seq, e.event_id::text, e.type, e.type_version,
           e.schema_version, e.payload, e.actor_id, e.command_id, e.source, e.causation,
           e.correlation_id, e.recorded_at::text, e.chain, encode(e.salt, 'hex') as salt,
           row_number() over page as place, sum(e.payload_bytes) over page as bytes
      from dalsegno.event e
     where e.workspace_id = $1::text and e.stream_id = $2::text
       and e.stream_seq >= $3::text::bigint and e.event_seq <= $4::text::bigint
    window page as (order by e.stream_seq rows unbounded preceding)
     order by e.stream_seq
     limit $5::text::integer) p
 where place = 1 or bytes <= $6::text::bigint
 order by stream_seq

-- find_commands --
-- Few events are above a head that was committed a moment ago; the key narrows to those.
select e.event_seq, e.stream_id, e.stream_seq, e.event_id::text, e.type, e.type_version,
       e.schema_version, e.payload, e.actor_id, e.command_id, e.source, e.causation,
       e.correlation_id, e.recorded_at::text, e.chain, encode(e.salt, 'hex')
  from dalsegno.event e
 where e.workspace_id = $1::text and e.event_seq > $2::text::bigint
   and e.command_id = any($3::text::text[])
 order by e.event_seq

-- read_versions --
select w.stream_id, e.version
  from unnest($2::text::text[]) as w(stream_id)
  cross join lateral (
    select version from dalsegno.entity
     where workspace_id = $1::text and stream_id = w.stream_id
    offset 0) e

-- find_states --
-- For each stream the newest state that can be used, of the entity itself or of a snapshot, no
-- newer than the version asked for; a null version asks for the current one.
-- $2 streams, $3 the domain version whose states can be used, $4 versions.
select w.stream_id, coalesce(w.version, e.version), coalesce(s.state, e.state),
       coalesce(s.version, e.state_version)
  from unnest($2::text::text[], $3::text::integer[], $4::text::bigint[])
    as w(stream_id, domain_version, version)
  cross join lateral (
    select x.version, case when x.usable then x.state end as state,
           case when x.usable then x.state_version else 0 end as state_version
      from (
        select version, state, state_version,
               state is not null and domain_version = w.domain_version
                 and state_version <= coalesce(w.version, version) as usable
          from dalsegno.entity
         where workspace_id = $1::text and stream_id = w.stream_id
        offset 0) x) e
  left join lateral (
    select state, version from dalsegno.snapshot
     where workspace_id = $1::text and stream_id = w.stream_id
       and version > e.state_version and version <= coalesce(w.version, e.version)
       and domain_version = w.domain_version
     order by version desc limit 1) s on true
 where coalesce(w.version, e.version) between 1 and e.version

-- load_many --
-- Entities of several workspaces with their tails, at one moment: a row for each event, or one for
-- an entity without any; the first row of each has its state.
-- $1 workspaces, $2 streams, $3 the domain version whose states can be used, $4 at most so many
-- events of each.
select w.place, x.version, case when t.stream_seq is null or t.stream_seq = x.state_version + 1
                                then x.state end, x.state_version,
       t.event_seq, t.stream_id, t.stream_seq, t.event_id, t.type, t.type_version,
       t.schema_version, t.payload, t.actor_id, t.command_id, t.source, t.causation,
       t.correlation_id, t.recorded_at, t.chain, t.salt
  from unnest($1::text::text[], $2::text::text[], $3::text::integer[])
    with ordinality as w(workspace_id, stream_id, domain_version, place)
  cross join lateral (
    select version, case when usable then state end as state,
           case when usable then state_version else 0 end as state_version
      from (
        select version, state, state_version,
               state is not null and domain_version = w.domain_version as usable
          from dalsegno.entity
         where workspace_id = w.workspace_id and stream_id = w.stream_id
        offset 0) e) x
  left join lateral (
    select e.event_seq, e.stream_id, e.stream_seq, e.event_id::text, e.type, e.type_version,
           e.schema_version, e.payload, e.actor_id, e.command_id, e.source, e.causation,
           e.correlation_id, e.recorded_at::text, e.chain, encode(e.salt, 'hex') as salt
      from dalsegno.event e
     where e.workspace_id = w.workspace_id and e.stream_id = w.stream_id
       and e.stream_seq > x.state_version and e.stream_seq <= x.version
     order by e.stream_seq limit $4::text::integer) t on true
 order by w.place, t.stream_seq

-- read_tails --
-- $2 streams, $3 and $4 the first and the last version, $5 at most so many events of each.
select e.event_seq, e.stream_id, e.stream_seq, e.event_id, e.type, e.type_version,
       e.schema_version, e.payload, e.actor_id, e.command_id, e.source, e.causation,
       e.correlation_id, e.recorded_at, e.chain, e.salt
  from unnest($2::text::text[], $3::text::bigint[], $4::text::bigint[])
    as w(stream_id, first, last)
  cross join lateral (
    select e.event_seq, e.stream_id, e.stream_seq, e.event_id::text, e.type, e.type_version,
           e.schema_version, e.payload, e.actor_id, e.command_id, e.source, e.causation,
           e.correlation_id, e.recorded_at::text, e.chain, encode(e.salt, 'hex') as salt
      from dalsegno.event e
     where e.workspace_id = $1::text and e.stream_id = w.stream_id
       and e.stream_seq >= w.first and e.stream_seq <= w.last
     order by e.stream_seq limit $5::text::integer) e
 order by e.stream_id, e.stream_seq

-- write_states --
-- $1 workspace, $2 epoch, $3 streams, $4 versions, $5 states, $6 the domain version of each.
-- The head is locked first, as an append does: an owner that was fenced writes nothing.
with locked as materialized (
  select workspace_id from dalsegno.workspace_head
   where workspace_id = $1::text and epoch = $2::text::bigint
     for share
), written as (
  update dalsegno.entity e
     set state = w.state::json, state_version = w.version,
         domain_version = w.domain_version, state_bytes = octet_length(w.state),
         index_version = coalesce(e.index_version, e.domain_version)
    from locked l, unnest($3::text::text[], $4::text::bigint[], $5::text::text[],
                          $6::text::integer[]) as w(stream_id, version, state, domain_version)
   where e.workspace_id = l.workspace_id and e.stream_id = w.stream_id and e.version = w.version
)
select workspace_id from locked

-- find_results --
select w.scope, w.key, r.payload_hash, r.answer, r.event_seq,
       extract(epoch from r.expires_at - statement_timestamp())::double precision
  from unnest($2::text::text[], $3::text::text[]) as w(scope, key)
  cross join lateral (
    select payload_hash, answer, event_seq, expires_at from dalsegno.command_result
     where workspace_id = $1::text and scope = w.scope and key = w.key
       and expires_at > statement_timestamp()
    offset 0) r

-- sweep_results --
-- Locked rows are being overwritten just now, which is as good.
with expired as materialized (
  select workspace_id, scope, key from dalsegno.command_result
   where expires_at <= statement_timestamp()
   order by expires_at limit $1::text::integer
   for update skip locked
)
delete from dalsegno.command_result r using expired x
 where r.workspace_id = x.workspace_id and r.scope = x.scope and r.key = x.key
returning r.event_seq

-- list_entities --
-- A page of a list, with the head and, if states are asked for, what these need to be folded, all of
-- one moment: a row for each event, or one for an entity without any, whose first row has the state;
-- one without an entity where the page is empty.
-- $1 workspace, $2 domain, $3 key or null, $4 and $5 sort and stream where the last page ended,
-- $6 limit, $7 the domain version whose states can be used, $8 bytes or null, $9 at most so many
-- events of each, $10 whether a key's list is read from its end.
with head as materialized (
  select head_seq from dalsegno.workspace_head where workspace_id = $1::text
), named as materialized (
  -- One more than asked for: whether anything follows.  ";" is the character after ":".
  (select '' collate "C" as sort, stream_id,
          row_number() over (order by workspace_id, stream_id) as place
     from dalsegno.entity
    where $3::text is null and live
      and (workspace_id, stream_id) > ($1::text, greatest($5::text, $2::text || ':') collate "C")
      and (workspace_id, stream_id) < ($1::text, $2::text || ';')
    order by workspace_id, stream_id limit $6::text::integer + 1)
  union all
  (select sort, stream_id, row_number() over (order by sort, stream_id) from dalsegno.entity_key
    where workspace_id = $1::text and domain = $2::text and key = $3::text
      and not $10::text::boolean and (sort, stream_id) > ($4::text, $5::text)
    order by sort, stream_id limit $6::text::integer + 1)
  union all
  (select sort, stream_id, row_number() over (order by sort desc, stream_id desc)
     from dalsegno.entity_key
    where workspace_id = $1::text and domain = $2::text and key = $3::text
      and $10::text::boolean and ($5::text = '' or (sort, stream_id) < ($4::text, $5::text))
    order by sort desc, stream_id desc limit $6::text::integer + 1)
), looked as materialized (
  select n.*, e.*,
         case when $8::text is null then 0
              else coalesce(case when usable then e.bytes end, 0) + t.bytes end as size
    from named n
    cross join lateral (
      select version, keys, sort as own_sort, title, updated_at, usable,
             case when usable then state_version else 0 end as state_version, bytes
        from (
          select *, state is not null and domain_version = $7::text::integer as usable,
                 case when $8::text is not null
                      then coalesce(state_bytes, octet_length(state::text)) end as bytes
            from dalsegno.entity
           where workspace_id = $1::text and stream_id = n.stream_id
          offset 0) x) e
    cross join lateral (
      select coalesce(sum(payload_bytes), 0) as bytes from (
        select v.payload_bytes from dalsegno.event v
         where $8::text is not null and v.workspace_id = $1::text and v.stream_id = n.stream_id
           and v.stream_seq > e.state_version and v.stream_seq <= e.version
         limit $9::text::integer) y) t
), page as materialized (
  select * from (
    select *, sum(size) over (order by place) as total from looked) l
   where place <= $6::text::integer and (place = 1 or total <= $8::text::bigint
         or $8::text is null)
)
select h.head_seq, (select count(*) from page) = (select count(*) from named) as is_last,
       -- In the order of the index: else what all rows have looks as if it were found at once.
       coalesce((
         select true from generate_series(0, $7::text::integer - 1) as v(version)
           cross join lateral (
             select e.domain, e.version, e.workspace_id, e.stream_id from (
               select split_part(stream_id, ':', 1) as domain,
                      coalesce(index_version, domain_version) as version, workspace_id, stream_id
                 from dalsegno.entity
                where (split_part(stream_id, ':', 1), coalesce(index_version, domain_version), workspace_id)
                   >= ($2::text, v.version, $1::text)
                order by split_part(stream_id, ':', 1), coalesce(index_version, domain_version),
                         workspace_id, stream_id
                limit 1) e) s
           where (s.domain, s.version, s.workspace_id) = ($2::text, v.version, $1::text)
          limit 1), (
         select true from dalsegno.entity
          where split_part(stream_id, ':', 1) = $2::text
            and coalesce(index_version, domain_version) > $7::text::integer
            and workspace_id = $1::text
          order by coalesce(index_version, domain_version), workspace_id, stream_id
          limit 1), false) as is_stale,
       p.place, p.stream_id, p.version, p.keys, p.own_sort, p.title, p.updated_at, p.state,
       p.state_version,
       t.event_seq, t.stream_id, t.stream_seq, t.event_id, t.type, t.type_version,
       t.schema_version, t.payload, t.actor_id, t.command_id, t.source, t.causation,
       t.correlation_id, t.recorded_at, t.chain, t.salt
  from head h
  left join (
    select page.*, case when page.usable and $8::text is not null then s.state end as state
      from page left join lateral (
        select state from dalsegno.entity
         where workspace_id = $1::text and stream_id = page.stream_id
        offset 0) s on $8::text is not null) p on true
  left join lateral (
    select e.event_seq, e.stream_id, e.stream_seq, e.event_id::text, e.type, e.type_version,
           e.schema_version, e.payload, e.actor_id, e.command_id, e.source, e.causation,
           e.correlation_id, e.recorded_at::text, e.chain, encode(e.salt, 'hex') as salt
      from dalsegno.event e
     where $8::text is not null and e.workspace_id = $1::text and e.stream_id = p.stream_id
       and e.stream_seq > p.state_version and e.stream_seq <= p.version
     order by e.stream_seq limit $9::text::integer) t on true
 order by p.place, t.stream_seq

-- list_keys --
-- From one key to the next, whatever number of entities each of them has.
-- $1 workspace, $2 domain, $3 prefix, $4 the key after which the page begins, $5 limit.
with recursive named as (
  (select key from dalsegno.entity_key
    where workspace_id = $1::text and domain = $2::text and key >= $3::text and key > $4::text
    order by key limit 1)
  union all
  select next.key from named cross join lateral (
    select key from dalsegno.entity_key
     where workspace_id = $1::text and domain = $2::text and key > named.key
     order by key limit 1) next
   where starts_with(named.key, $3::text)
)
select key from named where starts_with(key, $3::text) limit $5::text::integer

-- list_versions --
-- Of those that were changed later, the look back passes over what was done since.
-- $1 workspace, $2 domain, $3 the event, $4 the stream after which the page begins, $5 limit.
select e.stream_id, v.stream_seq
  from dalsegno.entity e
  cross join lateral (
    select stream_seq from dalsegno.event
     where workspace_id = e.workspace_id and stream_id = e.stream_id
       and event_seq <= $3::text::bigint
     order by stream_seq desc limit 1) v
 where e.workspace_id = $1::text and e.stream_id > $4::text
   and e.stream_id >= $2::text || ':' and e.stream_id < $2::text || ';'
 order by e.stream_id
 limit $5::text::integer

-- list_stale --
-- Of any version but this one: first the lower ones, then the higher.
-- $1 workspace, $2 domain, $3 its version, $4 limit.
select stream_id from (
    select s.stream_id from generate_series(0, $3::text::integer - 1) as v(version)
      cross join lateral (
        select e.domain, e.version, e.workspace_id, e.stream_id from (
          select split_part(stream_id, ':', 1) as domain,
                 coalesce(index_version, domain_version) as version, workspace_id, stream_id
            from dalsegno.entity
           where (split_part(stream_id, ':', 1), coalesce(index_version, domain_version), workspace_id)
              >= ($2::text, v.version, $1::text)
           order by split_part(stream_id, ':', 1), coalesce(index_version, domain_version),
                    workspace_id, stream_id
           limit $4::text::integer) e) s
      where (s.domain, s.version, s.workspace_id) = ($2::text, v.version, $1::text)
    union all
    (select stream_id from dalsegno.entity
      where split_part(stream_id, ':', 1) = $2::text
        and coalesce(index_version, domain_version) > $3::text::integer
        and workspace_id = $1::text
      order by coalesce(index_version, domain_version), workspace_id, stream_id
      limit $4::text::integer)) found
 limit $4::text::integer

-- find_due --
-- $1 node, $2 domains, $3 until then, $4-6 where the last page ended, $7 how many are looked at.
-- Those of others are among the rows: a page may end with them.
select d.due_at, d.workspace_id, d.stream_id,
       split_part(d.stream_id, ':', 1) = any($2::text::text[])
         and h.halted_reason is null
         and (h.owner is null or h.owner = $1::text or n.expires_at is null) as is_ours
  from (
    select due_at, workspace_id, stream_id from dalsegno.entity
     where due_at <= $3::text::timestamptz
       and (due_at, workspace_id, stream_id) > ($4::text::timestamptz, $5::text, $6::text)
     order by due_at, workspace_id, stream_id
     limit $7::text::integer) d
  cross join lateral (
    select owner, halted_reason from dalsegno.workspace_head
     where workspace_id = d.workspace_id
    offset 0) h
  left join lateral (
    select expires_at from dalsegno.node
     where node_id = h.owner and expires_at > clock_timestamp()
    offset 0) n on true
 order by d.due_at, d.workspace_id, d.stream_id

-- find_stale --
-- From one workspace to the next, whatever number of entities each of them has.  Those of others are
-- among the rows: a page may end with them.
-- $1 node, $2 domain, $3 its version, $4 and $5 version and workspace where the last page ended,
-- $6 how many are looked at.
with recursive stale as (
  (select split_part(stream_id, ':', 1) as domain,
          coalesce(index_version, domain_version) as version, workspace_id
     from dalsegno.entity
    where (split_part(stream_id, ':', 1), coalesce(index_version, domain_version), workspace_id)
       > ($2::text, $4::text::integer, $5::text)
    order by split_part(stream_id, ':', 1), coalesce(index_version, domain_version), workspace_id,
             stream_id
    limit 1)
  union all
  select n.domain, n.version, n.workspace_id from stale s cross join lateral (
    select split_part(stream_id, ':', 1) as domain,
           coalesce(index_version, domain_version) as version, workspace_id
      from dalsegno.entity
     where (split_part(stream_id, ':', 1), coalesce(index_version, domain_version), workspace_id)
        > ($2::text, s.version, s.workspace_id)
     order by split_part(stream_id, ':', 1), coalesce(index_version, domain_version),
              workspace_id, stream_id
     limit 1) n
   where s.domain = $2::text and s.version < $3::text::integer
), looked as materialized (
  select version, workspace_id from stale
   where domain = $2::text and version < $3::text::integer
   limit $6::text::integer
)
select l.version, l.workspace_id,
       h.halted_reason is null
         and (h.owner is null or h.owner = $1::text or n.expires_at is null) as is_ours
  from looked l
  cross join lateral (
    select owner, halted_reason from dalsegno.workspace_head
     where workspace_id = l.workspace_id
    offset 0) h
  left join lateral (
    select expires_at from dalsegno.node
     where node_id = h.owner and expires_at > clock_timestamp()
    offset 0) n on true
 order by l.version, l.workspace_id

-- find_runs --
-- From one workspace to the next, whatever number of open runs each of them has.  Those of others
-- are among the rows: a page may end with them.
-- $1 node, $2 the workspace where the last page ended, $3 how many are looked at.
with recursive open_run as (
  (select workspace_id from dalsegno.entity
    where due_at is not null and stream_id >= 'run:' and stream_id < 'run;'
      and workspace_id > $2::text
    order by workspace_id
    limit 1)
  union all
  select n.workspace_id from open_run r cross join lateral (
    select workspace_id from dalsegno.entity
     where due_at is not null and stream_id >= 'run:' and stream_id < 'run;'
       and workspace_id > r.workspace_id
     order by workspace_id
     limit 1) n
), looked as materialized (
  select workspace_id from open_run limit $3::text::integer
)
select l.workspace_id,
       h.halted_reason is null
         and (h.owner is null or h.owner = $1::text or n.expires_at is null) as is_ours
  from looked l
  cross join lateral (
    select owner, halted_reason from dalsegno.workspace_head
     where workspace_id = l.workspace_id
    offset 0) h
  left join lateral (
    select expires_at from dalsegno.node
     where node_id = h.owner and expires_at > clock_timestamp()
    offset 0) n on true
 order by l.workspace_id

-- note_reactors --
-- $1 names, $2 the names that they had before, null for none, $3 "now" or "beginning".
insert into dalsegno.reactor (name, was, since)
select a.name, r.name, a.since
  from unnest($1::text::text[], $2::text::text[], $3::text::text[]) as a(name, was, since)
  left join dalsegno.reactor r on r.name = a.was and r.registered_at is not null
 order by a.name collate "C"
on conflict do nothing

-- unregistered_reactors --
-- $1 names.
select name from dalsegno.reactor where name = any($1::text::text[]) and registered_at is null

-- place_reactors --
-- A portion of the workspaces, so that no statement is longer where there are more of them.  Two
-- servers may do so at once, and one goes on where another ended: a place that there is stays.
-- $1 names, $2 the workspace where the last portion ended, $3 how many.
with beginning as materialized (
  select name, was, since from dalsegno.reactor
   where name = any($1::text::text[]) and registered_at is null
), looked as materialized (
  select workspace_id, head_seq, chain from dalsegno.workspace_head
   where workspace_id > $2::text order by workspace_id limit $3::text::integer
), begun as (
  select l.workspace_id,
         (select jsonb_object_agg(b.name,
                   case when b.was is not null then p.places -> b.was
                        when b.since = 'now'
                        then to_jsonb(l.head_seq || '-' || lpad(to_hex(l.chain), 16, '0'))
                        else to_jsonb('0-0000000000000000'::text) end)
            from beginning b where b.was is null or p.places ? b.was) as places,
         exists (select from beginning b where b.was is null and b.since <> 'now') as to_begin
    from looked l
    left join lateral (
      select places from dalsegno.reactor_place where workspace_id = l.workspace_id offset 0) p
      on true
), written as (
  insert into dalsegno.reactor_place as old (workspace_id, places, to_begin, updated_at)
  select workspace_id, places, to_begin, statement_timestamp() from begun
   where places is not null
   order by workspace_id
  on conflict (workspace_id) do update
    set places = (excluded.places || old.places)
          - array(select was from beginning where was is not null),
        to_begin = old.to_begin or excluded.to_begin, updated_at = excluded.updated_at
)
select max(workspace_id), count(*) from looked

-- finish_reactors --
-- $1 names.
with done as (
  update dalsegno.reactor set registered_at = statement_timestamp()
   where name = any($1::text::text[]) and registered_at is null
  returning was
)
delete from dalsegno.reactor r using done d where r.name = d.was

-- read_places --
select key, value from dalsegno.reactor_place, jsonb_each_text(places)
 where workspace_id = $1::text

-- write_places --
-- $1 workspaces, $2 the places in each, as JSON, $3 and $4 the event that all of them are behind,
-- and its chain: one that the log does not have is of another history.
insert into dalsegno.reactor_place as old (workspace_id, places, to_begin, updated_at)
select workspace_id, places::jsonb, false, statement_timestamp()
  from unnest($1::text::text[], $2::text::text[], $3::text::bigint[], $4::text::bigint[])
    as w(workspace_id, places, seq, chain)
 where seq = 0
    or exists (select from dalsegno.event e
                where e.workspace_id = w.workspace_id and e.event_seq = w.seq
                  and e.chain = w.chain)
 order by workspace_id collate "C"
on conflict (workspace_id) do update
  set places = old.places || excluded.places, to_begin = false, updated_at = excluded.updated_at

-- find_behind --
-- $1 node, $2 reactors, $3 and $4 where the last page ended, $5 how many are looked at.
-- Without an owner are those where a reactor has to begin at the beginning.
with recursive owner_of as (
  (select owner from dalsegno.workspace_head where owner is not null order by owner limit 1)
  union all
  select n.owner from owner_of o cross join lateral (
    select owner from dalsegno.workspace_head where owner > o.owner order by owner limit 1) n
), gone as materialized (
  select owner from owner_of o
   where owner >= $3::text
     and (owner = $1::text
          or not exists (select from dalsegno.node
                          where node_id = o.owner and expires_at > clock_timestamp()))
), looked as materialized (
  (select '' as owner, workspace_id from dalsegno.reactor_place
    where to_begin and $3::text = '' and workspace_id > $4::text
    order by workspace_id limit $5::text::integer)
  union all
  (select l.owner, l.workspace_id from gone g cross join lateral (
     select owner, workspace_id from dalsegno.workspace_head h
      where h.owner = g.owner and (h.owner, h.workspace_id) > ($3::text, $4::text)
      order by workspace_id limit $5::text::integer) l)
  order by owner, workspace_id limit $5::text::integer
)
select l.owner, l.workspace_id,
       h.halted_reason is null
         and (h.owner is null or h.owner = $1::text or n.expires_at is null)
         and exists (
           select from unnest($2::text::text[]) as name
            where coalesce(split_part(p.places ->> name, '-', 1)::bigint, 0) < h.head_seq
         ) as is_ours
  from looked l
  cross join lateral (
    select owner, halted_reason, head_seq from dalsegno.workspace_head
     where workspace_id = l.workspace_id
    offset 0) h
  left join lateral (
    select places from dalsegno.reactor_place where workspace_id = l.workspace_id offset 0) p
    on true
  left join lateral (
    select expires_at from dalsegno.node
     where node_id = h.owner and expires_at > clock_timestamp()
    offset 0) n on true
 order by l.owner, l.workspace_id

-- locate --
select workspace_id from dalsegno.entity
 where stream_id = $1::text and workspace_id > $2::text
   and (live or $3::text::boolean is null)
 order by workspace_id
 limit $4::text::integer

-- read_cursors --
select w.user_id, w.client_id, w.workspace_id, w.stream_id, c.seq
  from unnest($1::text::text[], $2::text::text[], $3::text::text[], $4::text::text[])
    as w(user_id, client_id, workspace_id, stream_id)
  cross join lateral (
    select seq from dalsegno.ack_cursor c
     where c.user_id = w.user_id and c.client_id = w.client_id
       and c.workspace_id = w.workspace_id and c.stream_id = w.stream_id
    offset 0) c

-- write_cursors --
-- In the order of the key, so that two servers cannot lock each other out.
-- $6 and $7: an event at or above what was acknowledged, and its chain.  The log has it, or ends
-- with it, unless it was restored since: then the cursor is of another history.
-- Tells the clients that got a row they did not have: only those can have too many.
with written as (
  insert into dalsegno.ack_cursor as old
    (user_id, client_id, workspace_id, stream_id, seq, updated_at)
  select user_id, client_id, workspace_id, stream_id, seq, statement_timestamp()
    from unnest($1::text::text[], $2::text::text[], $3::text::text[], $4::text::text[],
                $5::text::bigint[], $6::text::bigint[], $7::text::bigint[])
      as w(user_id, client_id, workspace_id, stream_id, seq, head_seq, chain)
   where head_seq = 0
      or exists (select from dalsegno.event e
                  where e.workspace_id = w.workspace_id and e.event_seq = w.head_seq
                    and e.chain = w.chain)
      or exists (select from dalsegno.workspace_head h
                  where h.workspace_id = w.workspace_id and h.head_seq = w.head_seq
                    and h.chain = w.chain)
   order by user_id collate "C", client_id collate "C", workspace_id collate "C",
            stream_id collate "C"
  on conflict (user_id, client_id, workspace_id, stream_id) do update
    set seq = greatest(old.seq, excluded.seq), updated_at = excluded.updated_at
  returning user_id, client_id, xmax = 0 as is_new
)
select distinct user_id, client_id from written where is_new

-- prune_cursors --
-- $1 users and $2 clients, $3 how many cursors each may keep.  It deletes what it can lock
-- without waiting: a cursor that somebody writes just now is not an old one.
with old as materialized (
  select w.user_id, w.client_id, o.workspace_id, o.stream_id
    from unnest($1::text::text[], $2::text::text[]) as w(user_id, client_id)
    cross join lateral (
      select workspace_id, stream_id from dalsegno.ack_cursor
       where user_id = w.user_id and client_id = w.client_id
       order by updated_at desc, workspace_id, stream_id
      offset $3::text::integer) o
), locked as materialized (
  select o.* from old o cross join lateral (
    select from dalsegno.ack_cursor c
     where c.user_id = o.user_id and c.client_id = o.client_id
       and c.workspace_id = o.workspace_id and c.stream_id = o.stream_id
       for update skip locked) c
)
delete from dalsegno.ack_cursor c using locked l
 where c.user_id = l.user_id and c.client_id = l.client_id
   and c.workspace_id = l.workspace_id and c.stream_id = l.stream_id

-- prune_clients --
-- $1 users, $2 how many clients each may keep.
with old as materialized (
  select w.user_id, o.client_id
    from unnest($1::text::text[]) as w(user_id)
    cross join lateral (
      select client_id from dalsegno.ack_cursor
       where user_id = w.user_id
       group by client_id
       order by max(updated_at) desc, client_id
      offset $2::text::integer) o
), locked as materialized (
  select c.* from old o cross join lateral (
    select c.user_id, c.client_id, c.workspace_id, c.stream_id from dalsegno.ack_cursor c
     where c.user_id = o.user_id and c.client_id = o.client_id
       for update skip locked) c
)
delete from dalsegno.ack_cursor c using locked l
 where c.user_id = l.user_id and c.client_id = l.client_id
   and c.workspace_id = l.workspace_id and c.stream_id = l.stream_id

-- sweep_cursors --
-- $1-4 the key to begin after, $5 how many to look at, $6 seconds.
-- The last row looked at, and how many were.  A cursor that is locked is being written just now.
with seen as materialized (
  select user_id, client_id, workspace_id, stream_id, updated_at from dalsegno.ack_cursor
   where (user_id, client_id, workspace_id, stream_id) > ($1::text, $2::text, $3::text, $4::text)
   order by user_id, client_id, workspace_id, stream_id
   limit $5::text::integer
), unused as materialized (
  select s.user_id, s.client_id, s.workspace_id, s.stream_id from seen s cross join lateral (
    select from dalsegno.ack_cursor c
     where c.user_id = s.user_id and c.client_id = s.client_id
       and c.workspace_id = s.workspace_id and c.stream_id = s.stream_id
       and c.updated_at
           <= statement_timestamp() - make_interval(secs => $6::text::double precision)
       for update skip locked) c
), gone as (
  delete from dalsegno.ack_cursor c using unused u
   where c.user_id = u.user_id and c.client_id = u.client_id
     and c.workspace_id = u.workspace_id and c.stream_id = u.stream_id
)
select user_id, client_id, workspace_id, stream_id, count(*) over ()
  from seen
 order by user_id desc, client_id desc, workspace_id desc, stream_id desc
 limit 1

-- put_session --
insert into dalsegno.session
  (id_hash, user_id, csrf_token, created_at, expires_at, last_seen_at, refresh_key)
values (decode($1::text, 'hex'), $2::text, $3::text, statement_timestamp(), $4::text::timestamptz,
        statement_timestamp(), decode($5::text, 'hex'))
on conflict (id_hash) do nothing

-- sweep_sessions --
-- For a week an expired session is still told from one that never was.
with old as materialized (
  select id_hash from dalsegno.session
   where expires_at <= statement_timestamp() - interval '7 days'
   order by expires_at limit $1::text::integer
   for update skip locked
)
delete from dalsegno.session s using old o where s.id_hash = o.id_hash
returning s.user_id

-- find_session --
select id_hash, user_id, csrf_token, created_at, expires_at, last_seen_at, revoked_at,
       refresh_key, generation, rotated_at
  from dalsegno.session where id_hash = decode($1::text, 'hex')

-- find_ended_sessions --
select asked.id_hash
  from (select decode(unnest($1::text::text[]), 'hex') as id_hash) asked
  left join dalsegno.session s on s.id_hash = asked.id_hash
  left join dalsegno.api_key k on k.connection = asked.id_hash
 where (s.id_hash is null or s.revoked_at is not null)
   and (k.key_id is null or k.revoked_at is not null)

-- find_revoked --
select id_hash from dalsegno.session
 where revoked_at > statement_timestamp() - make_interval(secs => $1::text::float8)
union all
select connection from dalsegno.api_key
 where revoked_at > statement_timestamp() - make_interval(secs => $1::text::float8)

-- touch_session --
update dalsegno.session
   set last_seen_at = greatest(last_seen_at, $2::text::timestamptz),
       expires_at = $3::text::timestamptz
 where id_hash = decode($1::text, 'hex') and revoked_at is null

-- rotate_session --
-- Of several at once one finds the generation as it was; the others look again.
update dalsegno.session
   set generation = generation + 1, rotated_at = $3::text::timestamptz,
       last_seen_at = greatest(last_seen_at, $3::text::timestamptz),
       expires_at = $4::text::timestamptz
 where id_hash = decode($1::text, 'hex') and generation = $2::text::bigint and revoked_at is null
returning generation

-- revoke_session --
update dalsegno.session set revoked_at = statement_timestamp()
 where id_hash = decode($1::text, 'hex') and revoked_at is null

-- revoke_sessions_of --
update dalsegno.session set revoked_at = statement_timestamp()
 where user_id = $1::text and revoked_at is null and id_hash <> decode($2::text, 'hex')

-- evict_sessions --
-- Whoever logs in does so after putting a session, so the last of several at once sees them all.
update dalsegno.session set revoked_at = statement_timestamp()
 where revoked_at is null and id_hash in (
   select id_hash from dalsegno.session
    where user_id = $1::text and revoked_at is null and expires_at > statement_timestamp()
    order by created_at desc, id_hash offset $2::text::bigint
 )
returning id_hash

-- put_credential --
insert into dalsegno.credential (user_id, password_hash, updated_at)
values ($1::text, $2::text, statement_timestamp())
on conflict (user_id) do update
  set password_hash = excluded.password_hash, updated_at = excluded.updated_at

-- find_credential --
select password_hash from dalsegno.credential where user_id = $1::text

-- delete_credential --
delete from dalsegno.credential where user_id = $1::text

-- put_api_key --
insert into dalsegno.api_key
  (key_id, workspace_id, name, created_by, created_at, expires_at, digest, connection)
select $1::text, $2::text, $3::text, $4::text, statement_timestamp(), $5::text::timestamptz,
       decode($6::text, 'hex'), decode($7::text, 'hex')
 where (select count(*) from dalsegno.api_key
         where workspace_id = $2::text and revoked_at is null) < $8::text::bigint
on conflict (key_id) do nothing
returning key_id

-- find_api_key --
select key_id, workspace_id, name, created_by, created_at, expires_at, last_used_at, revoked_at,
       digest, previous, connection
  from dalsegno.api_key where key_id = $1::text

-- list_api_keys --
select key_id, workspace_id, name, created_by, created_at, expires_at, last_used_at, revoked_at,
       digest, previous, connection
  from dalsegno.api_key
 where workspace_id = $1::text and key_id > $2::text and revoked_at is null
 order by key_id limit $3::text::bigint

-- touch_api_key --
update dalsegno.api_key set last_used_at = greatest(last_used_at, $2::text::timestamptz)
 where key_id = $1::text

-- rotate_api_key --
update dalsegno.api_key
   set digest = decode($2::text, 'hex'),
       previous = case when $3::text = 'true' then digest end
 where key_id = $1::text and revoked_at is null
returning key_id

-- drop_previous_api_key --
update dalsegno.api_key set previous = null where key_id = $1::text

-- revoke_api_key --
update dalsegno.api_key set revoked_at = statement_timestamp()
 where key_id = $1::text and revoked_at is null

-- put_ticket --
-- A repeat changes nothing, and is counted once.
insert into dalsegno.ticket
  (digest, path, user_id, session_hash, session_expires_at, is_renewable, expires_at)
select decode($1::text, 'hex'), $2::text, $3::text, decode($4::text, 'hex'),
       $5::text::timestamptz, $6::text::boolean, $7::text::timestamptz
 where (select count(*) from dalsegno.ticket
         where user_id = $3::text and expires_at > statement_timestamp()
           and digest <> decode($1::text, 'hex')) < $8::text::bigint
on conflict (digest) do update set path = excluded.path
returning digest

-- take_ticket --
delete from dalsegno.ticket where digest = decode($1::text, 'hex')
returning digest, path, user_id, session_hash, session_expires_at, is_renewable, expires_at

-- sweep_tickets --
with old as materialized (
  select digest from dalsegno.ticket
   where expires_at <= statement_timestamp() - interval '1 hour'
   order by expires_at limit $1::text::integer
   for update skip locked
)
delete from dalsegno.ticket t using old o where t.digest = o.digest
returning t.user_id

-- dump_total --
-- $1 a workspace, null: of all.
select coalesce(sum(head_seq), 0)::bigint from dalsegno.workspace_head
 where $1::text is null or workspace_id = $1::text

-- dump_workspaces --
select workspace_id from dalsegno.workspace_head
 where workspace_id > $1::text order by workspace_id limit $2::text::integer

-- dump_workspace_head --
-- Of every dump: how many rows were looked at, where each is, and the row as JSON.  JSON of a
-- column travels as text, byte for byte.  $1 workspace, $2 the event up to which.
select 1, '', row_to_json(r)::text
  from (
    select workspace_id, epoch, head_seq, first_seq, chain, recorded_at, halted_reason, halted_code,
           app_version, created_at
      from dalsegno.workspace_head where workspace_id = $1::text) r

-- dump_event --
-- $3 rows, $4 bytes, $5 the event after which the page begins.
with page as materialized (
  select e.*, row_number() over p as place, sum(payload_bytes) over p as bytes
    from (
      select * from dalsegno.event
       where workspace_id = $1::text and event_seq > $5::text::bigint
         and event_seq <= $2::text::bigint
       order by event_seq limit $3::text::integer) e
  window p as (order by event_seq rows unbounded preceding)
)
select (select count(*) from page), event_seq::text, (
    select row_to_json(r)::text from (
      select e.event_seq, e.stream_id, e.stream_seq, e.event_id, e.type, e.type_version,
             e.schema_version, e.payload::text as payload, e.actor_id, e.command_id, e.source,
             e.causation, e.correlation_id, e.recorded_at, e.chain,
             encode(e.salt, 'hex') as salt, encode(e.erased_digest, 'hex') as erased_digest) r)
  from page e where place = 1 or bytes <= $4::text::bigint
 order by e.event_seq

-- dump_entity --
-- Without a row are those that were changed since; their version then stands beside, and since when
-- they had it.  $3 rows, $4 bytes, $5 the stream after which the page begins.
with page as materialized (
  select e.*, row_number() over p as place, sum(coalesce(state_bytes, 4096)) over p as bytes
    from (
      select * from dalsegno.entity
       where workspace_id = $1::text and stream_id > $5::text
       order by stream_id limit $3::text::integer) e
  window p as (order by stream_id rows unbounded preceding)
)
select (select count(*) from page), e.stream_id, case when e.version = v.stream_seq then (
    select row_to_json(r)::text from (
      select e.stream_id, e.version, e.live, e.keys, e.title, e.state::text as state,
             e.state_version, e.domain_version, e.updated_at, e.sort, e.due_at, e.index_version,
             e.state_bytes) r) end,
       v.stream_seq, v.recorded_at::text, e.live
  from page e
  left join lateral (
    select stream_seq, recorded_at from dalsegno.event
     where workspace_id = $1::text and stream_id = e.stream_id and event_seq <= $2::text::bigint
     order by stream_seq desc limit 1) v on true
 where place = 1 or bytes <= $4::text::bigint
 order by e.stream_id

-- dump_snapshot --
-- $3 rows, $4 not used, $5 and $6 stream and version after which the page begins.
with page as materialized (
  select * from dalsegno.snapshot
   where workspace_id = $1::text and (stream_id, version) > ($5::text, $6::text::bigint)
     and $4::text is not null
   order by stream_id, version limit $3::text::integer
)
select (select count(*) from page), json_build_array(s.stream_id, s.version::text)::text, case when
    exists (select from dalsegno.event e
             where e.workspace_id = $1::text and e.stream_id = s.stream_id
               and e.stream_seq = s.version and e.event_seq <= $2::text::bigint) then (
    select row_to_json(r)::text from (
      select s.stream_id, s.version, s.domain_version, s.state::text as state) r) end
  from page s order by s.stream_id, s.version

-- dump_command_result --
-- $3 rows, $4 not used, $5 and $6 scope and key after which the page begins.
with page as materialized (
  select * from dalsegno.command_result
   where workspace_id = $1::text and (scope, key) > ($5::text, $6::text)
     and $4::text is not null
   order by scope, key limit $3::text::integer
)
select (select count(*) from page), json_build_array(c.scope, c.key)::text, case when
    c.event_seq <= $2::text::bigint and c.expires_at > statement_timestamp() then (
    select row_to_json(r)::text from (
      select c.scope, c.key, encode(c.payload_hash, 'hex') as payload_hash,
             c.answer::text as answer, c.event_seq, c.expires_at) r) end
  from page c order by c.scope, c.key

-- dump_command_audit --
-- $3 rows, $4 not used, $5 and $6 event and number after which the page begins.
with page as materialized (
  select * from dalsegno.command_audit
   where workspace_id = $1::text
     and (event_seq, n) > ($5::text::bigint, $6::text::integer)
     and event_seq <= $2::text::bigint and $4::text is not null
   order by event_seq, n limit $3::text::integer
)
select (select count(*) from page), json_build_array(a.event_seq::text, a.n::text)::text, (
    select row_to_json(r)::text from (
      select a.event_seq, a.n, a.recorded_at, a.actor_id, a.action, a.resource_type,
             a.resource_id, a.old_value::text as old_value, a.new_value::text as new_value,
             a.request_id, a.address, a.collected_seq) r)
  from page a order by a.event_seq, a.n

-- dump_audit --
-- $2 and $4 not used, $3 rows, $5 the number after which the page begins.
with page as materialized (
  select * from dalsegno.audit
   where workspace_id = $1::text and id > $5::text::bigint
     and $2::text is not null and $4::text is not null
   order by id limit $3::text::integer
)
select (select count(*) from page), a.id::text, (
    select row_to_json(r)::text from (
      select a.recorded_at, a.actor, a.action, a.detail, a.collected_seq) r)
  from page a order by a.id

-- dump_reactor_place --
-- One that is further than the dump goes on from its end: what it was told of is not there.
select 1, '', row_to_json(r)::text
  from (
    select p.to_begin, p.updated_at, (
        select coalesce(json_object_agg(each.key, case
            when split_part(each.value, '-', 1)::bigint <= $2::text::bigint then each.value
            when $2::text::bigint = 0 then '0'
            else $2::text || '-' || (
              select lpad(to_hex(chain), 16, '0') from dalsegno.event
               where workspace_id = $1::text and event_seq = $2::text::bigint) end), '{}'::json)
          from jsonb_each_text(p.places) each)::text as places
      from dalsegno.reactor_place p where p.workspace_id = $1::text) r

-- dump_api_key --
-- $2 and $4 not used, $3 rows, $5 the key after which the page begins.
with page as materialized (
  select * from dalsegno.api_key
   where workspace_id = $1::text and key_id > $5::text
     and $2::text is not null and $4::text is not null
   order by key_id limit $3::text::integer
)
select (select count(*) from page), k.key_id, (
    select row_to_json(r)::text from (
      select k.key_id, k.name, k.created_by, k.created_at, k.expires_at, k.last_used_at,
             k.revoked_at, encode(k.digest, 'hex') as digest,
             encode(k.previous, 'hex') as previous, encode(k.connection, 'hex') as connection) r)
  from page k order by k.key_id

-- dump_reactor --
-- $1, $2 and $4 not used, $3 rows, $5 the name after which the page begins.
with page as materialized (
  select * from dalsegno.reactor
   where name > $5::text and $1::text is not null and $2::text is not null and $4::text is not null
   order by name limit $3::text::integer
)
select (select count(*) from page), t.name, (
    select row_to_json(r)::text from (select t.name, t.was, t.since, t.registered_at) r)
  from page t order by t.name

-- dump_credential --
-- $1, $2 and $4 not used, $3 rows, $5 the user after whom the page begins.
with page as materialized (
  select * from dalsegno.credential
   where user_id > $5::text and $1::text is not null and $2::text is not null
     and $4::text is not null
   order by user_id limit $3::text::integer
)
select (select count(*) from page), c.user_id, (
    select row_to_json(r)::text from (select c.user_id, c.password_hash, c.updated_at) r)
  from page c order by c.user_id

-- dump_ack_cursor --
-- $1, $2 and $4 not used, $3 rows, $5-8 the key after which the page begins.
with page as materialized (
  select * from dalsegno.ack_cursor
   where (user_id, client_id, workspace_id, stream_id) > ($5::text, $6::text, $7::text, $8::text)
     and $1::text is not null and $2::text is not null and $4::text is not null
   order by user_id, client_id, workspace_id, stream_id limit $3::text::integer
)
select (select count(*) from page),
       json_build_array(c.user_id, c.client_id, c.workspace_id, c.stream_id)::text, (
    select row_to_json(r)::text from (
      select c.user_id, c.client_id, c.workspace_id, c.stream_id, c.seq, c.updated_at) r)
  from page c order by c.user_id, c.client_id, c.workspace_id, c.stream_id

-- restore_occupied --
-- What a database has that a backup would be mixed with.  Who began to serve it before it had
-- anything has left heads without events.
select what from (
    select 1, 'events' where exists (select from dalsegno.event)
    union all
    select 2, 'workspaces' where exists (
      select from dalsegno.workspace_head where head_seq > 0 or halted_reason is not null)
    union all select 3, 'accounts' where exists (select from dalsegno.credential)
    union all select 4, 'sessions' where exists (select from dalsegno.session)
    union all select 5, 'API keys' where exists (select from dalsegno.api_key)
    union all select 6, 'cursors' where exists (select from dalsegno.ack_cursor)
  ) found(n, what)
 order by n

-- restore_served --
select node_id from dalsegno.node where expires_at > clock_timestamp() order by node_id limit 1

-- restore_workspace_head --
-- Nobody owns it.  Of each restore: $1 workspace, $2 rows.
insert into dalsegno.workspace_head as old
  (workspace_id, epoch, head_seq, first_seq, chain, recorded_at, halted_reason, halted_code,
   app_version, created_at)
select $1::text, epoch, head_seq, first_seq, chain, recorded_at, halted_reason, halted_code,
       app_version, created_at
  from json_to_recordset($2::text::json) as r(
    epoch bigint, head_seq bigint, first_seq bigint, chain bigint, recorded_at timestamptz,
    halted_reason text, halted_code text, app_version integer, created_at timestamptz)
on conflict (workspace_id) do update
  set epoch = greatest(old.epoch, excluded.epoch) + 1, owner = null,
      head_seq = excluded.head_seq, first_seq = excluded.first_seq, chain = excluded.chain,
      recorded_at = excluded.recorded_at, halted_reason = excluded.halted_reason,
      halted_code = excluded.halted_code, app_version = excluded.app_version,
      created_at = excluded.created_at

-- restore_event --
with rows as materialized (
  select * from json_to_recordset($2::text::json) as r(
    event_seq bigint, stream_id text, stream_seq bigint, event_id uuid, type text,
    type_version integer, schema_version integer, payload text, actor_id text, command_id text,
    source text, causation text, correlation_id text, recorded_at timestamptz, chain bigint,
    salt text, erased_digest text)
), kinds as (
  insert into dalsegno.event_type (domain, type, type_version)
  select distinct split_part(stream_id, ':', 1), type, type_version from rows
  on conflict do nothing
)
insert into dalsegno.event
  (workspace_id, event_seq, stream_id, stream_seq, event_id, type, type_version, schema_version,
   payload, actor_id, command_id, source, causation, correlation_id, recorded_at, chain, salt,
   erased_digest)
select $1::text, event_seq, stream_id, stream_seq, event_id, type, type_version, schema_version,
       payload::json, actor_id, command_id, source, causation, correlation_id, recorded_at, chain,
       decode(salt, 'hex'), decode(erased_digest, 'hex')
  from rows

-- restore_entity --
with rows as materialized (
  select * from json_to_recordset($2::text::json) as r(
    stream_id text, version bigint, live boolean, keys text[], title text, state text,
    state_version bigint, domain_version integer, updated_at timestamptz, sort text,
    due_at timestamptz, index_version integer, state_bytes bigint)
), listed as (
  insert into dalsegno.entity_key (workspace_id, domain, key, sort, stream_id)
  select $1::text, split_part(stream_id, ':', 1), k.key, coalesce(sort, ''), stream_id
    from rows cross join lateral (
      select unnest(keys) union select '' where sort is not null) k(key)
   where live
)
insert into dalsegno.entity
  (workspace_id, stream_id, version, live, keys, title, state, state_version, domain_version,
   updated_at, sort, due_at, index_version, state_bytes)
select $1::text, stream_id, version, live, keys, title, state::json, state_version, domain_version,
       updated_at, sort, due_at, index_version, state_bytes
  from rows

-- restore_snapshot --
insert into dalsegno.snapshot (workspace_id, stream_id, version, domain_version, state)
select $1::text, stream_id, version, domain_version, state::json
  from json_to_recordset($2::text::json) as r(
    stream_id text, version bigint, domain_version integer, state text)

-- restore_command_result --
insert into dalsegno.command_result
  (workspace_id, scope, key, payload_hash, answer, event_seq, expires_at)
select $1::text, scope, key, decode(payload_hash, 'hex'), answer::json, event_seq, expires_at
  from json_to_recordset($2::text::json) as r(
    scope text, key text, payload_hash text, answer text, event_seq bigint,
    expires_at timestamptz)

-- restore_command_audit --
-- What the audit's log, which came before, does not have is taken into it again.
insert into dalsegno.command_audit
  (workspace_id, event_seq, n, recorded_at, actor_id, action, resource_type, resource_id, old_value,
   new_value, request_id, address, collected_seq)
select $1::text, event_seq, n, recorded_at, actor_id, action, resource_type, resource_id,
       old_value::json, new_value::json, request_id, address,
       case when collected_seq <= (select head_seq from dalsegno.workspace_head
                                    where workspace_id = '$audit') then collected_seq end
  from json_to_recordset($2::text::json) as r(
    event_seq bigint, n integer, recorded_at timestamptz, actor_id text, action text,
    resource_type text, resource_id text, old_value text, new_value text, request_id text,
    address text, collected_seq bigint)

-- restore_audit --
insert into dalsegno.audit (recorded_at, workspace_id, actor, action, detail, collected_seq)
select recorded_at, $1::text, actor, action, detail,
       case when collected_seq <= (select head_seq from dalsegno.workspace_head
                                    where workspace_id = '$audit') then collected_seq end
  from json_to_recordset($2::text::json) with ordinality as r(
    recorded_at timestamptz, actor text, action text, detail text, collected_seq bigint, n)
 order by n

-- restore_reactor_place --
insert into dalsegno.reactor_place (workspace_id, places, to_begin, updated_at)
select $1::text, places::jsonb, to_begin, updated_at
  from json_to_recordset($2::text::json) as r(
    places text, to_begin boolean, updated_at timestamptz)

-- restore_api_key --
insert into dalsegno.api_key
  (key_id, workspace_id, name, created_by, created_at, expires_at, last_used_at, revoked_at, digest,
   previous, connection)
select key_id, $1::text, name, created_by, created_at, expires_at, last_used_at, revoked_at,
       decode(digest, 'hex'), decode(previous, 'hex'), decode(connection, 'hex')
  from json_to_recordset($2::text::json) as r(
    key_id text, name text, created_by text, created_at timestamptz, expires_at timestamptz,
    last_used_at timestamptz, revoked_at timestamptz, digest text, previous text, connection text)

-- restore_reactor --
insert into dalsegno.reactor (name, was, since, registered_at)
select name, was, since, registered_at
  from json_to_recordset($2::text::json) as r(
    name text, was text, since text, registered_at timestamptz)
 where $1::text is not null
on conflict (name) do update
  set was = excluded.was, since = excluded.since, registered_at = excluded.registered_at

-- restore_credential --
insert into dalsegno.credential (user_id, password_hash, updated_at)
select user_id, password_hash, updated_at
  from json_to_recordset($2::text::json) as r(
    user_id text, password_hash text, updated_at timestamptz)
 where $1::text is not null

-- restore_ack_cursor --
-- One above what the log has would keep its client from ever being told of what comes there.
insert into dalsegno.ack_cursor (user_id, client_id, workspace_id, stream_id, seq, updated_at)
select user_id, client_id, workspace_id, stream_id, seq, updated_at
  from json_to_recordset($2::text::json) as r(
    user_id text, client_id text, workspace_id text, stream_id text, seq bigint,
    updated_at timestamptz)
 where $1::text is not null
   and (seq = 0
        or exists (select from dalsegno.workspace_head h
                    where h.workspace_id = r.workspace_id
                      and r.stream_id = 'workspace:' || r.workspace_id and h.head_seq >= r.seq)
        or exists (select from dalsegno.event e
                    where e.workspace_id = r.workspace_id and e.stream_id = r.stream_id
                      and e.stream_seq = r.seq))
