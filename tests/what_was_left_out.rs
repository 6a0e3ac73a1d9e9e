//! The last word of a test run: which programs that nobody here wrote were missing, so that nobody takes a part of the tests
//! for the whole. `tests/run` installs them all and lets nothing be left out.

#[expect(missing_docs, reason = "what tests say to each other")]
#[path = "outside/programs.rs"]
pub mod programs;

use programs::{Program, full, say};

#[test]
fn what_was_left_out() {
    let lacking = |program: &Program| Some(format!("{program:?} ({})", program.missing()?));
    let missing: Vec<String> = Program::ALL.iter().filter_map(lacking).collect();
    if missing.is_empty() {
        say("nothing was left out: every outside program that the tests need is here");
        return;
    }
    let summary = format!("TESTS WERE LEFT OUT for want of {}; tests/run installs these", missing.join(", "));
    assert!(!full(), "{summary}");
    say(&summary);
}
