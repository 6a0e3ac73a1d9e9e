//! The report at the end.
//!
//! Enters: a trial that is over. Leaves: a text for people, and whether all is well. Must not touch: secrets; there are none
//! in it.

use std::fmt;
use std::sync::PoisonError;
use std::time::Duration;

use super::findings::{COLUMNS, Findings, span};
use super::trial::Trial;

/// The result. Its `Display` is the text for a terminal or a ticket.
pub struct Report {
    pub(super) trial: Trial,
    pub(super) server_name: String,
    pub(super) lasted: Duration,
    /// The self-test is off, and no target was given.
    pub(super) off: bool,
    pub(super) client: Option<String>,
}

impl Report {
    /// Whether the network lets everything through unchanged.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.trial.findings().iter().all(|findings| findings.works() && !findings.was_cut())
    }

    fn verdict(&self) -> String {
        let [native, sessions @ .., _post] = self.trial.findings();
        let names =
            |findings: &[&Findings]| findings.iter().map(|findings| findings.name).collect::<Vec<_>>().join(", ");
        let (good, bad): (Vec<&Findings>, Vec<&Findings>) = sessions.iter().partition(|findings| findings.works());
        let mut words = match (native.works(), good.as_slice()) {
            (true, _) if bad.is_empty() => "WebSockets get through. So does everything else.".to_owned(),
            (true, _) => format!("WebSockets get through. Not fit for use: {}.", names(&bad)),
            (false, []) => "Nothing gets through as it should.".to_owned(),
            (false, [first, ..]) => format!(
                "WebSockets do not get through. Fit for use: {}; the client takes {}.",
                names(&good),
                first.name
            ),
        };
        let cut: Vec<_> =
            self.trial.findings().into_iter().filter(|findings| findings.works() && findings.was_cut()).collect();
        if !cut.is_empty() {
            words += &format!(" Cut early: {}.", names(&cut));
        }
        words
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let trial = &self.trial;
        writeln!(f, "underpass probe {}, {}", env!("CARGO_PKG_VERSION"), span(self.lasted))?;
        let client = self.client.as_ref().map_or(String::new(), |client| format!(", client seen as {client}"));
        writeln!(f, "{}, {}{client}\n\n{}\n", trial.server.description(), self.server_name, self.verdict())?;
        if !trial.own {
            let why = if self.off { "the self-test is off there (`selftest = true` turns it on)" } else { "as asked" };
            writeln!(f, "Tested with the backend's own `{}`, {why}: only opening and", trial.target)?;
            writeln!(f, "the server's sign of life can be judged. --target names another WebSocket path.\n")?;
        }
        table(f, &trial.findings())?;
        let notes = trial.notes.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(f, "\nchanged on the way:")?;
        if notes.is_empty() {
            writeln!(f, "- nothing to be seen")?;
        }
        notes.iter().try_for_each(|note| writeln!(f, "- {note}"))
    }
}

/// The widest cell; longer texts are printed below the table.
const WIDEST: usize = 28;

fn table(f: &mut fmt::Formatter<'_>, findings: &[&Findings]) -> fmt::Result {
    let lines: Vec<(&str, [String; 5])> = findings.iter().map(|findings| (findings.name, findings.cells())).collect();
    let width = |at: usize| {
        let cells = lines.iter().map(|(_, cells)| short(&cells[at]).chars().count());
        cells.chain([COLUMNS[at].len()]).max().unwrap_or_default()
    };
    let widths: [usize; 5] = std::array::from_fn(width);
    line(f, "", &COLUMNS.map(str::to_owned), widths)?;
    lines.iter().try_for_each(|(name, cells)| line(f, name, cells, widths))?;
    let mut first = true;
    for (name, cells) in &lines {
        for (at, cell) in cells.iter().enumerate().filter(|(_, cell)| is_long(cell)) {
            writeln!(f, "{}{name}, {}: {cell}", if first { "\n" } else { "" }, COLUMNS[at])?;
            first = false;
        }
    }
    Ok(())
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, cells: &[String; 5], widths: [usize; 5]) -> fmt::Result {
    let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{:width$}", short(cell)));
    writeln!(f, "{name:10} {}", padded.collect::<Vec<_>>().join("  ").trim_end())
}

fn is_long(cell: &str) -> bool {
    cell.chars().count() > WIDEST
}

fn short(cell: &str) -> String {
    match cell.split_once(": ") {
        _ if !is_long(cell) => cell.to_owned(),
        Some((word, _)) => format!("{word}, see below"),
        None => "see below".to_owned(),
    }
}
