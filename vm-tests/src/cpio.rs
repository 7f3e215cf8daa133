//! Writes the archive a kernel unpacks into its first file system: cpio in the format "newc".
//!
//! Linux Documentation/driver-api/early-userspace/buffer-format.rst: a header of thirteen hexadecimal numbers, the name,
//! the content, each padded to four bytes.

use std::collections::BTreeSet;

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// An archive in memory.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    /// The kernel does not make the directories of a file.
    directories: BTreeSet<String>,
    entries: u32,
}

impl Archive {
    /// A directory and those above it.
    pub(crate) fn directory(&mut self, path: &str) {
        let path = path.trim_matches('/');
        if path.is_empty() || self.directories.contains(path) {
            return;
        }
        if let Some((above, _)) = path.rsplit_once('/') {
            self.directory(above);
        }
        self.directories.insert(path.to_owned());
        self.entry(path, DIRECTORY, (0, 0), &[]);
    }

    /// A file everybody may read and run.
    pub(crate) fn file(&mut self, path: &str, content: &[u8]) {
        self.above(path);
        self.entry(path, FILE, (0, 0), content);
    }

    /// A character device.
    pub(crate) fn character_device(&mut self, path: &str, number: (u32, u32)) {
        self.above(path);
        self.entry(path, CHARACTER_DEVICE, number, &[]);
    }

    /// The archive with its end.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn above(&mut self, path: &str) {
        if let Some((above, _)) = path.rsplit_once('/') {
            self.directory(above);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, (major, minor): (u32, u32), content: &[u8]) {
        let name = path.trim_start_matches('/');
        self.entries += 1;
        let numbers = [
            self.entries, // inode
            mode,
            0, // uid
            0, // gid
            if mode == DIRECTORY { 2 } else { 1 },
            0, // time of change
            content.len() as u32,
            0, // major and minor number of the device it is on
            0,
            major,
            minor,
            name.len() as u32 + 1,
            0, // checksum, unused
        ];
        self.bytes.extend(b"070701");
        for number in numbers {
            self.bytes.extend(format!("{number:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_stands_behind_its_directories_and_before_the_end() {
        let mut archive = Archive::default();
        archive.file("/a/b", b"hello");
        let bytes = archive.finish();
        let header = |name_len: u32, inode: u32, mode: u32, links: u32, len: u32| {
            let fields = [inode, mode, 0, 0, links, 0, len, 0, 0, 0, 0, name_len, 0];
            let fields: String = fields.iter().map(|field| format!("{field:08x}")).collect();
            format!("070701{fields}")
        };
        let wanted = [
            header(2, 1, DIRECTORY, 2, 0).as_str(),
            "a\0",
            &header(4, 2, FILE, 1, 5),
            "a/b\0\0\0hello\0\0\0",
            &header(11, 3, 0, 1, 0),
            "TRAILER!!!\0\0\0\0",
        ]
        .concat();
        assert_eq!(String::from_utf8(bytes).unwrap(), wanted);
    }
}
