//! What the measured process has used, from `/proc`: CPU of all its threads, resident memory.
//!
//! Enters: process ids (a peer with children is all of them). Leaves: nanoseconds and bytes. Must not touch: the peer.

use std::fs;

use anyhow::{Context, Result};

/// The processes that are one peer.
#[derive(Clone, Debug)]
pub struct Peer(pub Vec<u32>);

impl Peer {
    /// CPU used so far by all threads, in nanoseconds. `schedstat` counts them one by one where `stat` has 10 ms steps.
    pub fn cpu(&self) -> Result<u64> {
        let mut sum = 0;
        for pid in &self.0 {
            for task in fs::read_dir(format!("/proc/{pid}/task")).context("the peer is gone")? {
                // A thread may end between the listing and the reading; what it used is lost, and none does here.
                let Ok(line) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
                sum += line.split_whitespace().next().context("schedstat is empty")?.parse::<u64>()?;
            }
        }
        Ok(sum)
    }

    /// Resident memory, in bytes.
    pub fn rss(&self) -> Result<u64> {
        let mut sum = 0;
        for pid in &self.0 {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the peer is gone")?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
            sum += line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024;
        }
        Ok(sum)
    }
}
