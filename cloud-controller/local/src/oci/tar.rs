//! Writes tar archives (POSIX ustar): files, directories and symbolic links of user 0, at time 0.

const BLOCK: usize = 512;
/// Longer paths are split into prefix and name at a slash.
const NAME: usize = 100;

/// An archive in the making.
#[derive(Debug, Clone, Default)]
pub struct Archive {
    bytes: Vec<u8>,
}

impl Archive {
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entry(path, mode, content.len(), b'0', "");
        self.bytes.extend_from_slice(content);
        self.fill();
    }

    pub fn directory(&mut self, path: &str, mode: u32) {
        self.entry(&format!("{}/", path.trim_end_matches('/')), mode, 0, b'5', "");
    }

    pub fn symlink(&mut self, path: &str, target: &str) {
        self.entry(path, 0o777, 0, b'2', target);
    }

    /// The archive, with the two empty blocks at its end.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 2 * BLOCK, 0);
        self.bytes
    }

    fn fill(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
    }

    fn entry(&mut self, path: &str, mode: u32, size: usize, kind: u8, target: &str) {
        let (prefix, name) = if path.len() <= NAME {
            ("", path)
        } else {
            let split = path.bytes().enumerate().position(|(at, byte)| byte == b'/' && path.len() - at - 1 <= NAME);
            split.map_or(("", path), |at| (&path[..at], &path[at + 1..]))
        };
        let mut header = [0_u8; BLOCK];
        let mut put = |at: usize, length: usize, text: &str| {
            let text = &text.as_bytes()[..text.len().min(length)];
            header[at..at + text.len()].copy_from_slice(text);
        };
        put(0, NAME, name);
        put(100, 8, &format!("{mode:07o}\0"));
        put(108, 8, "0000000\0");
        put(116, 8, "0000000\0");
        put(124, 12, &format!("{size:011o}\0"));
        put(136, 12, "00000000000\0");
        // The checksum is taken over a header with spaces in its place.
        put(148, 8, "        ");
        put(157, 100, target);
        put(257, 8, "ustar\x0000");
        put(345, 155, prefix);
        header[156] = kind;
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend_from_slice(&header);
    }
}
