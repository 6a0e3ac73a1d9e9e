//! The Debian package, made of the binary that is built here: what is in it, what Debian's own judge says, and what becomes of
//! a machine on which it is installed, upgraded, removed and purged.

use std::fs;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::{root, succeed};
use crate::programs::{Program, present, say};
use crate::support::scratch::Scratch;

/// A machine for the package: this one's files, on which nothing that is written stays. Its systemd only writes down what it
/// is told. Arguments: a folder, and the package in two versions. Leaves `DIRECTORY/told`.
const MACHINE: &str = r#"
set -eu
place=$1
mount -t tmpfs none "$place/machine"
cd "$place/machine"
mkdir upper work root
mount -t overlay overlay -o lowerdir=/,upperdir="$PWD/upper",workdir="$PWD/work" root
cp "$2" root/old.deb
cp "$3" root/new.deb
for name in deb-systemd-invoke systemctl; do
    printf '#!/bin/sh\necho "%s $*" >> /told\n' $name > root/usr/bin/$name
    chmod 755 root/usr/bin/$name
done
mkdir -p root/run/systemd/system
chroot root /bin/sh -eu <<'END'
export DEBIAN_FRONTEND=noninteractive
step() { echo "# $1" >> /told; shift; "$@"; }
step install dpkg --install /old.deb
underpass --version
underpass check /etc/underpass/underpass.toml
test ! -e /etc/systemd/system/multi-user.target.wants/underpass.service
echo '# by hand' >> /etc/underpass/underpass.toml
step upgrade dpkg --install /new.deb
tail -n 1 /etc/underpass/underpass.toml | grep -qx '# by hand'
step remove dpkg --remove underpass
test ! -e /usr/bin/underpass
test -e /etc/underpass/underpass.toml
step purge dpkg --purge underpass
test ! -e /etc/underpass
test -z "$(find /etc/systemd /var/lib/systemd /usr/lib/systemd /usr/share/doc /usr/share/man -name '*underpass*')"
END
cp root/told "$place/told"
"#;

/// Packs the binary that is built here; `options` are cargo-deb's.
async fn pack(into: &Path, options: &[&str]) -> PathBuf {
    let mut build = Command::new(root().join("packaging/deb/build"));
    // A folder of its own: the one that people use may hold a package for them.
    build.env("CARGO_TARGET_DIR", into).arg(env!("CARGO_BIN_EXE_underpass")).arg("--fast").args(options);
    let said = succeed(&mut build).await;
    said.lines().last().expect("where it lies").into()
}

/// `/usr/bin/underpass` and so on, each with its mode.
async fn files(package: &Path) -> Vec<(String, String)> {
    let listing = succeed(Command::new("dpkg-deb").arg("--contents").arg(package)).await;
    let file = |line: &str| {
        let mut words = line.split_whitespace();
        let (mode, path) = (words.next()?, words.nth(4)?);
        (!path.ends_with('/')).then(|| (path.trim_start_matches('.').to_owned(), mode.to_owned()))
    };
    listing.lines().filter_map(file).collect()
}

#[tokio::test]
async fn the_debian_package_holds_all_and_debian_finds_no_error_in_it() {
    if !present(&[Program::CargoDeb, Program::Lintian]) {
        return;
    }
    let scratch = Scratch::new("deb");
    let package = pack(&scratch.path("target"), &[]).await;
    let files = files(&package).await;
    let mode = |path: &str| files.iter().find(|(name, _)| name == path).map(|(_, mode)| mode.as_str());
    assert_eq!(mode("/usr/bin/underpass"), Some("-rwxr-xr-x"), "{files:#?}");
    let mut expected: Vec<String> = [
        "/etc/underpass/underpass.toml",
        "/usr/lib/systemd/system/underpass.service",
        "/usr/lib/systemd/system/underpass-http.socket",
        "/usr/share/bash-completion/completions/underpass",
        "/usr/share/zsh/vendor-completions/_underpass",
        "/usr/share/fish/vendor_completions.d/underpass.fish",
        "/usr/share/doc/underpass/copyright",
        "/usr/share/doc/underpass/THIRD-PARTY-NOTICES.md",
        "/usr/share/doc/underpass/examples/config.example.toml",
        "/usr/share/man/man1/underpass.1.gz",
    ]
    .map(str::to_owned)
    .into();
    let commands = ["run", "check", "probe", "demo", "status", "sessions", "kick", "log-level"];
    expected.extend(commands.map(|command| format!("/usr/share/man/man1/underpass-{command}.1.gz")));
    for path in expected {
        assert_eq!(mode(&path), Some("-rw-r--r--"), "{path}: {files:#?}");
    }
    let conffiles = succeed(Command::new("dpkg-deb").arg("--info").arg(&package).arg("conffiles")).await;
    assert_eq!(conffiles.trim(), "/etc/underpass/underpass.toml");
    succeed(Command::new("lintian").args(["--allow-root", "--fail-on", "error"]).arg(&package)).await;
}

#[tokio::test]
async fn a_machine_gets_the_package_upgrades_it_and_is_rid_of_it() {
    if !present(&[Program::CargoDeb]) {
        return;
    }
    let scratch = Scratch::new("machine");
    fs::create_dir(scratch.path("machine")).expect("a folder");
    let own = ["--mount", "--propagation", "private"];
    let mounts = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(own).args(["bash", "-c", script, "machine"]).arg(scratch.path("").as_os_str());
        command
    };
    let tried = mounts("mount -t tmpfs none \"$1/machine\"").output().await;
    if !tried.is_ok_and(|tried| tried.status.success()) {
        say("a_machine_gets_the_package_upgrades_it_and_is_rid_of_it: left out: it needs root's right to mount");
        return;
    }
    let old = pack(&scratch.path("old"), &["--deb-version", "0.0.1-1"]).await;
    let new = pack(&scratch.path("new"), &[]).await;
    succeed(mounts(MACHINE).args([old, new])).await;
    let told = fs::read_to_string(scratch.path("told")).expect("what systemd was told");
    // A service that nobody has configured is not started. An upgrade restarts one that runs, behind the new files, and never
    // stops it; the socket stays open all the while. When all goes, the socket goes first, or it would start the service again.
    let reload = "systemctl --system daemon-reload";
    let expected = [
        "# install",
        reload,
        "# upgrade",
        reload,
        "deb-systemd-invoke try-restart underpass.service",
        "# remove",
        "deb-systemd-invoke stop underpass-http.socket",
        "deb-systemd-invoke stop underpass.service",
        reload,
        "# purge",
    ];
    let mut lines: Vec<_> = told.lines().collect();
    // Each unit has its own.
    lines.dedup();
    if lines.last() == Some(&reload) {
        lines.pop();
    }
    assert_eq!(lines, expected);
}
