//! Load driver and backend of the benchmark: `load backend …` and `load drive …`; `benches/run` starts both.
//!
//! Enters: a command line. Leaves: one line of JSON with what was measured. Must not touch: how peers are started, what
//! is a good figure; that is `benches/run`'s.
//!
//! Driver and backend are two processes, since 9,500 sessions take 9,500 files in each.

mod backend;
mod clock;
mod conn;
mod modes;
mod options;
mod peer;
mod session;
mod stamp;
mod websocket;

use anyhow::{Result, bail};

use self::options::Options;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let Some(role) = arguments.next() else { bail!("say `backend` or `drive`") };
    let options = Options::parse(arguments)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match role.as_str() {
        "backend" => runtime.block_on(backend::serve(&options.address)),
        "drive" => {
            println!("{}", runtime.block_on(modes::run(options))?);
            Ok(())
        }
        other => bail!("`{other}` is neither `backend` nor `drive`"),
    }
}
