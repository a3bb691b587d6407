//! The operations and their numbers.

/// Set in the `op` field of every answer.
pub const REPLY: u16 = 1 << 15;
/// Set in the `op` field of a frame that the server sends unasked.
pub const PUSH: u16 = 1 << 14;

macro_rules! ops {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal, $text:literal, $numbered:literal;)+) => {
        /// What a frame asks for. See `PROTOCOL.md` for the bytes of each.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum Op { $($(#[doc = $doc])+ $name = $number,)+ }

        impl Op {
            /// Every operation, in the order of its number.
            pub const ALL: &'static [Op] = &[$(Op::$name,)+];

            /// The operation of that number, or `None` where this version knows none.
            ///
            /// ```
            /// use ackring::wire::Op;
            /// assert_eq!(Op::from_u16(16), Some(Op::Enqueue));
            /// assert_eq!(Op::from_u16(999), None);
            /// ```
            #[inline]
            pub fn from_u16(number: u16) -> Option<Self> {
                match number { $($number => Some(Op::$name),)+ _ => None }
            }

            /// The name in `PROTOCOL.md`, in capitals.
            pub fn name(self) -> &'static str {
                match self { $(Op::$name => $text,)+ }
            }

            /// Whether its body begins with a request number, under which it is applied once.
            pub fn is_numbered(self) -> bool {
                match self { $(Op::$name => $numbered,)+ }
            }
        }
    };
}

ops! {
    /// The first frame of a connection: versions, limits, session.
    Hello = 1, "HELLO", false;
    /// Nothing but a sign of life.
    Ping = 2, "PING", false;
    /// A handle for a queue's name; makes the queue with defaults when it is missing.
    QueueOpen = 3, "QUEUE_OPEN", false;
    /// Makes a queue with options.
    QueueCreate = 4, "QUEUE_CREATE", true;
    /// One queue's options and counters.
    QueueInfo = 5, "QUEUE_INFO", false;
    /// Options and counters of all queues, a page at a time.
    QueueList = 6, "QUEUE_LIST", false;
    /// Stops handing out.
    QueuePause = 7, "QUEUE_PAUSE", true;
    /// Hands out again.
    QueueResume = 8, "QUEUE_RESUME", true;
    /// Cancels all jobs in some states.
    QueuePurge = 9, "QUEUE_PURGE", true;
    /// Removes the queue and its jobs.
    QueueDelete = 10, "QUEUE_DELETE", true;
    /// Adds jobs to a queue.
    Enqueue = 16, "ENQUEUE", true;
    /// Takes jobs under leases, waiting for them if asked.
    Reserve = 17, "RESERVE", true;
    /// Acks, nacks, rejects, releases, extends.
    Settle = 18, "SETTLE", true;
    /// Settles and enqueues, all or nothing.
    Step = 19, "STEP", true;
    /// Has jobs pushed, up to a window of unsettled ones.
    Subscribe = 20, "SUBSCRIBE", false;
    /// Ends a subscription.
    Unsubscribe = 21, "UNSUBSCRIBE", false;
    /// Jobs pushed to a subscription. Only from the server.
    Delivery = 22, "DELIVERY", false;
    /// One job's status.
    JobGet = 32, "JOB_GET", false;
    /// Statuses of a queue's jobs, a page at a time.
    JobList = 33, "JOB_LIST", false;
    /// The next jobs with their payloads, taken by nobody.
    JobPeek = 34, "JOB_PEEK", false;
    /// Cancels jobs by id.
    JobCancel = 35, "JOB_CANCEL", true;
    /// Brings dead jobs back.
    JobRedrive = 36, "JOB_REDRIVE", true;
}
