//! The hot paths, each alone, for `benches/instructions` to count under valgrind.
//!
//! Enters: the name of a path, or nothing. Leaves: the path's work done [`TIMES`] times inside [`measured`], which is
//! what valgrind collects; or the list of names. Must not touch: clocks and sockets, so that each count repeats.

mod paths;

use std::process::ExitCode;

/// How often the work of a path is done.
const TIMES: usize = 1000;

/// Everything that happens in here is counted; the script tells valgrind this name.
#[inline(never)]
fn measured(work: &mut dyn FnMut()) {
    for _ in 0..TIMES {
        work();
    }
}

fn main() -> ExitCode {
    // `cargo bench` adds arguments of its own, which begin with a dash.
    let Some(name) = std::env::args().skip(1).find(|argument| !argument.starts_with('-')) else {
        paths::ALL.iter().for_each(|(name, _)| println!("{name}"));
        return ExitCode::SUCCESS;
    };
    let Some((_, path)) = paths::ALL.iter().find(|(known, _)| *known == name) else {
        eprintln!("there is no path `{name}`");
        return ExitCode::FAILURE;
    };
    let mut work = path();
    // Once before, for what is only made at the first time.
    work();
    measured(&mut *work);
    ExitCode::SUCCESS
}
