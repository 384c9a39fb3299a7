//! What was read, for a few seconds: bounded in time, number and bytes, zeroed when it goes. Takes the time as an
//! argument.

use std::collections::HashMap;

use strongroom_wire::resource::ResourcePath;
use zeroize::Zeroizing;

use super::answer::Value;

pub(super) struct Cache {
    seconds: u64,
    kept: HashMap<ResourcePath, Kept>,
    bytes: usize,
}

struct Kept {
    content: Zeroizing<Vec<u8>>,
    version: u64,
    read_at: u64,
}

impl Cache {
    pub(super) fn new(seconds: u64) -> Self {
        Self {
            seconds,
            kept: HashMap::new(),
            bytes: 0,
        }
    }

    /// What was read of this path not long ago.
    pub(super) fn fresh(&mut self, path: &ResourcePath, now: u64) -> Option<Value> {
        self.forget_old(now);
        let kept = self.kept.get(path)?;
        Some(Value {
            content: kept.content.clone(),
            version: kept.version,
        })
    }

    /// Keeps what was just read, if there is room for it.
    pub(super) fn keep(&mut self, path: &ResourcePath, value: &Value, now: u64) {
        self.forget(path);
        self.forget_old(now);
        let length = value.content.len();
        let room = self.kept.len() < MAX_KEPT && self.bytes.saturating_add(length) <= MAX_BYTES;
        if self.seconds == 0 || !room {
            return;
        }
        self.bytes = self.bytes.saturating_add(length);
        let kept = Kept {
            content: value.content.clone(),
            version: value.version,
            read_at: now,
        };
        self.kept.insert(path.clone(), kept);
    }

    /// Forgets a path, which is not there any more.
    pub(super) fn forget(&mut self, path: &ResourcePath) {
        if let Some(kept) = self.kept.remove(path) {
            self.bytes = self.bytes.saturating_sub(kept.content.len());
        }
    }

    /// What was read after now was read before the clock was set back.
    fn forget_old(&mut self, now: u64) {
        let seconds = self.seconds;
        let is_fresh = |kept: &Kept| {
            now.checked_sub(kept.read_at)
                .is_some_and(|age| age < seconds)
        };
        self.kept.retain(|_, kept| is_fresh(kept));
        self.bytes = self.kept.values().map(|kept| kept.content.len()).sum();
    }
}

const MAX_KEPT: usize = 256;
const MAX_BYTES: usize = 8 * 1024 * 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn path(i: usize) -> ResourcePath {
        format!("a/b/{i}").parse().unwrap()
    }

    fn value(length: usize) -> Value {
        Value {
            content: Zeroizing::new(vec![1; length]),
            version: 3,
        }
    }

    #[test]
    fn old_value_is_given_out_after_its_time_or_when_the_clock_went_back() {
        let mut cache = Cache::new(5);
        cache.keep(&path(0), &value(1), 100);
        assert_eq!(cache.fresh(&path(0), 104).unwrap().version, 3);
        assert!(cache.fresh(&path(0), 105).is_none());
        cache.keep(&path(0), &value(1), 100);
        assert!(cache.fresh(&path(0), 99).is_none());
        assert!(cache.fresh(&path(0), 100).is_none());
    }

    #[test]
    fn cache_that_is_off_keeps_something() {
        let mut cache = Cache::new(0);
        cache.keep(&path(0), &value(1), 100);
        assert!(cache.fresh(&path(0), 100).is_none());
    }

    #[test]
    fn cache_grows_without_end() {
        let mut cache = Cache::new(5);
        for i in 0..1_000 {
            cache.keep(&path(i), &value(1), 100);
        }
        assert_eq!((cache.kept.len(), cache.bytes), (MAX_KEPT, MAX_KEPT));
        let mut cache = Cache::new(5);
        for i in 0..20 {
            cache.keep(&path(i), &value(1024 * 1024), 100);
            cache.keep(&path(i), &value(1024 * 1024), 100);
        }
        assert_eq!(cache.bytes, MAX_BYTES);
        cache.keep(&path(99), &value(1), 200);
        assert_eq!((cache.kept.len(), cache.bytes), (1, 1));
    }
}
