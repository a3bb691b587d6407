//! Every queue by name and by number.

use crate::base::code::{ErrorCode, Refusal};
use crate::base::limits::QUEUES_MAX;
use crate::base::queue::{QueueOptions, check_queue_name};
use crate::engine::moved::{Mark, Moved};
use crate::engine::queue::{Queue, QueueId};
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// Queues are never moved once made, so a number leads to its queue by two indexes and no lock; a chunk of the
/// table is made when its first queue is.
pub struct Registry {
    chunks: Box<[OnceLock<Chunk>]>,
    names: RwLock<Names>,
    moved: Arc<Moved>,
    /// Shared by those who log definitions that come into force; whoever copies records of definitions has it alone.
    definitions: RwLock<()>,
}

#[derive(Default)]
struct Names {
    by_name: BTreeMap<String, QueueId>,
    next: u32,
}

/// A part of the table.
type Chunk = Box<[OnceLock<Queue>]>;

const CHUNK: usize = 256;

impl Registry {
    /// No queues yet.
    pub fn new() -> Self {
        Self {
            chunks: (0..QUEUES_MAX.div_ceil(CHUNK)).map(|_| OnceLock::new()).collect(),
            names: RwLock::new(Names::default()),
            moved: Arc::default(),
            definitions: RwLock::new(()),
        }
    }

    /// Held from before a definition that comes into force is logged until its queue is marked as moved.
    pub fn redefine(&self) -> RwLockReadGuard<'_, ()> {
        self.definitions.read()
    }

    /// While this is held no other definition comes into force; `None` where one is just about to.
    pub fn keep_definitions(&self) -> Option<RwLockWriteGuard<'_, ()>> {
        self.definitions.try_write()
    }

    /// Whether the queue of that number has moved since it was [taken](Self::take_moved) last.
    #[inline]
    pub fn has_moved(&self, id: QueueId) -> bool {
        self.moved.has(id.0)
    }

    /// The queue of that number, deleted or not; `None` where there never was one.
    #[inline]
    pub fn get(&self, id: QueueId) -> Option<&Queue> {
        let index = id.0 as usize;
        self.chunks.get(index / CHUNK)?.get()?.get(index % CHUNK)?.get()
    }

    /// The queue of that number, unless it was deleted.
    pub fn live(&self, id: QueueId) -> Result<&Queue, Refusal> {
        self.get(id).filter(|queue| !queue.is_deleted()).ok_or_else(|| {
            Refusal::new(
                ErrorCode::QueueNotFound,
                "the queue was deleted or never opened; open it by name",
            )
        })
    }

    /// The queue of that name.
    pub fn find(&self, name: &str) -> Option<&Queue> {
        let id = *self.names.read().by_name.get(name)?;
        self.get(id).filter(|queue| !queue.is_deleted())
    }

    /// Makes a queue, or finds the one of that name. `define` runs once for a new queue, before anybody can see
    /// it, with the table locked; if it refuses, there is no queue.
    ///
    /// Returns the queue and whether it is new.
    pub fn open(
        &self,
        name: &str,
        options: QueueOptions,
        define: impl FnOnce(&Queue) -> Result<(), Refusal>,
    ) -> Result<(&Queue, bool), Refusal> {
        if let Some(queue) = self.find(name) {
            return Ok((queue, false));
        }
        check_queue_name(name).map_err(|error| Refusal::new(ErrorCode::InvalidArgument, error.0))?;
        options
            .check()
            .map_err(|error| Refusal::new(ErrorCode::InvalidArgument, error.0))?;
        let mut names = self.names.write();
        let known = names.by_name.get(name).and_then(|id| self.get(*id));
        if let Some(queue) = known.filter(|queue| !queue.is_deleted()) {
            return Ok((queue, false));
        }
        if names.next as usize >= QUEUES_MAX {
            let text =
                format!("{QUEUES_MAX} queues were made since the start; restart to forget deleted ones");
            return Err(Refusal::new(ErrorCode::LimitReached, text));
        }
        let queue = Queue::new(QueueId(names.next), name, options);
        define(&queue)?;
        names.next += 1;
        names.by_name.insert(name.to_owned(), queue.id);
        Ok((self.place(queue), true))
    }

    /// Puts a queue from the log back under its number.
    pub fn restore(&self, queue: Queue) -> &Queue {
        let mut names = self.names.write();
        names.next = names.next.max(queue.id.0 + 1);
        if !queue.is_deleted() {
            names.by_name.insert(queue.name.clone(), queue.id);
        }
        self.place(queue)
    }

    /// New queues get numbers from `next` on.
    pub fn number_from(&self, next: u32) {
        let mut names = self.names.write();
        names.next = names.next.max(next);
    }

    fn place(&self, mut queue: Queue) -> &Queue {
        let index = queue.id.0 as usize;
        queue.counters.mark = Mark::new(self.moved.clone(), queue.id.0);
        let chunk = self.chunks[index / CHUNK].get_or_init(|| (0..CHUNK).map(|_| OnceLock::new()).collect());
        let queue = chunk[index % CHUNK].get_or_init(|| queue);
        // Who takes the mark finds the queue.
        queue.counters.mark.set();
        queue
    }

    /// Takes a deleted queue's name away, so that the name can be used again.
    pub fn forget(&self, queue: &Queue) {
        let mut names = self.names.write();
        if names.by_name.get(&queue.name) == Some(&queue.id) {
            names.by_name.remove(&queue.name);
        }
    }

    /// Up to `limit` queues whose names come after `after`, by name.
    pub fn page(&self, after: &str, limit: usize) -> Vec<&Queue> {
        let names = self.names.read();
        let range = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
        names
            .by_name
            .range::<str, _>(range)
            .take(limit)
            .filter_map(|(_, id)| self.get(*id))
            .collect()
    }

    /// The queues that have moved since they were taken last, deleted ones among them, in the order of their numbers: in
    /// any way that their counters tell of, or in that they were made, restored, defined or deleted. A queue whose
    /// definition is in the log by now is taken, or was.
    pub fn take_moved(&self) -> impl Iterator<Item = &Queue> {
        // A definition is logged, and its queue put into its place and marked, under the lock.
        let end = self.names.read().next;
        let numbers = self.moved.take(end).into_iter();
        numbers.filter_map(|number| self.get(QueueId(number)))
    }

    /// Every queue that is not deleted, by name.
    pub fn all(&self) -> Vec<&Queue> {
        let names = self.names.read();
        names.by_name.values().filter_map(|id| self.get(*id)).collect()
    }
}
