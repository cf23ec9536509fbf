//! What control groups leave of the memory: a container's limit is not in `/proc/meminfo`.
//!
//! Both versions of the kernel's interface (`Documentation/admin-guide/cgroup-v2.rst`, `cgroup-v1/memory.rst`). A limit
//! holds for all groups below it, so every group from this process's own up to the root is looked at. Pages of files count
//! as used there, but are given up when room is needed.

use std::fs;
use std::path::{Path, PathBuf};

/// Files of one version.
struct Interface {
    /// Where groups are, below the root of the file system.
    groups: &'static str,
    limit: &'static str,
    usage: &'static str,
    /// Lines of `memory.stat` that count pages of files, of all groups below.
    file_pages: [&'static str; 2],
}

const UNIFIED: Interface = Interface {
    groups: "sys/fs/cgroup",
    limit: "memory.max",
    usage: "memory.current",
    file_pages: ["active_file", "inactive_file"],
};
const MEMORY_CONTROLLER: Interface = Interface {
    groups: "sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    file_pages: ["total_active_file", "total_inactive_file"],
};

/// Bytes that the tightest limit still leaves to this process; `None` without any. `root` is that of the file system.
pub(crate) fn room_bytes(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let room = |line: &str| {
        // hierarchy:controllers:path
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let interface = match controllers {
            "" => UNIFIED,
            _ if controllers.split(',').any(|controller| controller == "memory") => MEMORY_CONTROLLER,
            _ => return None,
        };
        interface.room_bytes(root, path)
    };
    groups.lines().filter_map(room).min()
}

impl Interface {
    fn room_bytes(&self, root: &Path, path: &str) -> Option<u64> {
        let top = root.join(self.groups);
        // A container may see its own group at the top, under the path that it has outside: those that are not there say
        // nothing, and the top does.
        let own: PathBuf = top.join(path.trim_start_matches('/'));
        own.ancestors()
            .take_while(|group| group.starts_with(&top))
            .filter_map(|group| self.room_in(group))
            .min()
    }

    fn room_in(&self, group: &Path) -> Option<u64> {
        let number = |file: &str| fs::read_to_string(group.join(file)).ok()?.trim().parse::<u64>().ok();
        // Without a limit it says `max`, or a number beyond any memory.
        let (limit, usage) = (number(self.limit)?, number(self.usage)?);
        let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
        let pages = |line: &str| {
            let (name, bytes) = line.split_once(' ')?;
            self.file_pages.contains(&name).then(|| bytes.trim().parse::<u64>().ok()).flatten()
        };
        let file_bytes: u64 = stat.lines().filter_map(pages).sum();
        Some(limit.saturating_sub(usage.saturating_sub(file_bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn the_tightest_limit_on_the_way_up_counts() {
        let root = tree(&[
            ("proc/self/cgroup", "0::/pod/box\n"),
            ("sys/fs/cgroup/pod/box/memory.max", "max\n"),
            ("sys/fs/cgroup/pod/box/memory.current", "500\n"),
            ("sys/fs/cgroup/pod/memory.max", "1000\n"),
            ("sys/fs/cgroup/pod/memory.current", "700\n"),
            ("sys/fs/cgroup/pod/memory.stat", "anon 400\nactive_file 100\ninactive_file 50\nslab 5\n"),
        ]);
        // 550 of the 1000 cannot be given up.
        assert_eq!(room_bytes(root.path()), Some(450));
    }

    #[test]
    fn a_container_sees_its_group_at_the_top() {
        let root = tree(&[
            ("proc/self/cgroup", "4:memory,hugetlb:/docker/abc\n1:cpu:/\n0::/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "1000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "1200\n"),
        ]);
        assert_eq!(room_bytes(root.path()), Some(0));
    }

    #[test]
    fn without_a_limit_there_is_no_figure() {
        assert_eq!(room_bytes(tree(&[]).path()), None);
        let root = tree(&[("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.stat", "anon 4\n")]);
        assert_eq!(room_bytes(root.path()), None);
        let root = tree(&[("proc/self/cgroup", "nonsense\n:\n::\n9:memory\n")]);
        assert_eq!(room_bytes(root.path()), None);
    }
}
