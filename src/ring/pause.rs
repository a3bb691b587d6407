//! Points at which a test may stop a thread for as long as it likes, to show that nobody waits for it.
//!
//! In a build that is not a unit test each point is nothing at all.

/// Every place between two steps that other threads can see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    not(test),
    allow(dead_code, reason = "only unit tests look at the name of a point")
)]
pub(super) enum Point {
    /// A producer has proven the end of the ring and is about to publish.
    PushBeforePublish,
    /// A producer has published and has not corrected the tail yet.
    PushBeforeTail,
    /// A consumer has read its handles and is about to take them.
    PopBeforeTake,
    /// A consumer has taken its handles and has not given the crossed chunks back yet.
    PopBeforeGive,
    /// A closer has closed the last chunk and has not unhooked it yet.
    CloseBeforeUnhook,
    /// A thread is about to take chunks from the free queue.
    FreeBeforeTake,
    /// A thread is about to link chunks to the free queue.
    FreeBeforeLink,
    /// A thread has linked chunks to the free queue and has not moved its tail yet.
    FreeBeforeTail,
    /// A thread holds its shard of a pool.
    ShardHeld,
    /// A thread is about to swap the head of a stack.
    StackBeforeSwap,
}

#[cfg(test)]
impl Point {
    /// All of them.
    pub(super) const ALL: [Point; 10] = [
        Point::PushBeforePublish,
        Point::PushBeforeTail,
        Point::PopBeforeTake,
        Point::PopBeforeGive,
        Point::CloseBeforeUnhook,
        Point::FreeBeforeTake,
        Point::FreeBeforeLink,
        Point::FreeBeforeTail,
        Point::ShardHeld,
        Point::StackBeforeSwap,
    ];
}

/// A place where nothing happens, except in a test that wants to.
#[cfg(not(test))]
#[inline(always)]
pub(super) fn point(_: Point) {}

#[cfg(test)]
type Hook = Box<dyn FnMut(Point)>;

#[cfg(test)]
thread_local! {
    static HOOK: std::cell::RefCell<Option<Hook>> = const { std::cell::RefCell::new(None) };
}

/// Calls this thread's hook, if it has one.
#[cfg(test)]
pub(super) fn point(at: Point) {
    // Taken out for the call, so that a hook may itself use a ring.
    let hook = HOOK.with(|hook| hook.borrow_mut().take());
    if let Some(mut hook) = hook {
        hook(at);
        HOOK.with(|place| *place.borrow_mut() = Some(hook));
    }
}

/// Sets this thread's hook.
#[cfg(test)]
pub(super) fn on_this_thread(hook: impl FnMut(Point) + 'static) {
    HOOK.with(|place| *place.borrow_mut() = Some(Box::new(hook)));
}
