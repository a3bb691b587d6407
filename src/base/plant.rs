//! Bugs on purpose: each a way in which a queue has lost or repeated jobs, to show that the simulation finds it.
//!
//! They exist only in a build with `RUSTFLAGS="--cfg planted"`, which nothing that ships is built with (no feature
//! of the crate can turn it on); there the environment variable `ACKRING_PLANT` names the one to be active. In every
//! other build [`is_planted`] is `false` at compile time and the bugs are not in the program.

/// A planted bug. Its name in `ACKRING_PLANT` is the one given by [`name`](Self::name).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// An answer that waits for the disk is sent before the sync.
    ConfirmBeforeSync,
    /// The directory is not synced after a segment file got its name.
    SkipDirectorySync,
    /// A segment is used again while copies of its jobs are not durable.
    RecycleEarly,
    /// An attempt is logged after the job was handed out.
    CountAttemptLate,
    /// The durable prefix runs over a record that is not committed.
    PublishHole,
    /// A settlement under an old attempt is taken for the present one.
    AcceptStaleToken,
    /// Recovery does not bring the idempotency keys back.
    ForgetKey,
    /// Recovery does not watch the deadline of a job that was leased.
    LoseLeaseTimer,
    /// Recovery does not bring back which requests were applied.
    ForgetSession,
    /// An idempotency key is remembered for half its window.
    ShortenWindow,
    /// Recovery passes over plain acks.
    ReviveAcked,
    /// Recovery takes the jobs of an atomic step and not its settlements.
    TearStep,
    /// Recovery lines up jobs by their slots, not as they were accepted.
    MixOrder,
    /// A job is dead one attempt before its limit.
    BuryEarly,
    /// Bytes of a job whose TTL passed stay counted.
    MiscountExpired,
    /// The slot of a cancelled job is not used again.
    LeakSlot,
    /// Ids are given out before the disk knows of them.
    RepeatIds,
    /// Leases of a lost connection are given back at once.
    SkipGrace,
    /// Who publishes jobs does not wake those who wait for them.
    LoseWakeup,
    /// Recovery does not read what segments told that are gone.
    ForgetAnchor,
    /// Segments go before what they told is on the disk.
    AnchorLate,
    /// The log begins behind segments that are not on the disk, and no anchor says so.
    BeginEarly,
    /// Segments go by an anchor though copies of their jobs are not durable behind them.
    AnchorBlind,
    /// What failed of a quiet ack in a queue that is synced is told when the disk has the rest.
    HoldQuiet,
}

impl Plant {
    /// All of them.
    pub const ALL: [Plant; 24] = [
        Plant::ConfirmBeforeSync,
        Plant::SkipDirectorySync,
        Plant::RecycleEarly,
        Plant::CountAttemptLate,
        Plant::PublishHole,
        Plant::AcceptStaleToken,
        Plant::ForgetKey,
        Plant::LoseLeaseTimer,
        Plant::ForgetSession,
        Plant::ShortenWindow,
        Plant::ReviveAcked,
        Plant::TearStep,
        Plant::MixOrder,
        Plant::BuryEarly,
        Plant::MiscountExpired,
        Plant::LeakSlot,
        Plant::RepeatIds,
        Plant::SkipGrace,
        Plant::LoseWakeup,
        Plant::ForgetAnchor,
        Plant::AnchorLate,
        Plant::BeginEarly,
        Plant::AnchorBlind,
        Plant::HoldQuiet,
    ];

    /// What it is called in `ACKRING_PLANT`.
    pub const fn name(self) -> &'static str {
        match self {
            Plant::ConfirmBeforeSync => "confirm-before-sync",
            Plant::SkipDirectorySync => "skip-directory-sync",
            Plant::RecycleEarly => "recycle-early",
            Plant::CountAttemptLate => "count-attempt-late",
            Plant::PublishHole => "publish-hole",
            Plant::AcceptStaleToken => "accept-stale-token",
            Plant::ForgetKey => "forget-key",
            Plant::LoseLeaseTimer => "lose-lease-timer",
            Plant::ForgetSession => "forget-session",
            Plant::ShortenWindow => "shorten-window",
            Plant::ReviveAcked => "revive-acked",
            Plant::TearStep => "tear-step",
            Plant::MixOrder => "mix-order",
            Plant::BuryEarly => "bury-early",
            Plant::MiscountExpired => "miscount-expired",
            Plant::LeakSlot => "leak-slot",
            Plant::RepeatIds => "repeat-ids",
            Plant::SkipGrace => "skip-grace",
            Plant::LoseWakeup => "lose-wakeup",
            Plant::ForgetAnchor => "forget-anchor",
            Plant::AnchorLate => "anchor-late",
            Plant::BeginEarly => "begin-early",
            Plant::AnchorBlind => "anchor-blind",
            Plant::HoldQuiet => "hold-quiet",
        }
    }
}

/// Whether the bug is active: never, in a build that ships.
#[cfg(not(planted))]
#[inline(always)]
pub const fn is_planted(_: Plant) -> bool {
    false
}

/// Whether `ACKRING_PLANT` names the bug.
///
/// # Panics
/// When it names one that does not exist.
#[cfg(planted)]
pub fn is_planted(plant: Plant) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<Plant>> = std::sync::OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| {
        let name = std::env::var("ACKRING_PLANT").ok()?;
        let known = Plant::ALL.into_iter().find(|plant| plant.name() == name);
        assert!(known.is_some(), "ACKRING_PLANT={name} is not a planted bug");
        known
    });
    *chosen == Some(plant)
}

/// Called where a writer stands in the middle of a record: it has its place in the log and has not published it.
/// A thread may lose its processor there, which a simulation on one thread does not: a build with planted bugs lets
/// the test do then what other threads would.
#[cfg(not(planted))]
#[inline(always)]
pub const fn in_mid_record() {}

#[cfg(planted)]
thread_local! {
    static MEANWHILE: std::cell::RefCell<Option<Box<dyn FnMut()>>> = const { std::cell::RefCell::new(None) };
}

/// As in a build that ships, but for calling what [`meanwhile`] was given.
#[cfg(planted)]
pub fn in_mid_record() {
    // Taken out, so that a record of its own does not call it again.
    let held = MEANWHILE.with(|slot| slot.borrow_mut().take());
    if let Some(mut act) = held {
        act();
        MEANWHILE.with(|slot| *slot.borrow_mut() = Some(act));
    }
}

/// What other threads do while this one stands in the middle of a record.
#[cfg(planted)]
pub fn meanwhile(act: Option<Box<dyn FnMut()>>) {
    MEANWHILE.with(|slot| *slot.borrow_mut() = act);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        let mut names = Plant::ALL.map(Plant::name);
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[cfg(not(planted))]
    #[test]
    fn an_ordinary_build_has_none() {
        assert!(Plant::ALL.into_iter().all(|plant| !is_planted(plant)));
    }
}
