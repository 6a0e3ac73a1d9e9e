//! How underpass comes onto a machine: a Debian package, an image, the browser client from npm. Enters: `packaging/`, the
//! binary that is built here. Leaves: what Debian's, npm's and the containers' own tools say of it. Must not touch: the
//! machine's packages; what is installed is installed in a root of its own.

mod deb;
mod image;
mod npm;

use std::path::{Path, PathBuf};

use tokio::process::Command;

/// Runs a command, which must succeed; what it printed.
async fn succeed(command: &mut Command) -> String {
    let output = command.current_dir(root()).kill_on_drop(true).output().await.expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}:\n{said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).into()
}
