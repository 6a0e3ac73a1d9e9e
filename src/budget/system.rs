//! How much memory the process may take, as the system says.
//!
//! Enters: the files of the kernel about control groups and physical memory. Leaves: a budget, and where it comes from.
//! Must not touch: anything that is written.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use super::MIB;

/// The least that is taken for a budget, in bytes: two of the largest messages that are allowed by default.
const LEAST: usize = 32 * MIB;
/// The budget where the system says nothing, in bytes; arbitrary.
const UNKNOWN: usize = 1024 * MIB;
/// Which part of what there is: the other half is for what is not counted, other processes, and the kernel's own buffers.
const PART: usize = 2;

/// Where a budget comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The operator's `memory`.
    Configured,
    /// Half of the limit of a control group, in this file.
    ControlGroup(PathBuf),
    /// Half of the machine's memory.
    Machine,
    /// The system did not say.
    Unknown,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configured => f.write_str("`memory`"),
            Self::ControlGroup(file) => write!(f, "half of the limit in {}", file.display()),
            Self::Machine => f.write_str("half of the machine's memory"),
            Self::Unknown => f.write_str("the system does not say how much there is"),
        }
    }
}

/// The budget in bytes, and where it comes from; `configured` wins.
#[must_use]
pub(super) fn budget(configured: Option<usize>) -> (usize, Source) {
    configured.map_or_else(|| of_system(Path::new("/")), |bytes| (bytes, Source::Configured))
}

/// Half of the lowest limit that holds, with the kernel's files under `root`.
fn of_system(root: &Path) -> (usize, Source) {
    let machine = physical(root).map(|bytes| (bytes, Source::Machine));
    let group = limits(root).into_iter().map(|(bytes, file)| (bytes, Source::ControlGroup(file)));
    match group.chain(machine).min_by_key(|(bytes, _)| *bytes) {
        Some((bytes, source)) => ((bytes / PART).max(LEAST), source),
        None => (UNKNOWN, Source::Unknown),
    }
}

/// The limits of the process's control group and of those around it, in both versions. A container often sees its own group
/// as the root, so that is looked at too.
fn limits(root: &Path) -> Vec<(usize, PathBuf)> {
    let own = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mut found = Vec::new();
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (mount, file) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        for group in Path::new(path.trim_start_matches('/')).ancestors() {
            let name = Path::new(mount).join(group).join(file);
            let limit = fs::read_to_string(root.join(&name)).ok().and_then(|text| text.trim().parse().ok());
            found.extend(limit.map(|limit: usize| (limit, Path::new("/").join(name))));
        }
    }
    found
}

/// `MemTotal:  1234 kB` of proc_meminfo(5), in bytes.
fn physical(root: &Path) -> Option<usize> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with these files, which is gone with the value.
    struct Root(PathBuf);

    impl Root {
        fn with(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("underpass-{}-{name}", std::process::id()));
            for (file, text) in files {
                let file = root.join(file);
                fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
                fs::write(file, text).expect("a file");
            }
            Self(root)
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const MEMORY: (&str, &str) = ("proc/meminfo", "MemTotal:        8388608 kB\nMemFree:  1 kB\n");

    fn budget_of(name: &str, files: &[(&str, &str)]) -> (usize, String) {
        let root = Root::with(name, files);
        let (bytes, source) = of_system(&root.0);
        (bytes / MIB, source.to_string())
    }

    #[test]
    fn the_lowest_limit_counts_whoever_sets_it() {
        let machine = (4096, "half of the machine's memory".to_owned());
        assert_eq!(budget_of("machine", &[MEMORY]), machine);
        let group = ("proc/self/cgroup", "0::/system.slice/underpass.service\n");
        let unlimited = ("sys/fs/cgroup/system.slice/underpass.service/memory.max", "max\n");
        assert_eq!(budget_of("max", &[MEMORY, group, unlimited]), machine);
        let slice = ("sys/fs/cgroup/system.slice/memory.max", "1073741824\n");
        let file = "half of the limit in /sys/fs/cgroup/system.slice/memory.max".to_owned();
        assert_eq!(budget_of("slice", &[MEMORY, group, unlimited, slice]), (512, file));
    }

    #[test]
    fn the_first_version_of_control_groups_and_a_container_that_sees_its_own_as_the_root_are_read() {
        let group = ("proc/self/cgroup", "12:cpu,cpuacct:/x\n4:memory:/docker/0123\n");
        let root = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "268435456\n");
        let other = ("sys/fs/cgroup/memory/docker/0123/memory.limit_in_bytes", "9223372036854771712\n");
        let file = "half of the limit in /sys/fs/cgroup/memory/memory.limit_in_bytes".to_owned();
        assert_eq!(budget_of("v1", &[MEMORY, group, root]), (128, file));
        assert_eq!(budget_of("v1-no-limit", &[MEMORY, group, other]).0, 4096, "the kernel's number for no limit");
    }

    #[test]
    fn a_tiny_limit_and_a_silent_system_still_give_a_budget() {
        let group = [("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "1048576\n")];
        assert_eq!(budget_of("tiny", &group).0, LEAST / MIB);
        assert_eq!(budget_of("silent", &[("x", "")]).0, UNKNOWN / MIB);
    }

    #[test]
    fn what_the_operator_says_counts() {
        assert_eq!(budget(Some(5)), (5, Source::Configured));
    }
}
