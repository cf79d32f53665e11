"""Every bound, in one record, with the reason beside its default."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

SEQ_MAX = 2**63 - 1
"""The largest sequence number: PostgreSQL's bigint (X-SEQ-8)."""


UNBOUNDED_AT_ZERO = frozenset(
    {
        "api_per_minute_max",
        "auth_per_minute_max",
        "blocked_s",
        "rates_dry_run",
        "sessions_per_user_max",
        "sockets_per_user_max",
        "workspaces_per_user_max",
    }
)
"""The bounds that 0 lifts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Every bound; each may be set, so that tests can shrink it."""

    # Incoming data
    message_bytes_max: int = 1 * MIB
    """A WebSocket message; a longer one closes with 1009 before it is read."""
    command_bytes_max: int = 256 * KIB
    """A command's payload over the network."""
    body_bytes_max: int = 2 * MIB
    """An HTTP body, 413 above: a whole note of 1 MiB, escaped, fits."""
    note_bytes_max: int = 1 * MIB
    """A note's text, UTF-8."""
    key_chars_max: int = 256
    """An idempotency key, 1 to this many characters."""
    id_chars_max: int = 200
    """An entity's or a client's id."""
    nesting_max: int = 64
    """Depth of a JSON document: far below where a recursive decoder runs out of stack."""
    fragments_max: int = 1_024
    """Fragments of a WebSocket message; 1008 above.  Libraries that send in pieces fill 4 KiB or
    more: 256 of the longest message."""
    control_frames_per_s: int = 256
    """Pings, pongs and close frames of a connection in a second; 1008 above.  Who pings four times
    a second may have been cut off for a minute."""
    unreadable_per_s: int = 64
    """Messages of a connection in a second that cannot be read; 1008 above.  Each costs an error
    and an answer, and an honest client sends none."""
    read_frames_max: int = 64
    """Frames of a connection that are parsed, and messages carried out, before others have a
    turn (I10): one of the shortest costs as much as a long one …"""
    read_bytes_max: int = 64 * KIB
    """… or bytes of messages, unless a single one has more."""
    subscriptions_max: int = 1_000
    """Streams that one connection may follow."""

    # The workspace actor
    mailbox_commands_max: int = 4_096
    """Commands queued in one workspace: about a second of work."""
    mailbox_bytes_max: int = 16 * MIB
    """… and about how much memory they take, decoded."""
    waiting_bytes_max: int = 64 * MIB
    """The same of all workspaces together, until a command is answered; an eighth is for short
    ones."""
    written_bytes_per_minute: int = 128 * MIB
    """Events, states and snapshots written for one user; above it, `RATE_LIMITED`.  Ten keystrokes
    a second in a note of 1 MiB are 16 MiB."""
    batch_commands_max: int = 256
    """Commands decided into one batch; bounds what one refused commit costs to decide again."""
    batch_bytes_max: int = 2 * MIB
    """Event payloads in one batch, unless a single command has more."""
    batch_state_bytes_max: int = 16 * MIB
    """States changed in one batch, counted at every change: a short patch of a long text copies
    the text."""
    turn_s: float = 0.002
    """How long one workspace decides, or folds, before everybody else has a turn (I10)."""
    command_events_max: int = 256
    """Events that one command, or one group of them, may lead to, committed all or none
    (X-PER-10)."""
    command_entities_max: int = 256
    """Other entities that one command may read or change; what concerns more goes in portions."""
    group_commands_max: int = 100
    """Commands in one group …"""
    group_bytes_max: int = 2 * MIB
    """… and their length as JSON together."""
    entities_cached_max: int = 4_096
    """Entities whose state an active workspace keeps in memory."""
    entities_cached_bytes_max: int = 256 * MIB
    """What all active workspaces together keep of their entities, by the memory of the texts folded
    into them; the longest silent workspace loses first."""
    state_lag_events_max: int = 64
    """An entity's stored state lags at most this many events …"""
    state_lag_bytes_max: int = 64 * KIB
    """… or this many payload bytes, so that loading folds a short tail."""
    results_cached_max: int = 8_192
    """Idempotent answers that an active workspace keeps in memory; the rest is one query away."""
    result_ttl_s: float = 24 * 3600.0
    """Lifetime of an idempotency key."""
    mailbox_deadline_s: float = 5.0
    """How long a sender waits for free space before `OVERLOADED`."""
    command_deadline_s: float = 30.0
    """How long an accepted command may stay unanswered before `OUTCOME_UNKNOWN`."""

    places_cached_max: int = 65_536
    """Entities that clients name by id alone, and whose workspace is remembered."""

    # Workspaces on this node
    workspaces_active_max: int = 20_000
    """Workspaces in memory; above this idle ones leave early, and `OVERLOADED` if none is idle."""
    passivate_after_s: float = 300.0
    """An idle workspace leaves memory after this long; while followed it keeps its readers."""
    activations_max: int = 32
    """Workspaces that are being opened at the same time; others wait their turn."""
    lease_s: float = 10.0
    """A node that has not renewed its lease for this long, by the database's clock, may lose its
    workspaces."""
    lease_beat_s: float = 2.0
    """How often a node renews its lease."""
    service_failures_max: int = 3
    """Failures of a shared service after which it is restarted; one more ends the runtime …"""
    service_window_s: float = 60.0
    """… if they come within this long."""

    # Timers
    timer_tick_s: float = 0.5
    """How often a node looks for what is due."""
    timers_read_max: int = 1_000
    """Timers that it looks at in one query, and folds in one go …"""
    timers_per_tick_max: int = 10_000
    """… and in one tick; the next one goes on where this one ended."""
    timers_per_workspace_max: int = 16
    """Timers of one workspace that fire in one tick."""
    timers_firing_max: int = 256
    """Timers on their way at the same time."""
    timer_backoff_max_s: float = 3600.0
    """A timer whose command moved nothing is tried again after twice as long each time, up to
    this."""
    timers_stuck_max: int = 10_000
    """Such timers that are remembered; above it the oldest is forgotten, and tried sooner."""

    # What is on record
    audit_poll_s: float = 1.0
    """How often a node looks for what others have put on record, or were refused: as long as it may
    take to be on the log of the audit.  What the node itself commits it looks for at once."""
    refusals_queued_max: int = 1_000
    """Refusals that wait to be put on record; above this they are counted, and the count is."""
    refusals_written_max: int = 100
    """Of these, how many are written in one statement, and in a second: who is refused again and
    again must not fill the database."""

    # Runs
    runs_running_max: int = 100
    """Runs that a node carries out at the same time; others wait as requested."""
    runs_waiting_max: int = 1_000
    """Open runs of a workspace that are remembered; the others are looked for when these are
    done."""
    runs_scan_s: float = 10.0
    """How often a node looks for open runs of workspaces that nobody serves."""
    runs_per_event_max: int = 100
    """Runs that one reactor may ask for because of one event."""
    reaction_deadline_s: float = 5.0
    """How long a reactor may take to say which."""
    rates_kept_max: int = 10_000
    """Buckets of rates that a node keeps, of requests, and of each workspace; see `Rate`."""
    places_every_s: float = 10.0
    """How often it is written how far reactors have come, where nothing was asked for."""
    run_end_deadline_s: float = 1.25
    """How long the attempts at runs may take to end in the log while their node drains, at most
    half of ``drain_deadline_s``: the rest is for commands and acks."""
    run_wait_max_s: float = 60.0
    """How long a request may wait for a run's end, which is then answered with 202.  Proxies wait a
    minute as a rule."""
    blocked_s: float = 0.1
    """A step of a worker that takes longer is logged with its stack, since all others wait for it;
    0: none is."""

    # The committer
    commit_batches_max: int = 512
    """Workspaces merged into one statement."""
    commit_bytes_max: int = 4 * MIB
    """Payloads, states and snapshots merged into one statement: written in one go (I10)."""
    short_batch_bytes_max: int = 256 * KIB
    """What a batch may write to be committed beside the long ones, without waiting for them."""
    commit_deadline_s: float = 10.0
    """After this the connection is abandoned and the outcome is unknown."""
    locked_retries_max: int = 20
    """How often a batch whose head another session has locked is sent again, alone."""

    answer_deadline_s: float = 20.0
    """Deadline of a read from the store: longer than its own 15 s and 5 s for a connection.  After
    this the database is frozen or out of reach."""
    finish_deadline_s: float = 1.0
    """How long a read may go on whose reader has left; after this its connection is given up, and
    the server's process ends with it.  Most take a millisecond."""
    database_wait_s: float = 30.0
    """How long a start waits for a database that is not there yet: as long as PostgreSQL usually
    takes to start beside it, or to fail over, and less than a supervisor's patience."""

    # Back-off of a workspace actor
    backoff_first_s: float = 0.05
    """First upper bound of the full-jitter delay before a new incarnation."""
    backoff_max_s: float = 30.0
    """… and the last; it doubles in between and never gives up."""
    crashes_max: int = 5
    """Bugs in a workspace's loop after which it is restarted; one more quarantines it …"""
    crash_window_s: float = 30.0
    """… if they come within this long."""

    # A connection
    outbox_bytes_max: int = 1 * MIB
    """Unsent event frames of one connection; above this it lags, and catches up from the store."""
    outbox_items_max: int = 1_024
    """Commits whose events wait for one connection's writer, or events for a host's loop; above
    this it lags as well."""
    replies_bytes_max: int = 1 * MIB
    """Unsent replies of one connection; above this it is closed: replies cannot be read again."""
    replies_pending_max: int = 4_096
    """Commands of one connection that wait for their answer; above this, reading pauses."""
    page_events: int = 200
    """Events read at a time for replay and catch-up (websocket.replay_batch_size)."""
    page_bytes_max: int = 1 * MIB
    """Payload bytes in such a page, unless a single event has more."""
    tail_bytes_max: int = 64 * MIB
    """Recent events that all workspaces together keep for readers that are a little behind."""
    pages_bytes_max: int = 32 * MIB
    """Pages read from the store that are kept for other readers that need the same ones."""
    subscribing_max: int = 64
    """Subscriptions that query the store at the same time; others wait their turn."""
    send_buffer_bytes: int = 128 * KIB
    """``SO_SNDBUF``: a reader that stops would otherwise hold 4 MB of kernel memory."""
    write_deadline_s: float = 10.0
    """A connection that takes nothing for this long is closed with 1013."""
    heartbeat_interval_s: float = 10.0
    """How often an idle client is sent `heartbeat` (websocket.heartbeat_interval_ms)."""
    client_timeout_s: float = 60.0
    """A client silent for this long is closed; a pong counts."""
    ping_interval_s: float = 30.0
    """Protocol pings (C13)."""
    pong_deadline_s: float = 10.0
    """… and how long their answer may take."""
    close_deadline_s: float = 2.0
    """How long a closing handshake waits for the peer."""
    offers_per_yield: int = 64
    """Offers after which the publisher lets other tasks run."""

    # Presence
    presence_state_bytes_max: int = 1 * KIB
    """What one connection says of itself, as JSON; a longer one is refused, and changes nothing."""
    presence_interval_s: float = 0.1
    """What changes within this long is told as one change: ten a second, whoever says how much."""
    presence_updates_per_s: int = 20
    """States that one connection says in a second; of more the last one counts, a second later."""
    presence_linger_s: float = 5.0
    """Who was lost is shown as present for this long, so that a reconnect is no leave and no join;
    it is as well how long a new owner waits for those who were present elsewhere."""
    presence_shown_max: int = 200
    """Users of a workspace that are shown; of more the newest are, and how many there are …"""
    presence_listed_max: int = 1_000
    """… and of more than that nobody is, only how many there are."""
    presence_bytes_max: int = 256 * KIB
    """Length of what is shown, as JSON, unless a single user has more: 200 users with one state
    each fit."""
    presence_connections_max: int = 10_000
    """Connections that are present in one workspace; one more gets `OVERLOADED` …"""
    presence_connections_per_user_max: int = 100
    """… and those of one user: as many as sockets."""
    presence_workspaces_max: int = 16
    """Workspaces in which one connection is present."""

    # Acks
    ack_flush_s: float = 0.1
    """Acks are durable after at most this long."""
    clients_per_user_max: int = 20
    """Client ids with stored cursors per user; the oldest are forgotten."""
    cursors_per_client_max: int = 1_000
    """Stored cursors per client; the oldest are forgotten."""

    cursor_unused_s: float = 90 * 24 * 3600.0
    """A cursor not moved for this long is forgotten."""

    # Artifacts, the files that runs write
    artifact_bytes_max: int = 32 * GIB
    """One of them: thirty thousand of the longest notes.  The run that writes more fails."""
    artifacts_bytes_max: int = 128 * GIB
    """All of them in a folder; above it a run that writes fails until some have expired."""
    artifacts_per_workspace_max: int = 10
    """Those of one workspace in a folder; the oldest goes for a new one."""
    artifacts_free_bytes_min: int = 512 * MIB
    """What they leave free of the file system: the database may be on it, and stops where it is
    full.  A run that writes fails before that."""
    artifact_ttl_s: float = 7 * 24 * 3600.0
    """How long one is kept."""

    # HTTP and sockets
    connections_max: int = 50_000
    """Sockets at the same time; above this a new one gets 503 with ``retry-after``."""
    handshakes_max: int = 256
    """Handshakes in progress at the same time; others wait within ``head_deadline_s``."""
    descriptors_reserved: int = 128
    """Descriptors of the process that sockets leave free: PostgreSQL takes 9, a program that is
    started 4, files the rest."""
    reconnects_per_s: int = 1_000
    """At shutdown each client is told when to come back: this many a second …"""
    reconnect_window_s: float = 30.0
    """… but all of them within this long."""
    tls_check_s: float = 30.0
    """How often the files of the server's certificate are looked at: who renews one expects it to
    be served within a minute."""
    head_deadline_s: float = 5.0
    """How long the head of a request may take, and so how long a connection may be idle."""
    head_bytes_max: int = 16 * KIB
    """… and how long it may be."""
    body_deadline_s: float = 30.0
    """How long a request's body may take from then on: the longest one at 70 KiB/s …"""
    body_grace_s: float = 5.0
    """… but after this long no longer than …"""
    body_rate_min: int = 1 * KIB
    """… at so many bytes a second: what trickles is no upload."""
    login_bytes_max: int = 16 * KIB
    """The body of setup and login, which anybody may send, 413 above: the longest password and the
    longest address, escaped, fit."""
    requests_max: int = 1_024
    """HTTP requests at the same time; above this one gets 503 with ``retry-after``.  Each may hold
    a body, an answer, and a place in the queue for the database."""
    polls_max: int = 512
    """Of these, long polls that wait; above this one gets 503 with ``retry-after``."""
    passwords_per_address_max: int = 8
    """How many password checks of one client's address may wait: half a second of work."""
    passwords_waiting_max: int = 256
    """… and in all; then the newest of the address with the most gives way."""
    guesses_free_max: int = 5
    """Wrong passwords for an account, or setup tokens, from one address; from then on the next one
    waits …"""
    guess_delay_first_s: float = 1.0
    """… so long, and twice as long each time …"""
    guess_delay_max_s: float = 60.0
    """… up to this."""
    guess_window_s: float = 900.0
    """Without a wrong guess for this long, the earlier ones are forgotten."""
    guesses_kept_max: int = 65_536
    """Pairs of an address and an account whose wrong guesses are counted; above it the oldest are
    forgotten.  Each costs its address a hash, so this takes many minutes of all that two threads
    hash to fill, for five more guesses; who waits has more."""
    session_s: float = 30 * 24 * 3600.0
    """A session ends after this long whatever happens: who stole one has it no longer …"""
    session_idle_s: float = 7 * 24 * 3600.0
    """… and after this long without a request."""
    access_token_s: float = 900.0
    """How long an access token of our own is good: no longer than a page is left open."""
    refresh_token_s: float = 7 * 24 * 3600.0
    """… and a refresh token; what is refreshed at all ends after ``session_s``."""
    refresh_grace_s: float = 60.0
    """How long the refresh token before is good beside the last one, which is unused still: an
    answer was lost, or two tabs asked at once."""
    session_check_s: float = 1.0
    """How often a server asks what was ended elsewhere of the sessions, keys and accounts here."""
    sessions_per_user_max: int = 50
    """Sessions of one user; the oldest is ended for a new one.  0: any number."""
    sockets_per_user_max: int = 100
    """WebSockets of one user on a server, and long polls that wait, each; above this a new one gets
    503.  0: any number."""
    auth_per_minute_max: int = 20
    """Requests of an address that take a secret, such as a password, at once and on average in a
    minute; 429 above.  0: any number."""
    api_per_minute_max: int = 6_000
    """All other requests of an address, likewise.  0: any number."""
    rates_dry_run: int = 0
    """1: whoever asks too often is let through, and the log says so."""
    project_connections_per_user_max: int = 5
    """Connections of one user to projects on a server, sockets and event streams together; above
    this the oldest is closed for a new one, but one that owes a pong before it (CF-6.1)."""
    project_connections_max: int = 50
    """Those of one project; above this a new one gets 503 (CF-6.2)."""
    evictions_kept_max: int = 10_000
    """Event streams that were closed for a new one, and are remembered for ten minutes, so that
    the browser does not come back by itself."""
    authenticate_deadline_s: float = 5.0
    """How long a socket whose client is not known yet may wait for its first message, a token …"""
    authenticate_bytes_max: int = 8 * KIB
    """… and how long that may be: no token is longer."""
    unknown_sockets_max: int = 200
    """Such sockets at the same time; above this a new one gets 503.  Anybody can open them."""
    ticket_s: float = 30.0
    """How long a ticket waits to be used: as long as a page takes to open its socket."""
    tickets_per_user_max: int = 100
    """Tickets of one user that wait; above this, `RATE_LIMITED`."""
    renewal_grace_s: float = 25.0
    """How long a socket whose token has expired waits for another; it gets and does nothing."""
    keys_per_workspace_max: int = 100
    """API keys of one workspace that were not revoked."""
    workspaces_per_user_max: int = 100
    """Workspaces that one user created and that were not deleted.  0: any number."""
    list_limit_max: int = 1_000
    """Items of one page of a list; the default is 100."""
    list_bytes_max: int = 4 * MIB
    """States and events since in one page of a list with states, unless a single one has more."""
    drain_deadline_s: float = 2.5
    """Shutdown: mailboxes and commits, and then HTTP requests, have this long each."""
