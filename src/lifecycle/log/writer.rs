//! What stands between those who log and standard error: a bounded queue, and the thread that writes.
//!
//! Enters: finished lines. Leaves: the same lines in their order on standard error, or, when it does not take them, a count
//! of those that were dropped, and a line about them where they are missing. Must not touch: what the lines say; nobody
//! who logs waits for the system here.
//!
//! Not `tracing-appender`: it bounds lines and not bytes, does not count what the system refuses, and at the end of a process
//! whose log is stuck it prints to standard output, which panics where that is closed.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Most bytes that wait to be written; as many again may be under way.
const MOST: usize = 1 << 20;
/// A buffer that became larger than this is not kept.
const KEPT: usize = 64 << 10;
/// How long to wait before a pipe that does not block is tried again.
const AGAIN: Duration = Duration::from_millis(10);

/// Lines that were not written since the process started.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Lines of the log that were not written since the process started, because standard error did not take them.
#[must_use]
pub fn lines_dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Lines that wait to be written.
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    /// The line that says how many are missing.
    gap: Box<dyn Fn(u64) -> String + Send + Sync>,
}

#[derive(Default)]
struct State {
    lines: Vec<u8>,
    /// Lines that came after those in `lines`, and were dropped. Once one is, so are all until the writer has come: then
    /// what is missing is missing in one place.
    dropped: u64,
    /// The writer is to look at the floods.
    called: bool,
    /// The writer has taken lines and not written them yet.
    writing: bool,
}

impl Queue {
    /// An empty queue.
    pub(super) fn new(gap: impl Fn(u64) -> String + Send + Sync + 'static) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), gap: Box::new(gap) }
    }

    /// Takes a line, which ends with a newline, or drops and counts it.
    pub(super) fn push(&self, line: &[u8]) {
        let mut state = self.state();
        if state.dropped > 0 || state.lines.len() + line.len() > MOST {
            state.dropped += 1;
            DROPPED.fetch_add(1, Ordering::Relaxed);
        } else {
            state.lines.extend_from_slice(line);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Wakes the writer, because a kind of line is held back now.
    pub(super) fn call(&self) {
        self.state().called = true;
        self.changed.notify_all();
    }

    /// Waits until everything is written, or for so long.
    pub(super) fn flush(&self, limit: Duration) {
        let is_left = |state: &mut State| state.writing || state.dropped > 0 || !state.lines.is_empty();
        // Whether the time has passed is all the same: the process ends.
        let _ = self.changed.wait_timeout_while(self.state(), limit, is_left);
    }

    /// Waits for lines, at most until `due`; then takes them, and how many were dropped behind them. `lines` is empty, and
    /// its room is used again.
    fn take(&self, lines: &mut Vec<u8>, due: Option<Instant>) -> u64 {
        let nothing = |state: &mut State| state.lines.is_empty() && state.dropped == 0 && !state.called;
        let mut state = self.state();
        state.writing = false;
        self.changed.notify_all();
        let mut state = match due {
            None => self.changed.wait_while(state, nothing).unwrap_or_else(PoisonError::into_inner),
            Some(due) => {
                let limit = due.saturating_duration_since(Instant::now());
                self.changed.wait_timeout_while(state, limit, nothing).unwrap_or_else(PoisonError::into_inner).0
            }
        };
        std::mem::swap(lines, &mut state.lines);
        state.called = false;
        state.writing = !lines.is_empty() || state.dropped > 0;
        std::mem::take(&mut state.dropped)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A line on its way into the queue. The subscriber writes each line at once.
impl Write for &Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Standard error, apart from the standard library's: its lock would be held while a write waits, and a panic would wait
/// for it.
pub(super) fn standard_error() -> Box<dyn Write + Send> {
    match io::stderr().as_fd().try_clone_to_owned() {
        Ok(owned) => Box::new(File::from(owned)),
        Err(_) => Box::new(io::stderr()),
    }
}

/// Starts the thread that writes, and calls `tell` at the times that `due` names. It lives as long as the process.
///
/// # Errors
/// When the system gives no thread.
pub(super) fn spawn(
    to: Box<dyn Write + Send>,
    queue: &Arc<Queue>,
    due: impl Fn() -> Option<Instant> + Send + 'static,
    tell: impl Fn(Instant) + Send + 'static,
) -> io::Result<()> {
    let queue = Arc::clone(queue);
    let work = move || {
        let mut writer = Writer { to, torn: false, untold: 0 };
        let mut lines = Vec::new();
        loop {
            let dropped = queue.take(&mut lines, due());
            writer.write(&lines, dropped, &queue.gap);
            lines.clear();
            lines.shrink_to(KEPT);
            tell(Instant::now());
        }
    };
    thread::Builder::new().name("underpass-log".into()).spawn(work).map(drop)
}

struct Writer {
    to: Box<dyn Write + Send>,
    /// The last line was written in part.
    torn: bool,
    /// Lines that are missing and that nobody was told of.
    untold: u64,
}

impl Writer {
    /// Writes lines, and in front of and behind them how many are missing there.
    fn write(&mut self, lines: &[u8], dropped: u64, gap: impl Fn(u64) -> String) {
        if self.untold > 0 && !lines.is_empty() {
            self.tell(&gap);
        }
        let lost = self.put(lines);
        DROPPED.fetch_add(lost, Ordering::Relaxed);
        self.untold += lost + dropped;
        // What has just failed is not tried again before there is something new to write.
        if self.untold > 0 && lost == 0 {
            self.tell(&gap);
        }
    }

    fn tell(&mut self, gap: impl Fn(u64) -> String) {
        if self.put(gap(self.untold).as_bytes()) == 0 {
            self.untold = 0;
        }
    }

    /// Writes lines. How many were not written, or not to their end.
    fn put(&mut self, lines: &[u8]) -> u64 {
        if self.torn && !lines.is_empty() {
            if self.put_bytes(b"\n") == 0 {
                return count(lines);
            }
            self.torn = false;
        }
        let written = self.put_bytes(lines);
        self.torn |= lines[..written].last().is_some_and(|last| *last != b'\n');
        count(&lines[written..])
    }

    /// How many bytes were taken.
    fn put_bytes(&mut self, bytes: &[u8]) -> usize {
        let mut written = 0;
        while written < bytes.len() {
            match self.to.write(&bytes[written..]) {
                Ok(0) => break,
                Ok(more) => written += more,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Someone who shares this descriptor has set it so. Only this thread waits.
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(AGAIN),
                Err(_) => break,
            }
        }
        written
    }
}

fn count(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Takes so many bytes, then fails until it is given more.
    struct Disk {
        room: Arc<Mutex<usize>>,
        written: Arc<Mutex<String>>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut room = self.room.lock().expect("nobody panics here");
            let fits = bytes.len().min(*room);
            if fits == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
            *room -= fits;
            let text = std::str::from_utf8(&bytes[..fits]).expect("ASCII");
            self.written.lock().expect("nobody panics here").push_str(text);
            Ok(fits)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gap(dropped: u64) -> String {
        format!("[{dropped}]\n")
    }

    #[test]
    fn what_a_full_disk_did_not_take_is_told_where_it_is_missing() {
        let (room, written) = (Arc::new(Mutex::new(6)), Arc::default());
        let disk = Disk { room: Arc::clone(&room), written: Arc::clone(&written) };
        let mut writer = Writer { to: Box::new(disk), torn: false, untold: 0 };
        let more = |bytes| *room.lock().expect("nobody panics here") = bytes;
        let text = || written.lock().expect("nobody panics here").clone();
        writer.write(b"one\ntwo\nthree\n", 0, gap);
        assert_eq!((text().as_str(), writer.untold), ("one\ntw", 2));
        writer.write(b"four\n", 3, gap);
        assert_eq!((text().as_str(), writer.untold), ("one\ntw", 6));
        more(1000);
        writer.write(b"five\n", 0, gap);
        assert_eq!(text(), "one\ntw\n[6]\nfive\n");
        writer.write(b"six\n", 1, gap);
        assert_eq!(text(), "one\ntw\n[6]\nfive\nsix\n[1]\n");
    }

    #[test]
    fn a_full_queue_drops_all_until_the_writer_comes_and_takes_no_more_than_its_bound() {
        let queue = Queue::new(gap);
        let line = [b"x".repeat(1023).as_slice(), b"\n"].concat();
        for _ in 0..MOST / line.len() + 7 {
            queue.push(&line);
        }
        queue.push(b"short\n");
        let mut lines = Vec::new();
        assert_eq!((queue.take(&mut lines, None), lines.len()), (8, MOST));
        queue.push(b"next\n");
        lines.clear();
        assert_eq!((queue.take(&mut lines, None), lines.as_slice()), (0, b"next\n".as_slice()));
    }

    #[test]
    fn a_writer_that_is_stuck_holds_nobody_up_and_the_end_waits_for_a_bounded_time() {
        struct Stuck(mpsc::Receiver<()>);
        impl Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let _ = self.0.recv();
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (free, stuck) = mpsc::channel();
        let queue = Arc::new(Queue::new(gap));
        spawn(Box::new(Stuck(stuck)), &queue, || None, drop).expect("a thread");
        queue.push(b"one\n");
        queue.push(b"two\n");
        queue.flush(Duration::from_millis(20));
        assert!(queue.state().writing);
        drop(free);
        queue.flush(Duration::from_secs(20));
        assert!(!queue.state().writing && queue.state().lines.is_empty());
    }
}
