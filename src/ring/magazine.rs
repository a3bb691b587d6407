//! stub
use parking_lot::Mutex;
/// stub
pub struct SlotPool {
    free: Mutex<(Vec<u32>, u32)>,
    slots: u32,
}
impl SlotPool {
    /// stub
    pub fn new(slots: u32) -> Self {
        Self {
            free: Mutex::new((Vec::new(), 0)),
            slots,
        }
    }
    /// stub
    pub fn take(&self, out: &mut [u32]) -> usize {
        let mut f = self.free.lock();
        for i in 0..out.len() {
            if let Some(s) = f.0.pop() {
                out[i] = s;
            } else if f.1 < self.slots {
                out[i] = f.1;
                f.1 += 1;
            } else {
                return i;
            }
        }
        out.len()
    }
    /// stub
    pub fn give(&self, slots: &[u32]) {
        self.free.lock().0.extend_from_slice(slots);
    }
    /// stub
    pub fn restore(slots: u32, is_used: impl Fn(u32) -> bool, fresh_from: u32) -> Self {
        Self {
            free: Mutex::new(((0..fresh_from).filter(|s| !is_used(*s)).collect(), fresh_from)),
            slots,
        }
    }
    /// stub
    pub fn fresh_from(&self) -> u32 {
        self.free.lock().1
    }
}
