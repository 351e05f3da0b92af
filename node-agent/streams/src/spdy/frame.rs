//! Frames on the wire (SPDY draft 3.1, section 2.2).

use super::headers::{Deflate, HeaderBlockError, Headers};

pub(crate) const HEAD_BYTES: usize = 8;
/// Control frames are a few hundred bytes; what is far longer is no honest frame.
pub(crate) const MAX_CONTROL_BYTES: usize = 64 * 1024;
/// A data frame carries at most so much, so that streams take turns.
pub(crate) const MAX_DATA_BYTES: usize = 32 * 1024;

const VERSION: u16 = 3;
pub(crate) const FLAG_FIN: u8 = 1;

/// `RST_STREAM` status codes that we send.
pub(crate) const RST_PROTOCOL_ERROR: u32 = 1;
pub(crate) const RST_REFUSED: u32 = 3;
pub(crate) const RST_CANCEL: u32 = 5;

/// Why a connection's bytes make no sense.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The connection failed.
    #[error("the connection failed")]
    Io(#[from] std::io::Error),
    /// Another version of SPDY.
    #[error("a control frame of SPDY version {0}")]
    Version(u16),
    /// Longer than any honest one.
    #[error("a control frame of {0} bytes")]
    TooLong(usize),
    /// Shorter than its type asks for.
    #[error("a control frame of type {0} is too short")]
    Short(u16),
    /// Headers cannot be read.
    #[error("headers cannot be read")]
    Headers(#[from] HeaderBlockError),
}

/// The first eight bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Head {
    Control { kind: u16, flags: u8, length: usize },
    Data { stream: u32, flags: u8, length: usize },
}

impl Head {
    pub(crate) fn parse(bytes: [u8; HEAD_BYTES]) -> Result<Self, FrameError> {
        let [a, b, c, d, flags, l1, l2, l3] = bytes;
        let length = usize::from(l1) << 16 | usize::from(l2) << 8 | usize::from(l3);
        if a & 0x80 == 0 {
            return Ok(Self::Data { stream: u32::from_be_bytes([a, b, c, d]), flags, length });
        }
        let version = u16::from_be_bytes([a & 0x7f, b]);
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        if length > MAX_CONTROL_BYTES {
            return Err(FrameError::TooLong(length));
        }
        Ok(Self::Control { kind: u16::from_be_bytes([c, d]), flags, length })
    }
}

pub(crate) const SYN_STREAM: u16 = 1;
pub(crate) const SYN_REPLY: u16 = 2;
pub(crate) const RST_STREAM: u16 = 3;
pub(crate) const PING: u16 = 6;
pub(crate) const GOAWAY: u16 = 7;
pub(crate) const HEADERS: u16 = 8;

/// A 31-bit number at `at`.
pub(crate) fn number(body: &[u8], at: usize, kind: u16) -> Result<u32, FrameError> {
    let bytes = body.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok()).ok_or(FrameError::Short(kind))?;
    Ok(u32::from_be_bytes(bytes) & 0x7fff_ffff)
}

/// What this end sends.
#[derive(Debug)]
pub(crate) enum Out {
    Syn {
        stream: u32,
        headers: Headers,
    },
    Reply {
        stream: u32,
    },
    Reset {
        stream: u32,
        status: u32,
    },
    Ping(u32),
    Data {
        stream: u32,
        bytes: Vec<u8>,
        fin: bool,
    },
    /// The last: GOAWAY, then the transport is shut down.
    Close {
        last: u32,
    },
}

impl Out {
    pub(crate) fn encode(&self, deflate: &mut Deflate, out: &mut Vec<u8>) {
        match self {
            Self::Syn { stream, headers } => {
                let block = deflate.block(headers);
                control(out, SYN_STREAM, 10 + block.len());
                out.extend_from_slice(&stream.to_be_bytes());
                // No associated stream, highest priority, no credential slot.
                out.extend_from_slice(&[0; 6]);
                out.extend_from_slice(&block);
            }
            Self::Reply { stream } => {
                let block = deflate.block(&Headers::default());
                control(out, SYN_REPLY, 4 + block.len());
                out.extend_from_slice(&stream.to_be_bytes());
                out.extend_from_slice(&block);
            }
            Self::Reset { stream, status } => {
                control(out, RST_STREAM, 8);
                out.extend_from_slice(&stream.to_be_bytes());
                out.extend_from_slice(&status.to_be_bytes());
            }
            Self::Ping(id) => {
                control(out, PING, 4);
                out.extend_from_slice(&id.to_be_bytes());
            }
            Self::Data { stream, bytes, fin } => {
                out.extend_from_slice(&stream.to_be_bytes());
                out.push(if *fin { FLAG_FIN } else { 0 });
                length(out, bytes.len());
                out.extend_from_slice(bytes);
            }
            Self::Close { last } => {
                control(out, GOAWAY, 8);
                out.extend_from_slice(&last.to_be_bytes());
                out.extend_from_slice(&[0; 4]);
            }
        }
    }
}

fn control(out: &mut Vec<u8>, kind: u16, bytes: usize) {
    out.extend_from_slice(&(0x8000 | VERSION).to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.push(0);
    length(out, bytes);
}

fn length(out: &mut Vec<u8>, bytes: usize) {
    let [.., l1, l2, l3] = u32::try_from(bytes).unwrap_or(0).to_be_bytes();
    out.extend_from_slice(&[l1, l2, l3]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_laid_out_as_the_draft_says() {
        let mut out = Vec::new();
        let mut deflate = Deflate::new();
        Out::Data { stream: 5, bytes: b"ab".to_vec(), fin: true }.encode(&mut deflate, &mut out);
        assert_eq!(out, [0, 0, 0, 5, 1, 0, 0, 2, b'a', b'b']);
        out.clear();
        Out::Reset { stream: 3, status: RST_CANCEL }.encode(&mut deflate, &mut out);
        assert_eq!(out, [0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 3, 0, 0, 0, 5]);
        out.clear();
        Out::Ping(1).encode(&mut deflate, &mut out);
        assert_eq!(out, [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]);
    }

    #[test]
    fn frames_of_other_versions_and_giants_are_refused() {
        assert!(matches!(Head::parse([0x80, 2, 0, 1, 0, 0, 0, 4]), Err(FrameError::Version(2))));
        assert!(matches!(Head::parse([0x80, 3, 0, 1, 0, 0xff, 0, 0]), Err(FrameError::TooLong(_))));
        let data = Head::parse([0, 0, 0, 7, 1, 0, 1, 0]).unwrap();
        assert_eq!(data, Head::Data { stream: 7, flags: 1, length: 256 });
    }
}
