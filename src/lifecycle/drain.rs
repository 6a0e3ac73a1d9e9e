//! How the process stops: from the signal until the last guard is dropped, within a deadline.
//!
//! Enters: signals, from the system or from a test. Leaves: the phases of the [`Lifecycle`], one after another, and a
//! log line about what had to be cut. Must not touch: listeners and sessions; they watch the phase and end themselves.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{self, SignalKind};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::{Alive, Lifecycle, Phase, systemd};
use crate::config::Drain;

/// How long after [`Phase::Closing`] guards may still be held. Long enough to send a last close frame, and much shorter than
/// any service manager waits.
pub const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// So long after somebody has asked for readiness, a balancer is expected to ask again.
const ASKED: Duration = Duration::from_secs(60);

/// How far apart clients are asked to leave, unless there are so many that `drain.spread` is shorter: a successor takes a
/// hundred in a second.
const APART: Duration = Duration::from_millis(10);

/// What an operator can send to the running process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT: drain and exit; the second one exits at once.
    Stop,
    /// SIGHUP: read the configuration and the certificates again.
    Reload,
    /// SIGUSR2: hand everything over to the process that the service manager starts next, and exit; where that cannot be, as
    /// `Stop`.
    Restart,
}

/// Receives the process's signals from now on. Must be called on a runtime.
///
/// # Errors
/// When the system does not install a handler.
pub fn signals() -> io::Result<mpsc::Receiver<Signal>> {
    let mut terminate = unix::signal(SignalKind::terminate())?;
    let mut interrupt = unix::signal(SignalKind::interrupt())?;
    let mut hangup = unix::signal(SignalKind::hangup())?;
    let mut user = unix::signal(SignalKind::user_defined2())?;
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        loop {
            let signal = tokio::select! {
                _ = terminate.recv() => Signal::Stop,
                _ = interrupt.recv() => Signal::Stop,
                _ = hangup.recv() => Signal::Reload,
                _ = user.recv() => Signal::Restart,
            };
            if sender.send(signal).await.is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// Takes the process through its phases: serves until [`Signal::Stop`] (or until the sender of `signals` is dropped), calls
/// `reload` at each [`Signal::Reload`] before that, then drains as `drain` says. Returns what was still alive at the end of
/// the wait; nothing after a clean drain. A second `Stop` returns at once.
///
/// At [`Signal::Restart`] it calls `restart`, which says whether everything was handed over. If so, this returns at once; what is
/// alive then is somebody else's. If not, it drains.
pub async fn run(
    lifecycle: &Lifecycle,
    drain: &Drain,
    mut signals: mpsc::Receiver<Signal>,
    mut reload: impl FnMut(),
    restart: impl AsyncFnOnce() -> bool,
) -> Alive {
    loop {
        match signals.recv().await {
            Some(Signal::Reload) => {
                systemd::reloading();
                reload();
                systemd::ready();
            }
            Some(Signal::Restart) if restart().await => return lifecycle.alive(),
            Some(Signal::Restart | Signal::Stop) | None => break,
        }
    }
    tokio::select! {
        biased;
        () = leave(lifecycle, drain) => {}
        () = second_stop(&mut signals) => tracing::warn!("second signal: stopping at once"),
    }
    lifecycle.advance(Phase::Closing);
    let left = lifecycle.alive();
    if left.is_empty() {
        tracing::info!("drained");
    } else {
        tracing::warn!(left = %left, "stopped with this still alive");
    }
    left
}

/// How long after the start of the drain the stream of `key` is asked to leave: less than `spread`. The same key always gets
/// the same time, and keys are spread evenly, so that clients do not all come back at once.
#[must_use]
pub fn leave_after(spread: Duration, key: u64) -> Duration {
    let share = u128::from(scramble(key));
    let nanos = (spread.as_nanos().min(u128::from(u64::MAX)) * share) >> 64;
    // Less than `spread`, which was limited to 64 bits above.
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Over how long so many clients are asked to leave: not longer than they need.
#[must_use]
pub fn spread_for(spread: Duration, clients: usize) -> Duration {
    spread.min(APART.saturating_mul(u32::try_from(clients).unwrap_or(u32::MAX)))
}

async fn leave(lifecycle: &Lifecycle, drain: &Drain) {
    // What is on its way to a successor can neither be ended here nor be left alone. It is decided soon.
    lifecycle.decided().await;
    let deadline = Instant::now() + drain.timeout;
    lifecycle.advance(Phase::Withdrawn);
    // Twice the close wait: the process also needs a moment to exit.
    systemd::stopping(drain.timeout + CLOSE_WAIT * 2);
    withdraw(lifecycle, deadline.min(Instant::now() + drain.pre)).await;
    lifecycle.advance(Phase::Draining);
    if timeout_at(deadline, lifecycle.emptied()).await.is_ok() {
        return;
    }
    tracing::warn!(left = %lifecycle.alive(), "drain timeout: ending what is left");
    lifecycle.advance(Phase::Closing);
    let _ = timeout(CLOSE_WAIT, lifecycle.emptied()).await;
}

/// Waits until balancers have noticed: where one asks for readiness all of the time, elsewhere as long as anybody is there.
async fn withdraw(lifecycle: &Lifecycle, until: Instant) {
    if lifecycle.readiness_asked().is_some_and(|asked| asked.elapsed() < ASKED) {
        return sleep_until(until).await;
    }
    let _ = timeout_at(until, lifecycle.emptied()).await;
}

/// When the sender is dropped no second signal can come, so this never returns then.
async fn second_stop(signals: &mut mpsc::Receiver<Signal>) {
    loop {
        match signals.recv().await {
            Some(Signal::Stop) => return,
            Some(signal) => tracing::info!(?signal, "ignored: stopping"),
            None => std::future::pending().await,
        }
    }
}

/// The finaliser of SplitMix64: it maps neighbouring keys far apart.
fn scramble(key: u64) -> u64 {
    let mut x = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use tokio::task::JoinHandle;

    use super::*;
    use crate::lifecycle::What;

    const DRAIN: Drain =
        Drain { timeout: Duration::from_secs(30), spread: Duration::from_secs(20), pre: Duration::from_secs(3) };

    struct Process {
        lifecycle: Lifecycle,
        signals: mpsc::Sender<Signal>,
        reloads: Arc<AtomicUsize>,
        /// Whether a restart hands over.
        hands_over: Arc<AtomicBool>,
        run: JoinHandle<Alive>,
        start: Instant,
    }

    fn process() -> Process {
        let lifecycle = Lifecycle::new();
        let (signals, receiver) = mpsc::channel(4);
        let reloads = Arc::new(AtomicUsize::new(0));
        let (inside, count) = (lifecycle.clone(), Arc::clone(&reloads));
        let reload = move || {
            count.fetch_add(1, Ordering::Relaxed);
        };
        let hands_over = Arc::new(AtomicBool::new(false));
        let answer = Arc::clone(&hands_over);
        let restart = async move || answer.load(Ordering::Relaxed);
        let run = tokio::spawn(async move { run(&inside, &DRAIN, receiver, reload, restart).await });
        Process { lifecycle, signals, reloads, hands_over, run, start: Instant::now() }
    }

    impl Process {
        async fn send(&self, signal: Signal) {
            self.signals.send(signal).await.expect("somebody waits for signals");
        }

        /// Seconds of virtual time until the phase is reached.
        async fn reaches(&self, phase: Phase) -> u64 {
            self.lifecycle.reached(phase).await;
            self.start.elapsed().as_secs()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn phases_come_at_their_times_and_the_rest_is_named() {
        let process = process();
        let _stuck = process.lifecycle.guard(What::Tunnel);
        process.send(Signal::Stop).await;
        assert_eq!(process.reaches(Phase::Withdrawn).await, 0);
        assert_eq!(process.reaches(Phase::Draining).await, 3);
        assert_eq!(process.reaches(Phase::Closing).await, 30);
        assert_eq!(process.run.await.expect("the task does not panic"), Alive { tunnels: 1, ..Alive::default() });
        assert_eq!(process.start.elapsed().as_secs(), 32);
    }

    #[tokio::test(start_paused = true)]
    async fn where_nothing_is_alive_and_nobody_asks_the_process_stops_at_once() {
        let process = process();
        process.send(Signal::Stop).await;
        assert!(process.run.await.expect("the task does not panic").is_empty());
        assert_eq!(process.start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_for_readiness_has_the_time_to_notice() {
        for (ago, expected) in [(0, 3), (59, 3), (61, 0)] {
            let mut process = process();
            process.lifecycle.note_readiness_asked();
            tokio::time::advance(Duration::from_secs(ago)).await;
            process.start = Instant::now();
            process.send(Signal::Stop).await;
            assert!(process.run.await.expect("the task does not panic").is_empty());
            assert_eq!(process.start.elapsed().as_secs(), expected, "asked {ago} s ago");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_client_ends_the_wait_for_balancers_that_nobody_has() {
        let process = process();
        let guard = process.lifecycle.guard(What::Connection);
        process.send(Signal::Stop).await;
        process.reaches(Phase::Withdrawn).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(process.lifecycle.phase(), Phase::Withdrawn);
        drop(guard);
        assert!(process.run.await.expect("the task does not panic").is_empty());
        assert_eq!(process.start.elapsed().as_secs(), 1);
    }

    #[test]
    fn few_clients_need_no_long_spread() {
        let spread = Duration::from_secs(20);
        for (clients, millis) in [(0, 0), (3, 30), (100, 1000), (2000, 20_000), (usize::MAX, 20_000)] {
            assert_eq!(spread_for(spread, clients), Duration::from_millis(millis), "{clients}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_guard_ends_the_wait() {
        let process = process();
        let guard = process.lifecycle.guard(What::Session);
        process.send(Signal::Stop).await;
        assert_eq!(process.reaches(Phase::Draining).await, 3);
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert_eq!(process.lifecycle.phase(), Phase::Draining);
        drop(guard);
        assert!(process.run.await.expect("the task does not panic").is_empty());
        assert_eq!(process.start.elapsed().as_secs(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_stop_is_final() {
        let process = process();
        let _guard = process.lifecycle.guard(What::Session);
        process.send(Signal::Stop).await;
        process.reaches(Phase::Withdrawn).await;
        process.send(Signal::Reload).await;
        process.send(Signal::Stop).await;
        assert_eq!(process.run.await.expect("the task does not panic"), Alive { sessions: 1, ..Alive::default() });
        assert_eq!(process.start.elapsed().as_secs(), 0);
        assert_eq!(process.lifecycle.phase(), Phase::Closing);
        assert_eq!(process.reloads.load(Ordering::Relaxed), 0, "a stopping process does not reload");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reload_is_called_and_serving_goes_on() {
        let process = process();
        process.send(Signal::Reload).await;
        process.send(Signal::Reload).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(process.reloads.load(Ordering::Relaxed), 2);
        assert_eq!(process.lifecycle.phase(), Phase::Serving);
        drop(process.signals);
        assert!(process.run.await.expect("the task does not panic").is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_restart_ends_at_once_what_was_handed_over() {
        let process = process();
        let _guard = process.lifecycle.guard(What::Tunnel);
        process.hands_over.store(true, Ordering::Relaxed);
        process.send(Signal::Restart).await;
        assert_eq!(process.run.await.expect("the task does not panic"), Alive { tunnels: 1, ..Alive::default() });
        assert_eq!((process.start.elapsed().as_secs(), process.lifecycle.phase()), (0, Phase::Serving));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_waits_until_a_hand_over_is_decided() {
        for succeeds in [true, false] {
            let process = process();
            let guard = process.lifecycle.guard(What::Session);
            let _parcels = process.lifecycle.begin_move();
            process.lifecycle.let_go();
            drop(guard);
            process.send(Signal::Stop).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(process.lifecycle.phase(), Phase::Serving, "what is on its way is nobody's yet");
            if succeeds {
                process.lifecycle.handed_over()
            } else {
                process.lifecycle.end_move()
            }
            assert!(process.run.await.expect("the task does not panic").is_empty());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_restart_that_hands_nothing_over_drains() {
        let process = process();
        let _guard = process.lifecycle.guard(What::Tunnel);
        process.send(Signal::Restart).await;
        assert_eq!(process.reaches(Phase::Draining).await, 3);
        process.send(Signal::Restart).await;
        assert_eq!(process.reaches(Phase::Closing).await, 30);
    }

    #[test]
    fn leaving_is_spread_evenly_and_repeatably() {
        let spread = Duration::from_secs(20);
        let mut tenths = [0usize; 10];
        for key in 0..10_000 {
            let at = leave_after(spread, key);
            assert!(at < spread);
            assert_eq!(at, leave_after(spread, key));
            tenths[at.as_secs() as usize / 2] += 1;
        }
        assert!(tenths.iter().all(|share| (850..1150).contains(share)), "{tenths:?}");
        assert_eq!(leave_after(Duration::ZERO, 7), Duration::ZERO);
        assert!(leave_after(Duration::MAX, 7) < Duration::MAX);
    }
}
