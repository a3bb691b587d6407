//! The queues that a client has opened: names for ever, handles for one boot of the server.

use std::collections::HashMap;
use std::sync::Arc;

/// A queue, opened by [`Client::queue`](crate::client::Client::queue). Cheap to clone; good for as long as its
/// client, across reconnects and restarts of the server.
#[derive(Debug, Clone)]
pub struct QueueHandle {
    pub(crate) index: u32,
    pub(crate) name: Arc<str>,
    /// The session of the client that opened it.
    pub(crate) owner: u128,
}

impl QueueHandle {
    /// The queue's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// What a handle was never, and what is sent for a queue that could not be opened again.
const NO_HANDLE: u32 = u32::MAX;

#[derive(Debug, Default)]
pub(crate) struct Queues {
    entries: Vec<Entry>,
    by_name: HashMap<Arc<str>, u32>,
}

#[derive(Debug)]
struct Entry {
    name: Arc<str>,
    /// The server's handle in this boot; `None` until the queue is open.
    handle: Option<u32>,
}

/// A server's handles and the names of their queues, as one request used them.
pub(crate) type HandleNames = Vec<(u32, Arc<str>)>;

impl Queues {
    /// The place of that name, a new one if need be.
    pub(crate) fn index_of(&mut self, name: &str) -> (u32, Arc<str>) {
        if let Some((name, index)) = self.by_name.get_key_value(name) {
            return (*index, name.clone());
        }
        let index = self.entries.len() as u32;
        let name: Arc<str> = name.into();
        self.entries.push(Entry {
            name: name.clone(),
            handle: None,
        });
        self.by_name.insert(name.clone(), index);
        (index, name)
    }

    pub(crate) fn set(&mut self, index: u32, handle: Option<u32>) {
        if let Some(entry) = self.entries.get_mut(index as usize) {
            entry.handle = handle;
        }
    }

    /// The handles to send for these places.
    pub(crate) fn handles(&self, indexes: &[u32]) -> Vec<u32> {
        indexes.iter().map(|index| self.handle(*index)).collect()
    }

    pub(crate) fn handle(&self, index: u32) -> u32 {
        self.entries
            .get(index as usize)
            .and_then(|entry| entry.handle)
            .unwrap_or(NO_HANDLE)
    }

    /// The names behind the handles that are sent for these places.
    pub(crate) fn names(&self, indexes: &[u32]) -> HandleNames {
        let entries = indexes
            .iter()
            .filter_map(|index| self.entries.get(*index as usize));
        entries
            .map(|entry| (entry.handle.unwrap_or(NO_HANDLE), entry.name.clone()))
            .collect()
    }

    /// All queues that were open, with their places.
    pub(crate) fn open(&self) -> Vec<(u32, Arc<str>)> {
        let open = self
            .entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| entry.handle.is_some());
        open.map(|(index, entry)| (index as u32, entry.name.clone()))
            .collect()
    }
}
