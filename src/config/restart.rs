//! What a reload cannot change.
//!
//! Enters: two configurations. Leaves: names of keys, for people. Must not touch: the running process.

use std::time::Duration;

use super::Config;

impl Config {
    /// What was changed and cannot take effect while the process runs.
    #[must_use]
    pub fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        let old = self;
        let changed = [
            ("node", old.node != new.node),
            ("workers", old.workers != new.workers),
            ("memory", old.memory != new.memory),
            ("listener", old.listeners != new.listeners),
            ("client_subject_field or client_fingerprint_field", old.identity != new.identity),
            ("admin", old.admin != new.admin),
            ("[client]", old.client != new.client),
            ("log.format or log.level", (old.log.format, &old.log.level) != (new.log.format, &new.log.level)),
            ("[drain]", old.drain != new.drain),
            ("[handover]", old.handover != new.handover),
            ("session.max, session.ended or session.ended_max", memory(old) != memory(new)),
        ];
        changed.into_iter().filter_map(|(what, changed)| changed.then_some(what)).collect()
    }
}

fn memory(config: &Config) -> (usize, Duration, usize) {
    (config.session.max, config.session.ended, config.session.ended_max)
}
