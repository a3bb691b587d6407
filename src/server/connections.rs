//! The connections of one reactor, by number.

use super::conn::Connection;

/// A table with numbers that are used again.
#[derive(Debug)]
pub(super) struct Connections<S> {
    places: Vec<Option<Box<Connection<S>>>>,
    free: Vec<u32>,
}

impl<S> Default for Connections<S> {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<S> Connections<S> {
    /// Adds a connection that `make` makes with its number.
    pub(super) fn add(&mut self, make: impl FnOnce(u32) -> Connection<S>) -> u32 {
        let number = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            (self.places.len() - 1) as u32
        });
        self.places[number as usize] = Some(Box::new(make(number)));
        number
    }

    /// The connection of that number, if it is still there.
    #[inline]
    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut Connection<S>> {
        self.places.get_mut(number as usize)?.as_deref_mut()
    }

    /// Removes one; its number is used again.
    pub(super) fn remove(&mut self, number: u32) -> Option<Box<Connection<S>>> {
        let removed = self.places.get_mut(number as usize)?.take()?;
        self.free.push(number);
        Some(removed)
    }

    /// The numbers in use lie below this.
    pub(super) fn end(&self) -> u32 {
        self.places.len() as u32
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.places.len() == self.free.len()
    }
}
