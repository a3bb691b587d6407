//! Every bound of the project, in one place and asserted against each other.
//!
//! A number here is a promise that memory stays bounded. Defaults that a user may change are named
//! `*_DEFAULT`; everything else is fixed for this version.

/// Priority levels of a queue. Level `PRIORITIES - 1` is served first, strictly; 0 is the default.
pub const PRIORITIES: usize = 8;

/// Largest payload any queue can be configured to take, in bytes.
pub const PAYLOAD_BYTES_MAX: u32 = 16 * 1024 * 1024;
/// Largest payload a queue takes unless its options say otherwise, in bytes.
pub const PAYLOAD_BYTES_DEFAULT: u32 = 1024 * 1024;
/// Largest metadata of one job, in bytes.
pub const META_BYTES_MAX: u32 = 4 * 1024;
/// Longest idempotency key, in bytes.
pub const KEY_BYTES_MAX: u32 = 128;
/// Longest error text or result kept with a job, in bytes.
pub const NOTE_BYTES_MAX: u32 = 64 * 1024;
/// Longest queue name, in bytes.
pub const QUEUE_NAME_BYTES_MAX: usize = 128;

/// Most jobs in one request: enqueue, reserve or settle.
pub const BATCH_JOBS_MAX: usize = 16 * 1024;
/// Small requests of one kind, come together on a connection, that are carried out at once.
pub const REQUESTS_TOGETHER_MAX: usize = 64;
/// Largest frame on the wire in either direction, header included, in bytes.
pub const FRAME_BYTES_MAX: u32 = 20 * 1024 * 1024;
/// Most queues named in one reserve or subscribe.
pub const QUEUES_PER_REQUEST_MAX: usize = 64;
/// Most jobs or queues in one page of a listing.
pub const LIST_PAGE_MAX: u32 = 1_000;

/// Most queues that one engine ever creates between two starts, deleted ones included.
pub const QUEUES_MAX: usize = 256 * 1024;
/// Jobs that one engine holds in memory unless configured otherwise. Costs address space only until used.
pub const SLOTS_DEFAULT: u32 = 16 * 1024 * 1024;
/// Most jobs that one engine can be configured to hold.
pub const SLOTS_MAX: u32 = 1 << 30;
/// Jobs that one queue holds unless its options say otherwise: pending, leased and dead ones.
pub const QUEUE_JOBS_DEFAULT: u64 = SLOTS_MAX as u64;
/// Payload and metadata bytes that one queue holds unless its options say otherwise.
pub const QUEUE_BYTES_DEFAULT: u64 = 1 << 40;

/// Lease of a delivery unless the queue, the job or the reserve says otherwise, in milliseconds.
pub const LEASE_MS_DEFAULT: u32 = 30_000;
/// Shortest lease, in milliseconds.
pub const LEASE_MS_MIN: u32 = 1;
/// Longest lease: 24 hours, in milliseconds.
pub const LEASE_MS_MAX: u32 = 24 * 3600 * 1000;
/// Attempts of a job unless the queue or the job says otherwise.
pub const ATTEMPTS_DEFAULT: u16 = 25;
/// Largest limit on attempts; a delivery that would pass it makes the job dead.
pub const ATTEMPTS_MAX: u16 = 60_000;
/// Deliveries of one job after which it is dead whatever its limit: the attempt number must not wrap.
pub const DELIVERIES_MAX: u16 = u16::MAX - 1;
/// First retry delay unless the queue says otherwise, in milliseconds.
pub const BACKOFF_BASE_MS_DEFAULT: u32 = 1_000;
/// Cap of the retry delay unless the queue says otherwise, in milliseconds.
pub const BACKOFF_CAP_MS_DEFAULT: u32 = 3_600_000;
/// Longest retry delay: 30 days, in milliseconds.
pub const BACKOFF_MS_MAX: u32 = 30 * 24 * 3600 * 1000;
/// Longest fixed list of retry delays.
pub const BACKOFF_LIST_MAX: usize = 64;
/// Furthest due time from now: ten years, in milliseconds.
pub const DELAY_MS_MAX: u64 = 10 * 366 * 24 * 3600 * 1000;
/// Window in which an idempotency key is remembered unless the queue says otherwise: one hour, in milliseconds.
pub const DEDUPE_WINDOW_MS_DEFAULT: u64 = 3_600_000;
/// Longest dedupe window: 30 days, in milliseconds.
pub const DEDUPE_WINDOW_MS_MAX: u64 = 30 * 24 * 3600 * 1000;
/// Idempotency keys remembered at once, over all queues.
pub const DEDUPE_KEYS_MAX: usize = 16 * 1024 * 1024;
/// Finished jobs kept for each queue unless its options say otherwise.
pub const KEEP_FINISHED_DEFAULT: u32 = 1_024;
/// Most finished jobs that a queue can be told to keep.
pub const KEEP_FINISHED_MAX: u32 = 16 * 1024 * 1024;

/// Client sessions remembered at once; the one idle longest goes first.
pub const SESSIONS_MAX: usize = 64 * 1024;
/// Requests of one session whose outcome is remembered. A client keeps fewer than this in flight.
pub const SESSION_WINDOW: u64 = 1_024;
/// Requests remembered at once, over all sessions; where they are more, the session idle longest goes. A whole window for
/// each of as many clients as a server takes by default, of 24 bytes a request.
pub const REQUESTS_REMEMBERED_MAX: usize = 16 * 1024 * SESSION_WINDOW as usize;

/// Size of one log segment unless configured otherwise, in bytes.
pub const SEGMENT_BYTES_DEFAULT: u32 = 64 * 1024 * 1024;
/// Smallest log segment, in bytes (for tests and small disks). Limits the largest record accordingly.
pub const SEGMENT_BYTES_MIN: u32 = 64 * 1024;
/// Largest log segment, in bytes.
pub const SEGMENT_BYTES_MAX: u32 = 1 << 30;
/// Most segments that a log may have at once. Each is a mapping, and Linux allows a process 65,530 of those.
pub const SEGMENTS_MAX: usize = 32 * 1024;
/// Segments that a log on a disk may have beyond its limit while jobs are copied and nothing else is free. Kept out of
/// new jobs' reach, and used again once there.
pub const SEGMENTS_FOR_COPIES: usize = 2;
/// Highest number of a segment file. More than segments, as each start may need one beyond the limit.
pub const SEGMENT_FILES_MAX: u32 = 2 * SEGMENTS_MAX as u32;
/// Fewest segments that a log must be allowed: one written, and the three that a roll
/// for new jobs wants to see: the next one and the reserve of two.
pub const SEGMENTS_MIN: usize = 4;
/// Segments kept prepared to be rolled to, in the background.
pub const SEGMENTS_READY: usize = 2;
/// Segments kept that hold nothing, those that are ready included.
pub const SEGMENTS_SPARE: usize = 4;
/// Log bytes that are not synced yet at which the background sync does not wait for its time: what the kernel would
/// otherwise write on its own, at the cost of stalls, and what would be synced in one go while the next segments have to
/// wait. Where the jobs that are there take less, most of that is over, and goes unsynced.
pub const UNSYNCED_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Log bytes that go by while the older part of a log is emptied, at which the rest is left to the next time: the copies made
/// until then become durable in one go, and others wait meanwhile.
pub const SWEEP_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// What the file beside a log takes at once of what segments told that are gone, in bytes. Where it is more, those
/// segments go once the log tells it durably.
pub const ANCHOR_BYTES_MAX: u32 = 256 * 1024;
/// Log bytes of definitions that are copied together, in one claim: what others commit behind it counts as theirs only once
/// the claim is through.
pub const CARRY_BYTES_MAX: usize = 16 * 1024;
/// Pause before a segment is made again after the disk was full or the system refused it, in milliseconds.
pub const SEGMENT_RETRY_MS: u64 = 1_000;
/// Bytes after which a segment in memory is left for the next one while few are in use, so that those few go round in
/// the caches; less where that is more than a [`HOT_SEGMENT_PART`]th of a segment.
pub const HOT_SEGMENT_BYTES: u32 = 1024 * 1024;
/// A segment is left early only where such a part of it is at least this many bytes.
pub const HOT_SEGMENT_BYTES_MIN: u32 = 256 * 1024;
/// The part of a segment after which it is left early, at most.
pub const HOT_SEGMENT_PART: u32 = 64;
/// Segments that are filled after one that was to be left early got a record larger than that: large records come
/// together mostly, and they and what is small between them would have a segment each.
pub const SEGMENTS_FILLED_AFTER_LARGE: u32 = 8;
/// More segments in use than such a part of those that may exist end the leaving early: one that was left counts as a
/// whole one, and a log that is full has to copy its jobs out before it can take more.
pub const SEGMENTS_PART_LEFT_EARLY: usize = 4;
/// More segments in use than these end it too: they go round in no cache then, and each would have the memory of a whole one
/// touched for the megabyte that it takes.
pub const SEGMENTS_LEFT_EARLY_MAX: usize = 16;
/// How long memory of a segment must not have been needed before it goes back to the system, in milliseconds.
pub const SEGMENT_IDLE_MS: u64 = 10_000;
/// Bytes that a log may take on disk unless configured otherwise.
pub const LOG_BYTES_DEFAULT: u64 = 64 << 30;
/// Log bytes that hand-outs leave alone for each job that is not over: it may be settled in a record of its own, and a
/// copy of it is longer than it was in the batch that brought it.
pub const LOG_KEPT_BY_HAND_OUT_BYTES: u64 = 192;
/// Log bytes that enqueues leave alone for each job: it may be handed out in a record of its own besides.
pub const LOG_KEPT_BY_ENQUEUE_BYTES: u64 = LOG_KEPT_BY_HAND_OUT_BYTES + 128;
/// Bytes that bodies of `memory` jobs may take unless configured otherwise.
pub const MEMORY_BYTES_DEFAULT: u64 = 8 << 30;
/// Most jobs that one reserve hands out: what fits the work space on its stack.
pub const RESERVE_JOBS_MAX: usize = 1_024;
/// Time between two background syncs of the log, in milliseconds.
pub const SYNC_INTERVAL_MS: u64 = 1_000;

/// Tick of the timers, in milliseconds: leases, delays and TTLs are late by at most about two of these.
pub const TICK_MS: u64 = 10;
/// Pause of the log's agent when there was nothing to do, in milliseconds.
pub const LOG_STEP_MS: u64 = 20;
/// Time for which a disconnected worker's leases are kept unless configured otherwise, in milliseconds.
pub const DISCONNECT_GRACE_MS_DEFAULT: u32 = 5_000;
/// Leases of ended connections that wait for their sessions at once; further ones are shortened to the grace time.
pub const ORPHANS_MAX: usize = 1024 * 1024;
/// Suggested pause before trying again after a limit was hit, in milliseconds.
pub const RETRY_LATER_MS: u32 = 100;

/// Longest wait of one reserve, in milliseconds.
pub const WAIT_MS_MAX: u32 = 3_600_000;
/// Largest window of unsettled jobs for one subscription.
pub const WINDOW_JOBS_MAX: u32 = 64 * 1024;
/// Connections that a server holds at once unless configured otherwise.
pub const CONNECTIONS_DEFAULT: usize = 16 * 1024;
/// Bytes of a request that every connection may hold while the rest is on its way.
pub const RECEIVE_BYTES_EACH: usize = 64 * 1024;
/// Bytes beyond those that all connections of a server together may hold unless configured otherwise. Exceeded by at most
/// one read of each reactor.
pub const RECEIVE_BYTES_DEFAULT: usize = 1024 * 1024 * 1024;
/// Bytes waiting to be written to one connection before its requests are left unread.
pub const OUTBOX_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes that a client's threads may leave for the one that is writing, before the next ones wait until it has come that
/// far. Exceeded by at most one request of each thread, beside what is being written, which was as much at most.
pub const UNSENT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Waiting reserves and subscriptions of one connection.
pub const WAITERS_PER_CONNECTION_MAX: usize = 256;
/// Time for a new connection to say HELLO, in milliseconds.
pub const HELLO_TIMEOUT_MS: u64 = 10_000;
/// Most reactors of one server (each has a bit in a queue's waiting mask).
pub const REACTORS_MAX: usize = 32;
/// TCP port of the server unless configured otherwise.
pub const PORT_DEFAULT: u16 = 7257;

const _: () = {
    // A frame carries one largest job with its entry, metadata and key, and the batch arrays around it.
    assert!(PAYLOAD_BYTES_MAX + META_BYTES_MAX + KEY_BYTES_MAX + 1024 < FRAME_BYTES_MAX);
    // A frame becomes one log record, so it fits a default segment beside the segment's own header.
    assert!(FRAME_BYTES_MAX * 2 < SEGMENT_BYTES_DEFAULT);
    assert!(SEGMENT_BYTES_MIN.is_power_of_two() && SEGMENT_BYTES_DEFAULT.is_power_of_two());
    assert!(SEGMENT_BYTES_DEFAULT >= SEGMENT_BYTES_MIN && SEGMENT_BYTES_DEFAULT <= SEGMENT_BYTES_MAX);
    assert!(PAYLOAD_BYTES_DEFAULT <= PAYLOAD_BYTES_MAX);
    assert!(SLOTS_DEFAULT <= SLOTS_MAX);
    // Attempt numbers are 16 bits and must not wrap: room for redrives and releases above the limit.
    assert!((ATTEMPTS_MAX as u32) < u16::MAX as u32);
    assert!(LEASE_MS_DEFAULT >= LEASE_MS_MIN && LEASE_MS_DEFAULT <= LEASE_MS_MAX);
    assert!(PRIORITIES >= 8 && PRIORITIES <= 256);
    assert!(META_BYTES_MAX <= u16::MAX as u32 && KEY_BYTES_MAX <= u8::MAX as u32);
    assert!(REACTORS_MAX < 64);
    assert!(SESSION_WINDOW.is_power_of_two());
    assert!(REQUESTS_REMEMBERED_MAX >= CONNECTIONS_DEFAULT * SESSION_WINDOW as usize);
    // Some of the largest requests may always be on their way.
    assert!(RECEIVE_BYTES_DEFAULT >= 8 * FRAME_BYTES_MAX as usize);
};
