//! Limits: every bound, with its reason.

use std::time::Duration;

pub use millstream_stages::event::{IDENTITY_BYTES_MAX, OUTPUTS_MAX};

/// Wait for a PubAck before the publish is tried again with the same id.
pub const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);
/// Tries of a publish before its event is given back to the broker.
pub const PUBLISH_TRIES: usize = 4;
/// Publishes awaiting their PubAck at once, per process. Past 1 024 nothing is gained (measured,
/// notes on throughput).
pub const PUBLISHES_IN_FLIGHT_MAX: usize = 4096;
/// Bytes of a payload that count as one more publish: 32 MiB await their PubAck at once. The server
/// refuses what a stream has not taken in past 128 MB.
pub const PUBLISH_UNIT_BYTES: usize = 8 << 10;
/// Expiry of a pull request. Long, as each costs an idle worker a request; a lost one shows by its
/// heartbeats.
pub const PULL_EXPIRES: Duration = Duration::from_secs(30);
/// The shortest expiry that a pull request comes down to where the server allows no longer one.
pub const PULL_EXPIRES_MIN: Duration = Duration::from_millis(500);
/// Idle heartbeat of a pull request: interval at which the server says that it is alive.
pub const PULL_HEARTBEAT: Duration = Duration::from_secs(2);
/// Interval at which a pull checks if the connection or the server has lost its requests.
pub const PULL_LOOK: Duration = Duration::from_millis(250);
/// Messages pulled ahead, per feed, at the most. Far under the client's 65 536, past which it drops
/// messages.
pub const PREFETCH_MAX: usize = 1000;
/// Advisories pulled at once by the dead-letter router.
pub const ROUTER_BATCH: usize = 100;
/// Time that a shutdown may take.
pub const DRAIN: Duration = Duration::from_secs(30);
/// Quarantined runs of an event whose last delivery nobody knows the end of, before it counts as
/// the killer of its workers: two in company, and three as the only suspect of its worker. More
/// than one: a worker may be killed by something else just then.
pub const QUARANTINED_RUNS_MAX: u32 = 5;
/// Deliveries that the server gives beyond those that count, for a worker to live long enough to
/// see that the last was never settled.
pub const SPARE_DELIVERIES: u32 = 3;
/// Suspects that run in one worker at once, the first time that they do.
pub const SUSPECTS_AT_ONCE: usize = 16;
/// Wait of a suspect for the events of one attempt that its worker has in flight: what never ends
/// holds it up no longer.
pub const FRAGILE_WAIT: Duration = Duration::from_secs(10);
/// Time without a delivery after which nothing is on its way, and a pull may end.
pub const DRAIN_QUIET: Duration = Duration::from_millis(200);
/// Wait for messages already requested when a pull ends. Where they come too slowly to fill the
/// request, little is lost.
pub const DRAIN_PULL_MAX: Duration = Duration::from_secs(2);
/// The longest reply of a handler that is read, in bytes.
pub const REPLY_BYTES_MAX: usize = 8 << 20;
/// Error classes that metrics tell apart; the rest are counted as `other`.
pub const CLASS_LABELS_MAX: usize = 100;
/// The longest wait between two tries at opening a consumer that is gone.
pub const REBIND_WAIT_MAX: Duration = Duration::from_secs(5);
/// Idle heartbeats missed in a row after which a pull is given up and made anew.
pub const HEARTBEATS_MISSED_MAX: usize = 3;
/// Wait before a publish that was given up on is tried again, while its event is held.
pub const PUBLISH_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// The longest error text in an error event, in bytes: a handler may answer with a whole page.
pub const ERROR_TEXT_BYTES_MAX: usize = 16 << 10;
/// Event types, per stage, that metrics tell apart; the rest are counted as `other`. Publishers
/// choose types.
pub const EVENT_TYPE_LABELS_MAX: usize = 200;
/// Stages and channels that metrics tell apart; the rest are counted as `other`. More than a
/// configuration has.
pub const STAGE_LABELS_MAX: usize = 500;
/// The end of [`DRAIN`] that is kept for giving back what could not be finished.
pub const DRAIN_RESERVE: Duration = Duration::from_secs(3);
/// Refused subjects, kindred ones as one, that are kept in mind.
pub const REFUSALS_MAX: usize = 256;
/// Time for which a refusal holds unseen: whoever is refused tries again sooner.
pub const REFUSAL_KEPT: Duration = Duration::from_secs(40);
/// Time between looks at what is refused.
pub const RIGHTS_LOOK: Duration = Duration::from_millis(500);
/// Time between questions whether something is still refused that nobody else asks about.
pub const RIGHTS_ASK: Duration = Duration::from_secs(5);
/// Waits before a task that panicked is started again; they double.
pub const TASK_AGAIN_MIN: Duration = Duration::from_millis(100);
/// Longest of them: at work again within a minute of the fault's end.
pub const TASK_AGAIN_MAX: Duration = Duration::from_secs(20);
/// Time that a task must have been at work to be called well: whoever looks now and then sees that
/// it fell.
pub const TASK_WELL: Duration = Duration::from_secs(30);
/// Wait before a worker that runs some stages only stands for a duty: one that runs all is
/// preferred.
pub const DUTY_YIELD: Duration = Duration::from_secs(2);
/// Wait before a worker stands for a duty that it can do in part: whoever can do all of it comes
/// first.
pub const DUTY_LAST_RESORT: Duration = Duration::from_secs(10);
/// Time after which it gives such a duty back, so that whoever can do more, or other parts, has it.
pub const DUTY_TERM: Duration = Duration::from_secs(60);
/// Time that the start of a worker may still take once it is told to stop: it announces itself and
/// takes leave again, which is some seconds where the broker is slow.
pub const START_STOP_MAX: Duration = Duration::from_secs(10);
/// Ack wait of a notification. Short: when its worker dies, someone waits for it; a slow delivery
/// sends progress acks.
pub const CHANNEL_ACK_WAIT: Duration = Duration::from_secs(10);
/// Notifications in flight at once, per channel and worker. Rates are low: the alert stage holds to
/// the channel's.
pub const CHANNEL_CONCURRENCY: usize = 4;
/// Events that `publish` has in flight at once.
pub const PUBLISH_WINDOW: usize = 512;
/// Time that one export of spans may take before the batch is dropped.
pub const OTLP_TIMEOUT: Duration = Duration::from_secs(10);
/// Span that a worker's rates and quantiles are taken over: long enough to be steady, short enough
/// to be news.
pub const RECENT: Duration = Duration::from_secs(30);
/// The longest `pipeline.toml`, in bytes. Ten thousand lines fit.
pub const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// The longest file that `${file:…}` fills in, in bytes: passwords and keys, not documents.
pub const FILLED_BYTES_MAX: u64 = 64 << 10;
/// Files in one folder of schemas, folders below it included.
pub const FOLDER_FILES_MAX: usize = 10_000;
/// One file of a folder of schemas, in bytes. A compiled schema takes a hundred times its text.
pub const FOLDER_FILE_BYTES_MAX: u64 = 4 << 20;
/// A file of certificates, in bytes: all that a system trusts are 250 KiB.
pub const CERTIFICATES_BYTES_MAX: u64 = 4 << 20;
/// A file of NATS credentials, in bytes.
pub const CREDENTIALS_BYTES_MAX: u64 = 64 << 10;
/// Read-ahead of `publish`, in bytes: the first line of a file of long events fits.
pub const PUBLISH_READ_BYTES: usize = 256 << 10;
/// A payload that someone edits, in bytes: the largest `max_payload` that a server takes.
pub const EDITED_BYTES_MAX: u64 = 64 << 20;
/// A message that someone has explained, in bytes: far more than is looked at.
pub const EXPLAINED_BYTES_MAX: u64 = 1 << 20;
/// Names that one is looked for among which is near a mistyped one: the time that it takes is that
/// of comparing with each.
pub const SUGGESTED_AMONG_MAX: usize = 500;
/// All files of one folder of schemas together, in bytes.
pub const FOLDER_BYTES_MAX: u64 = 64 << 20;
/// Folders within folders of schemas: a link that leads back to itself ends here.
pub const FOLDER_DEPTH_MAX: usize = 16;
/// Time that an HTTP connection may take to open. Past it the service counts as not reachable, not
/// as slow.
pub const HTTP_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time that an HTTP connection is kept without use: under the 5 s after which common servers
/// (Node, uvicorn) close it, since a request sent into a connection that is being closed fails.
pub const HTTP_IDLE: Duration = Duration::from_secs(4);
/// Bytes of an unused reply that are read so that its connection can be used again. Past it a new
/// connection is cheaper.
pub const HTTP_DISCARD_BYTES_MAX: usize = 64 << 10;
/// Connections to one address of ours, at the most: what scrapes and probes it are a handful. Fewer
/// where the process may have few descriptors.
pub const HTTP_SERVER_CONNECTIONS_MAX: usize = 64;
/// Time in which a request's header must come, also the next one on a connection.
pub const HTTP_SERVER_HEADER_WAIT: Duration = Duration::from_secs(8);
/// Age of a connection from which on it is closed, where it asks nothing, to have its descriptor.
pub const HTTP_SERVER_SILENT: Duration = Duration::from_secs(2);
/// Life of a connection to an address of ours: one that reads its answers too slowly ends.
pub const HTTP_SERVER_CONNECTION_MAX: Duration = Duration::from_secs(60);
/// Bytes of a request's header, at the most.
pub const HTTP_SERVER_REQUEST_BYTES_MAX: usize = 16 << 10;
/// Time for requests under way when the worker stops.
pub const HTTP_SERVER_GOODBYE: Duration = Duration::from_secs(1);
/// Wait after connections could not be taken.
pub const HTTP_SERVER_ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Descriptors that a worker takes where the system lets it: far more than all that is bounded here
/// needs. (What it starts inherits the number: some programs walk through all.)
pub const DESCRIPTORS_WANTED: u64 = 65_536;
/// Share of the descriptors from which on a worker says that they are nearly gone.
pub const DESCRIPTORS_NEARLY_GONE: f64 = 0.8;
/// Wait of an event for which the worker lacked something.
pub const SHORTAGE_WAIT: Duration = Duration::from_secs(5);
/// Time for which a shortage is said after it was last noticed: longer than its events wait.
pub const SHORTAGE_SAID: Duration = Duration::from_secs(20);
/// Interval at which a worker looks what it lacks.
pub const SHORTAGE_LOOK: Duration = Duration::from_secs(1);
/// The longest text of a log line that comes from outside (a child's stderr, an event's body), in
/// bytes.
pub const LOG_TEXT_BYTES_MAX: usize = 1024;
/// Children of one `exec` handler, at the most. Each is a process with pipes and a log reader.
pub const EXEC_PROCESSES_MAX: usize = 256;
/// The longest wait before a child that keeps dying is started again.
pub const EXEC_RESTART_WAIT_MAX: Duration = Duration::from_secs(5);
/// Wait for a dead child's exit status and last words, for the failure's message only.
pub const EXEC_LAST_WORDS: Duration = Duration::from_millis(500);
/// Bytes that a child may have logged on standard output between two events before it is replaced.
pub const EXEC_UNASKED_BYTES_MAX: usize = 1 << 20;
/// Time before the end of its `timeout` at which an `exec` call is given up: so the failure can say
/// what the child wrote instead of an answer.
pub const EXEC_TIMEOUT_MARGIN: Duration = Duration::from_millis(20);
/// Pull requests that may wait at a consumer (`max_waiting`): two for each worker of a large fleet.
/// Past it pulls spin (409).
pub const PULLS_WAITING_MAX: i64 = 4096;
/// Keys written by one commit of a reduce stage: what the server takes in one atomic batch
/// (ADR-50).
pub const COMMIT_KEYS_MAX: usize = 1000;
/// Messages asked for at once when a stream is read by offset. At 1 MiB each, the largest by
/// default, 256 MiB.
pub const READ_AHEAD_MAX: usize = 256;
/// Messages asked for at once where only headers are sent: at 2 KiB each, 8 MiB.
pub const HEADERS_READ_AHEAD_MAX: usize = 4096;
/// Time without a message after which a reading asks if there is anything left, or walks on.
pub const READ_IDLE: Duration = Duration::from_millis(500);
/// Inactive threshold: time the server keeps the consumer of a reader that has gone.
pub const READER_INACTIVE_MAX: Duration = Duration::from_secs(60);
/// The longest wait before a broken reading is opened again.
pub const REOPEN_WAIT_MAX: Duration = Duration::from_secs(5);
/// Time that a first connection may take, greeting and TLS included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time that a request of ours to the server may take.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest wait between two tries to connect. Short: an operator who has mended the server
/// waits for it.
pub const CONNECT_WAIT_MAX: Duration = Duration::from_secs(10);
/// Time that a server of our own may take to be ready, a recovery of its streams included.
pub const SERVER_START_MAX: Duration = Duration::from_secs(30);
/// Time that a server of our own may take to shut down before it is killed.
pub const SERVER_STOP_MAX: Duration = Duration::from_secs(10);
/// Interval at which a worker writes its record: its heartbeat.
pub const HEARTBEAT: Duration = Duration::from_secs(2);
/// Heartbeats of ours during which another worker may be silent, before it may have died: 6 to 8 s,
/// more than a reconnect takes after a restart of the server.
pub const HEARTBEATS_SILENT_MAX: u64 = 4;
/// Time after which a record of ours that is read back tells of nobody's silence: two heartbeats.
pub const ECHO_LATE: Duration = Duration::from_secs(4);
/// Heartbeats of ours after which a silent worker is forgotten: an hour.
pub const HEARTBEATS_GONE: u64 = 1800;
/// Heartbeats of ours that are on their way at once.
pub const HEARTBEATS_SENT_MAX: usize = 32;
/// Age of a sign of life, at the most, that clears an event that comes again, where its ack wait is
/// long enough: three heartbeats.
pub const HEARD_WITHIN: Duration = Duration::from_secs(6);
/// Wait until it is known if a worker may have died of an event, at the most.
pub const VERDICT_MAX: Duration = Duration::from_secs(15);
/// Wait of a worker that starts until it knows the others, at the most.
pub const ROLL_CALL_MAX: Duration = Duration::from_secs(2);
/// Consumers asked at once for the last sequence that they delivered.
pub const CONSUMERS_ASKED_AT_ONCE: usize = 16;
/// Interval at which a worker notes that it runs.
pub const PULSE: Duration = Duration::from_millis(250);
/// Pause of the process, at the least, after which what came meanwhile counts as come before it.
pub const PAUSE_MIN: Duration = Duration::from_secs(2);
/// Time after a pause within which all that came during it has been read.
pub const PAUSE_READ: Duration = Duration::from_secs(1);
/// Quarantined events of a stage in flight at once over the fleet, at the most: 16 workers full of
/// them.
pub const QUARANTINE_AT_ONCE_MAX: u64 = 256;
/// Time that a worker counts as alive after its last record.
pub const WORKER_TTL: Duration = Duration::from_secs(15);
/// Duplicate window where a publisher may repeat itself: longer than any publish is tried again.
pub const DEDUP: Duration = Duration::from_secs(120);
/// Duplicate window of a stream that needs none: the shortest the server takes; a window of none it
/// reads as 2 min, which costs 200 MiB per million ids.
pub const DEDUP_MIN: Duration = Duration::from_millis(100);
/// Time that a lease of a reduce stage lasts without a renewal. With the poll of a standby, a
/// takeover takes under 5 s.
pub const LEASE: Duration = Duration::from_secs(3);
/// Interval at which a lease is renewed: twice it may fail before it is lost.
pub const LEASE_RENEW: Duration = Duration::from_secs(1);
/// Interval at which a standby looks at a lease that is renewed: one that is given back is taken
/// within it.
pub const LEASE_STANDBY: Duration = Duration::from_millis(500);
/// Interval at which a standby looks at a lease that is late or free.
pub const LEASE_POLL: Duration = Duration::from_millis(250);
/// Messages that a reduce stage applies between two commits, at the most: so many are applied again
/// after a crash. Where a million errors come in a minute they touch the same few fingerprints, so
/// that the more there are to a commit, the fewer keys are written for each.
pub const COMMIT_INPUTS_MAX: usize = 10_000;
/// Silences on record at once, those that ended lately included. `alert` stages hold them in
/// memory.
pub const SILENCES_MAX: usize = 1000;
/// Time that a silence stays on record after its end.
pub const SILENCES_KEPT: Duration = Duration::from_secs(7 * 86_400);
/// Wait of a command to see that a stage has taken in an operator's action.
pub const OPERATOR_WAIT: Duration = Duration::from_secs(3);
/// Messages after which a reduce stage with emissions publishes them, though more messages are
/// there to be read. Many emissions are published as fast together as a single one; a flood must
/// not keep them back.
pub const EMIT_AFTER_INPUTS: usize = 64;
/// Wait of an applied message for its commit, at the most. What someone waits to hear is published
/// before.
pub const COMMIT_WAIT: Duration = Duration::from_millis(400);
/// Emissions between two commits, past which no more input is taken.
pub const COMMIT_EMISSIONS_MAX: usize = 1000;
/// Emissions awaiting their PubAck at once. In order on the wire; past 256 nothing is gained.
pub const EMISSIONS_IN_FLIGHT_MAX: usize = 256;
/// Wait of a due timer before the stage asks again if all that came before it has been applied.
pub const TIMER_RETRY: Duration = Duration::from_millis(100);
/// Wait of a reduce stage that failed before it stands by again.
pub const STEP_DOWN_WAIT: Duration = Duration::from_secs(1);
/// Time that a worker that stops may take to export its last spans.
pub const SPANS_FLUSH_MAX: Duration = Duration::from_secs(2);
/// Part of `max_ack_pending` that events may take up which wait for a retry: a quarter. The rest is
/// for those that run, or wait to run.
pub const WAITING_SHARE: u64 = 4;
/// Notifications in flight per channel, over the whole fleet.
pub const CHANNEL_ACK_PENDING_MAX: u64 = 1000;
/// Ack wait of an advisory: time the dead-letter router may take over it before another worker
/// tries.
pub const ROUTER_ACK_WAIT: Duration = Duration::from_secs(30);
/// Advisories in flight over the whole fleet.
pub const ROUTER_ACK_PENDING_MAX: u64 = 1000;
/// The longest reason in the shared state of a circuit breaker, in bytes: a line of `status`.
pub const BREAKER_REASON_BYTES_MAX: usize = 200;
/// Wait before the state of a circuit breaker that could not be written is written again.
pub const BREAKER_WRITE_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Wait of the sweep for its first look, once it is elected.
pub const SWEEP_FIRST: Duration = Duration::from_secs(3);
/// Interval at which a worker that does not sweep looks if the one that does is gone.
pub const SWEEP_STANDBY: Duration = Duration::from_secs(10);
/// Interval at which the sweep looks for what was given up on unheard. It is a net under a net: a
/// minute more does no harm.
pub const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// Wait after a round that let events expire and did not come to the end: there may be a million.
pub const SWEEP_AGAIN: Duration = Duration::from_secs(1);
/// Age of a message, at the least, before the sweep acts on it, whatever the ack wait: acks may be
/// on their way.
pub const SWEEP_PATIENCE_MIN: Duration = Duration::from_secs(60);
/// Time, at the least, that a message stays delivered and unsettled before it counts as given up
/// on, where the stage is never idle and has given some up.
pub const SWEEP_STUCK_MIN: Duration = Duration::from_secs(15 * 60);
/// Messages that one round of the sweep leaves or deals with, per stream. Each is one read: a round
/// takes a second or two.
pub const SWEEP_LOOKS_MAX: usize = 1000;
/// Bytes of the retry stream that one round of the sweep reads to find what has waited too long.
pub const SWEEP_BYTES_MAX: usize = 16 << 20;
/// Reads of a letter that someone else is changing, before it is left unmarked.
pub const AMEND_TRIES: usize = 5;
/// Room that a letter keeps under `max_payload` for headers it is given later: completed,
/// permanent, edited and by whom.
pub const LETTER_RESERVE: usize = 2 << 10;
/// Rest of a worker after it has counted what in the dead-letter stream is no letter, for a gauge,
/// in times that it took: with a million letters it keeps the server busy for 90 ms (2.15.1), which
/// every two seconds, times the fleet, is too much.
pub const NOT_LETTERS_REST: u32 = 500;
/// Letters that a redrive has in flight at once.
pub const REDRIVES_IN_FLIGHT_MAX: usize = 256;
/// Sequences of the first window when letters are read newest first: a page of them and what fails
/// its filter.
pub const NEWEST_WINDOW: u64 = 256;
/// Letters that a window may hold before the next one is made wider: past it the time until its
/// newest are known grows.
pub const NEWEST_WINDOW_LETTERS_MAX: usize = 16 << 10;
/// Rows of one table: a terminal shows no more, and their widths must be known before the first is
/// printed.
pub const TABLE_ROWS_MAX: usize = 10_000;
/// Groups of dead letters that are told apart; what has none of these fingerprints is counted as
/// other.
pub const GROUPS_MAX: usize = 10_000;
/// Stages, classes and types that one group names; classes and stages that `dlq stats` tells apart
/// a hundred times as many.
pub const GROUP_NAMES_MAX: usize = 5;
/// Subjects of the error events of one stage. Each subject costs the server about 200 bytes for as
/// long as one of its messages is kept (measured, 2.15.1); there may be millions in seven days.
pub const FAILED_BUCKETS: u64 = 4096;
/// Error events on the subject of one that is looked for which are read one by one, 60 to 90 us
/// each; past that it is cheaper to have them sent.
pub const RECORD_WALK_MAX: usize = 32;
/// Error events that are looked through for one. Past it the attempt counts as unknown.
pub const RECORD_SCAN_MAX: usize = 100_000;
/// Further subjects that are tried for a letter whose own was claimed by another message.
pub const LETTER_SUBJECTS_MAX: usize = 5;
/// Time for which a stream that is followed is taken to be the same one, once that was seen: no
/// server is restarted, and its stream filled again beyond what was read, within it. Two requests,
/// some 0.2 ms, are made each time.
pub const SAME_STREAM_TRUST: Duration = Duration::from_millis(250);
/// Interval at which a stream that is followed and silent is asked whether it is still the same
/// one: one that was made anew below what was read is silent otherwise.
pub const SAME_STREAM_LOOK: Duration = Duration::from_secs(5);
/// Failed attempts of one event that `dlq show` reads. Deferred attempts are not limited by a
/// policy.
pub const HISTORY_MAX: usize = 1000;
/// Dead letters that are being deleted at once.
pub const DROPS_IN_FLIGHT_MAX: usize = 256;
/// Difference of clocks of workers and servers, at the most: so much earlier a reading begins that
/// looks for a time.
pub const CLOCKS_APART_MAX: Duration = Duration::from_secs(300);
/// Age of a reading of the broker's clock at which it is read anew before a timer fires.
pub const CLOCK_READ_EVERY: Duration = Duration::from_secs(60);
/// Part of the time passed by which two clocks that run free may drift apart: 100 ppm, four times
/// what a bad quartz does.
pub const CLOCK_DRIFT: u32 = 10_000;
/// Error of a reading beside that of its way: times travel in milliseconds here and there.
pub const CLOCK_GRAIN: Duration = Duration::from_millis(2);
/// Step back of what is known of the broker's time for which it is waited, rather than told.
pub const CLOCK_WAITS_MAX: Duration = Duration::from_secs(1);
/// Skew of the host's clock against the broker's from which on it is told.
pub const CLOCK_SKEW_TOLD: Duration = Duration::from_secs(2);
/// Time that a job is left to whoever runs it without a renewal: ten of its renewals.
pub const JOB_CLAIM: Duration = Duration::from_secs(5);
/// Interval at which the record of a job is written while it runs: a sign of life, and what a crash
/// may leave to be looked at again. A cancel is seen by then.
pub const JOB_CHECKPOINT: Duration = Duration::from_millis(500);
/// Wait between two writes of the record of a job whose letters wait for one before they are
/// removed: as many as came meanwhile go with the next.
pub const JOB_WRITE_GAP: Duration = Duration::from_millis(20);
/// Letters above the cursor that a job's record names, at the most: some 80 KB where none is next
/// to another.
pub const JOB_ABOVE_MAX: usize = 4096;
/// Interval between two letters above which the time of the next is on record before one is sent,
/// so that no other runner sends one too early. Below it a takeover takes longer ([`JOB_CLAIM`]).
pub const RATE_RECORDED_ABOVE: Duration = Duration::from_secs(1);
/// Jobs that are kept once they ended, as a record; older ones go when a new one is made.
pub const JOBS_KEPT: usize = 200;
/// Bytes of a stage's name that a letter says, as far as they are shown: no name is longer.
pub const STAGE_SHOWN_BYTES: usize = 64;
/// Reasons that a job gives for letters that stay: each stage has a few.
pub const JOB_REASONS_MAX: usize = 32;
/// Jobs that one worker runs at once. A slow one must not hold up the next.
pub const JOBS_AT_ONCE_MAX: usize = 4;
/// Interval at which a worker looks for jobs that nobody runs.
pub const JOBS_LOOK: Duration = Duration::from_millis(250);
/// Letters of a canary, at the most: each is kept in the job's record until its verdict.
pub const CANARY_MAX: u32 = 500;
/// Wait for the verdict of a canary.
pub const CANARY_WAIT: Duration = Duration::from_secs(300);
/// Interval at which the outcome of a canary is looked up.
pub const CANARY_LOOK: Duration = Duration::from_millis(200);
/// Events of a stage in the retry stream that are looked through for one that was given back there.
pub const CANARY_WALK_MAX: usize = 256;
/// Letters that are removed at once, where a whole run of them went: as many are sent again, and
/// dropped by their ids, after a crash.
pub const REMOVE_RUN_MAX: usize = 4096;
/// A job with a rate below this, in letters a second, reads each letter anew before it is sent:
/// what it has read ahead is old.
pub const REREAD_BELOW: f64 = 2000.0;
/// Tries of a job at a request that the broker did not carry out, before it is left to the next
/// runner.
pub const JOB_TRIES: u32 = 5;
/// Tenants whose state a job remembers at once, each for [`TENANT_TTL`].
pub const TENANTS_MAX: usize = 10_000;
/// Time that a job's knowledge of a tenant holds.
pub const TENANT_TTL: Duration = Duration::from_secs(10);
/// Time that a health check of a stage may take.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// Browsers connected to one worker's websocket channel. Each is a socket and a place in a queue.
pub const LIVE_CLIENTS_MAX: usize = 1000;
/// Messages that wait for a slow browser before it is left: a browser that reads at all needs a
/// tenth of it.
pub const LIVE_QUEUE: usize = 256;
/// The longest message that a browser may send, in bytes. None is asked for.
pub const LIVE_MESSAGE_BYTES_MAX: usize = 4 << 10;
/// Interval of pings to a browser; two silences in a row, and it is left. Under the minute after
/// which proxies close what is idle.
pub const LIVE_PING: Duration = Duration::from_secs(20);
/// Time that a browser may take to take one message.
pub const LIVE_SEND_MAX: Duration = Duration::from_secs(10);
/// Time that browsers are given to take leave.
pub const LIVE_GOODBYE: Duration = Duration::from_secs(1);
/// Wait before an address for browsers that is taken is tried again.
pub const LIVE_BIND_AGAIN: Duration = Duration::from_secs(3);
/// Time that a resolved mail server's name is taken to hold.
pub const SMTP_ADDRESS_TTL: Duration = Duration::from_secs(60);
/// Time that an SMTP connection is kept without use: under the five minutes after which a server
/// may close it (RFC 5321, 4.5.3.2.7).
pub const SMTP_IDLE: Duration = Duration::from_secs(120);
/// Interval at which the keeper looks while events pass. Under the shortest wait of the default
/// retry policy, so that what it saw before tells that nothing is due again.
pub const KEEPER_LOOK: Duration = Duration::from_millis(600);
/// Interval at which the keeper looks while nothing happens.
pub const KEEPER_IDLE_LOOK: Duration = Duration::from_secs(5);
/// Interval at which a worker that is not the keeper looks if the keeper is gone: edges keep all
/// that they hold meanwhile.
pub const KEEPER_STANDBY: Duration = Duration::from_secs(2);
/// Messages that one purge deletes, at the most: it holds up who publishes (744 000 messages: 187
/// ms).
pub const TRIM_STEP: u64 = 100_000;
/// Settled messages of an edge past which it is trimmed, whatever that delays: disk is not without
/// end.
pub const TRIM_BEHIND_MAX: u64 = 200_000;
/// Time for which settled messages of an edge stay, at the most, whatever a trim delays.
pub const TRIM_WAIT_MAX: Duration = Duration::from_secs(60);
/// Samples of what was delivered to one reader: as many as there are looks in a long ack wait.
pub const TRIM_SAMPLES_MAX: usize = 64;
/// Time that a trim may take from the question to the purge: so much less than an ack wait a sample
/// may be old.
pub const TRIM_MARGIN: Duration = Duration::from_millis(100);
/// Wait after a purge, or a creation, that failed before the keeper tries it again.
pub const KEEPER_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// Share of a source's `max_bytes` from which on what every stage has read makes room.
pub const SOURCE_TRIM_FILL: f64 = 0.7;
/// Share of a source's limits that unread events take up, from which on it is told.
pub const SOURCE_WARN_FILL: f64 = 0.8;
/// Interval at which a condition that lasts is told again as a finding, so that its incident lasts.
pub const CONDITION_TOLD_EVERY: Duration = Duration::from_secs(600);
/// Interval at which events that are lost unread are told: one finding for those since the last.
pub const LOSS_TOLD_EVERY: Duration = Duration::from_secs(10);
/// Conditions and losses that the keeper's record names, at the most.
pub const KEEPER_RECORD_MAX: usize = 100;
/// Bytes that the feeds of a worker may have on their way and waiting, each an equal share: half of
/// what the server holds for a connection before it drops it as a slow consumer (64 MB). A feed
/// may always have one message of `max_payload`.
pub const IN_FLIGHT_BYTES_MAX: usize = 32 << 20;
/// Bytes that a pull request asks for, at the least, and room beside `max_payload` for the subjects
/// of a message.
pub const PULL_BYTES_MIN: usize = 16 << 10;
/// Factor by which a stored message may be larger than `max_payload`, which was lowered since.
pub const PULL_STRETCH_MAX: usize = 64;
/// Bytes that one feed takes in before it drops messages: more than it ever asks for.
pub const PULLED_BYTES_MAX: usize = 256 << 20;
/// Bytes of core messages that wait for a slow listener before some are dropped.
pub const LISTENED_BYTES_MAX: usize = 8 << 20;
/// Raw reads of single messages at once: at 1.4 MB each, the largest by default, 22 MB.
pub const RAW_READS_MAX: usize = 16;
/// Tries of a raw read whose connection breaks.
pub const RAW_READ_TRIES: u32 = 3;
/// Bytes that wait to be sent before senders wait.
pub const WRITE_BUFFER_BYTES_MAX: usize = 4 << 20;
/// Bytes of settlements that are kept while no connection stands: some ten thousand.
pub const SETTLEMENTS_KEPT_BYTES_MAX: usize = 1 << 20;
/// Read buffer of a connection, in bytes.
pub const READ_BUFFER_BYTES: usize = 64 << 10;
/// Interval at which a connection looks for signs of life.
pub const PING_LOOK: Duration = Duration::from_millis(500);
/// Silence of the server after which it is pinged.
pub const PING_AFTER: Duration = Duration::from_secs(4);
/// Wait for the answer to a ping before the connection counts as broken.
pub const PONG_WAIT: Duration = Duration::from_secs(5);
/// The shortest and the longest wait before a broken connection is tried again. Short: a server
/// that restarts is waited for by everyone.
pub const RECONNECT_WAIT_MIN: Duration = Duration::from_millis(50);
/// See [`RECONNECT_WAIT_MIN`].
pub const RECONNECT_WAIT_MAX: Duration = Duration::from_secs(2);
/// Servers of a cluster that are known at once.
pub const CLUSTER_SERVERS_MAX: usize = 64;
/// Bytes of a malformed header block that its letter keeps in a header.
pub const RAW_HEADERS_BYTES_MAX: usize = 4 << 10;
/// Openings of a reading that give nothing, in a row, before that is an error.
pub const READ_FAILURES_MAX: u32 = 5;
/// Subjects of parked events that are read to find those of stages that are gone: some 100 bytes
/// each while they are read.
pub const LEFTOVER_SUBJECTS_MAX: usize = 200_000;
/// Interval at which a worker looks for events that wait for a stage that is not there.
pub const LEFTOVERS_EVERY: Duration = Duration::from_secs(30);
/// `max_bytes` lent to a stream at the most, where the account requires one and none is declared.
pub const LENT_BYTES_MAX: u64 = 1 << 30;
/// `max_bytes` lent to a stream at the least: less would be full of one event.
pub const LENT_BYTES_MIN: u64 = 4 << 20;
/// Interval at which it is said again that events wait for a stage that is not there.
pub const LEFTOVERS_SAID_EVERY: Duration = Duration::from_secs(600);
/// The largest event that a filter looks at on the thread of whoever asks, in bytes. Reading a
/// larger one takes longer than a thread of its own costs.
pub const FILTER_INLINE_BYTES_MAX: usize = 16 << 10;
/// Threads that run filters, per process, at the most: each may take 64 MB beside its event.
pub const FILTER_THREADS_MAX: usize = 8;
/// Time that one run of a filter may take. Its steps end it sooner, but for a busy machine, a debug
/// build, or a regex that reads the same long text again and again.
pub const FILTER_RUN_MAX: Duration = Duration::from_secs(10);
/// Wait before an address for metrics and health that is taken is tried again.
pub const PORT_AGAIN_AFTER: Duration = Duration::from_secs(2);
/// Conditions that do not hold, in a record of the fleet and in memory, at the most.
pub const CONDITIONS_MAX: usize = 100;
/// Conditions that do not hold, in the record of one worker, which all read every two seconds.
pub const WORKER_CONDITIONS_MAX: usize = 20;
/// The longest text of a condition in a record, in bytes.
pub const CONDITION_TEXT_BYTES_MAX: usize = 300;
/// Interval at which a worker looks if it is connected.
pub const BROKER_LOOK: Duration = Duration::from_millis(500);
/// Time without an answer of the broker, though it is connected, after which that is a condition.
pub const BROKER_SILENT_MAX: Duration = Duration::from_secs(4);
/// Interval at which one worker looks at what the fleet needs, and the others read what it found.
pub const WATCH_LOOK: Duration = Duration::from_secs(2);
/// Time after which consumers of a stream are asked again, though nothing in it has changed.
pub const WATCH_ALL: Duration = Duration::from_secs(30);
/// Time without a look at the fleet after which a worker looks itself, and then as often.
pub const WATCH_SILENT_MAX: Duration = Duration::from_secs(10);
/// Time that a lease stays unheld, or events unread, before that is a condition: more than a
/// takeover takes.
pub const UNHELD_MAX: Duration = Duration::from_secs(15);
/// Time that a condition lasts before it is a finding: a restart of the server is no news.
pub const CONDITION_LASTS: Duration = Duration::from_secs(10);
/// Interval at which the records of workers are read for the conditions in them.
pub const WORKERS_READ_EVERY: Duration = Duration::from_secs(6);
/// Time that a reduce stage leads before it counts as well, where it commits nothing meanwhile.
pub const LEADS_WELL_AFTER: Duration = Duration::from_secs(10);
/// Wait for a finding of the keeper to be stored: well below [`WATCH_SILENT_MAX`].
pub const FINDING_WAIT: Duration = Duration::from_secs(3);
