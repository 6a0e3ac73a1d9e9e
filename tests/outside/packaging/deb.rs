//! The Debian package, made of the binary that is built here: what is in it, what Debian's own judge says, and what becomes of
//! a machine on which it is installed, upgraded, removed and purged.

use std::fs;
use std::path::Path;

use tokio::process::Command;

use super::{root, succeed};
use crate::programs::{Program, present, say};
use crate::support::scratch::Scratch;

/// A machine for the package: this one's files, on which nothing that is written stays. Its systemd only writes down what it
/// is told. Arguments: a folder, and the package, which also stands for its successor. Leaves `told` in the folder.
const MACHINE: &str = r##"
set -eu
place=$1
mount -t tmpfs none "$place/machine"
cd "$place/machine"
mkdir upper work root
mount -t overlay overlay -o lowerdir=/,upperdir="$PWD/upper",workdir="$PWD/work" root
cp "$2" root/underpass.deb
for name in deb-systemd-invoke systemctl; do
    printf '#!/bin/sh\necho "%s $*" >> /told\n' $name > root/usr/bin/$name
    chmod 755 root/usr/bin/$name
done
mkdir -p root/run/systemd/system
chroot root /bin/sh -eu <<'END'
export DEBIAN_FRONTEND=noninteractive
step() { echo "# $1" >> /told; shift; "$@"; }
step install dpkg --install /underpass.deb
underpass --version
underpass check /etc/underpass/underpass.toml
test ! -e /etc/systemd/system/multi-user.target.wants/underpass.service
echo '# by hand' >> /etc/underpass/underpass.toml
step upgrade dpkg --install /underpass.deb
tail -n 1 /etc/underpass/underpass.toml | grep -qx '# by hand'
step remove dpkg --remove underpass
test ! -e /usr/bin/underpass
test -e /etc/underpass/underpass.toml
step purge dpkg --purge underpass
test ! -e /etc/underpass
test -z "$(find /etc/systemd /var/lib/systemd /usr/lib/systemd /usr/share/doc /usr/share/man -name '*underpass*')"
END
cp root/told "$place/told"
"##;

#[tokio::test]
async fn the_debian_package_holds_all_of_it_and_comes_and_goes_without_harm() {
    if !present(&[Program::CargoDeb, Program::Lintian]) {
        return;
    }
    let scratch = Scratch::new("deb");
    let mut build = Command::new(root().join("packaging/deb/build"));
    // A folder of its own: the one that people use may hold a package for them.
    build.env("CARGO_TARGET_DIR", scratch.path("target")).arg(env!("CARGO_BIN_EXE_underpass")).arg("--fast");
    let said = succeed(&mut build).await;
    let package = Path::new(said.lines().last().expect("where it lies"));
    holds_all(package).await;
    succeed(Command::new("lintian").args(["--allow-root", "--fail-on", "error"]).arg(package)).await;
    comes_and_goes(package, &scratch).await;
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

async fn holds_all(package: &Path) {
    let files = files(package).await;
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
    let conffiles = succeed(Command::new("dpkg-deb").arg("--info").arg(package).arg("conffiles")).await;
    assert_eq!(conffiles.trim(), "/etc/underpass/underpass.toml");
}

async fn comes_and_goes(package: &Path, scratch: &Scratch) {
    fs::create_dir(scratch.path("machine")).expect("a folder");
    let with_own_mounts = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "bash", "-c", script, "machine"]).arg(scratch.path(""));
        command
    };
    let tried = with_own_mounts("mount -t tmpfs none \"$1/machine\"").output().await;
    if !tried.is_ok_and(|tried| tried.status.success()) {
        say("the Debian package was not installed anywhere: that needs the right to mount");
        return;
    }
    succeed(with_own_mounts(MACHINE).arg(package)).await;
    let told = fs::read_to_string(scratch.path("told")).expect("what systemd was told");
    // A service that nobody has configured is not started. An upgrade restarts one that runs, behind the new files, and never
    // stops it; the socket stays open all the while. When all goes, the socket goes first, or it would start the service again.
    let expected = [
        "# install",
        "# upgrade",
        "deb-systemd-invoke try-restart underpass.service",
        "# remove",
        "deb-systemd-invoke stop underpass-http.socket",
        "deb-systemd-invoke stop underpass.service",
        "# purge",
    ];
    // Beside these it is asked to read its files again, and what it knows of the service.
    let orders = told.lines().filter(|line| line.starts_with("# ") || line.starts_with("deb-systemd-invoke"));
    assert_eq!(orders.collect::<Vec<_>>(), expected, "{told}");
}
