//! Name/value blocks: compressed with one zlib stream for each direction of a connection, with a preset dictionary.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// A block larger than this, once expanded, is an attack: real ones have three short headers.
const MAX_BLOCK_BYTES: usize = 64 * 1024;

/// Why a block could not be read. The connection cannot go on: both ends' zlib states have parted.
#[derive(Debug, thiserror::Error)]
pub enum HeaderBlockError {
    /// zlib says no.
    #[error("the header block does not decompress")]
    Zlib(#[source] flate2::DecompressError),
    /// Longer than any honest one.
    #[error("the header block expands to more than {MAX_BLOCK_BYTES} bytes")]
    TooLong,
    /// Lengths do not add up, or a name or value is not text.
    #[error("the header block is malformed")]
    Malformed,
}

/// Headers of a stream. Names are lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// From pairs; names are made lower case.
    pub fn new<N: AsRef<str>, V: Into<String>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        Self(pairs.into_iter().map(|(n, v)| (n.as_ref().to_ascii_lowercase(), v.into())).collect())
    }

    /// The first value of `name`, whatever its case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.split('\0').next().unwrap_or(v.as_str()))
    }

    fn to_block(&self) -> Vec<u8> {
        let mut block = Vec::new();
        let mut put = |text: &str| {
            block.extend_from_slice(&u32::try_from(text.len()).unwrap_or(0).to_be_bytes());
            block.extend_from_slice(text.as_bytes());
        };
        for (name, value) in &self.0 {
            put(name);
            put(value);
        }
        let mut whole = u32::try_from(self.0.len()).unwrap_or(0).to_be_bytes().to_vec();
        whole.append(&mut block);
        whole
    }

    fn from_block(mut block: &[u8]) -> Result<Self, HeaderBlockError> {
        fn number(block: &mut &[u8]) -> Option<usize> {
            let (head, rest) = block.split_first_chunk::<4>()?;
            *block = rest;
            usize::try_from(u32::from_be_bytes(*head)).ok()
        }
        fn text(block: &mut &[u8]) -> Option<String> {
            let length = number(block)?;
            let (head, rest) = block.split_at_checked(length)?;
            *block = rest;
            String::from_utf8(head.to_vec()).ok()
        }
        let count = number(&mut block).ok_or(HeaderBlockError::Malformed)?;
        let mut pairs = Vec::new();
        for _ in 0..count {
            let name = text(&mut block).ok_or(HeaderBlockError::Malformed)?;
            let value = text(&mut block).ok_or(HeaderBlockError::Malformed)?;
            pairs.push((name.to_ascii_lowercase(), value));
        }
        Ok(Self(pairs))
    }
}

/// The sending end's zlib stream.
pub(crate) struct Deflate(Compress);

impl Deflate {
    pub(crate) fn new() -> Self {
        let mut zlib = Compress::new(Compression::default(), true);
        // Cannot fail on a fresh stream; without it the peer fails on the first block, loudly.
        let _ = zlib.set_dictionary(&dictionary());
        Self(zlib)
    }

    pub(crate) fn block(&mut self, headers: &Headers) -> Vec<u8> {
        let plain = headers.to_block();
        let start = self.0.total_in();
        let mut out = Vec::with_capacity(plain.len() + 64);
        loop {
            let used = usize::try_from(self.0.total_in() - start).unwrap_or(plain.len());
            if self.0.compress_vec(&plain[used..], &mut out, FlushCompress::Sync).is_err() || out.len() < out.capacity()
            {
                return out;
            }
            out.reserve(256);
        }
    }
}

/// The receiving end's zlib stream.
pub(crate) struct Inflate(Decompress);

impl Inflate {
    pub(crate) fn new() -> Self {
        Self(Decompress::new(true))
    }

    pub(crate) fn headers(&mut self, compressed: &[u8]) -> Result<Headers, HeaderBlockError> {
        let start = self.0.total_in();
        let mut out = Vec::with_capacity(1024);
        loop {
            let used = usize::try_from(self.0.total_in() - start).unwrap_or(compressed.len());
            match self.0.decompress_vec(&compressed[used..], &mut out, FlushDecompress::Sync) {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(&dictionary()).map_err(HeaderBlockError::Zlib)?;
                }
                Err(error) => return Err(HeaderBlockError::Zlib(error)),
                Ok(Status::StreamEnd) => return Headers::from_block(&out),
                Ok(Status::Ok | Status::BufError) if out.len() < out.capacity() => return Headers::from_block(&out),
                Ok(Status::Ok | Status::BufError) => {}
            }
            if out.len() > MAX_BLOCK_BYTES {
                return Err(HeaderBlockError::TooLong);
            }
            out.reserve(1024);
        }
    }
}

/// The dictionary of SPDY/3 (draft 3.1, section 2.6.10.1): words with their lengths, then a tail of common values.
fn dictionary() -> Vec<u8> {
    const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
        accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
        content-length content-location content-md5 content-range content-type date etag expect expires from host \
        if-match if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
        proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
        user-agent vary via warning www-authenticate method get status";
    const MORE: [&str; 8] = ["200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie", "keep-alive", "origin"];
    const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
        203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized\
        403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable\
        Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT\
        chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,\
        publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";
    let mut bytes = Vec::with_capacity(1423);
    for word in WORDS.split_whitespace().chain(MORE) {
        bytes.extend_from_slice(&u32::try_from(word.len()).unwrap_or(0).to_be_bytes());
        bytes.extend_from_slice(word.as_bytes());
    }
    bytes.extend_from_slice(TAIL.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_one_of_the_specification() {
        // zlib names a dictionary by its Adler-32; SPDY/3's is 0xe3c6a7c2.
        let (mut a, mut b) = (1u32, 0u32);
        for byte in dictionary() {
            a = (a + u32::from(byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!((b << 16) | a, 0xe3c6_a7c2);
    }

    #[test]
    fn blocks_survive_one_shared_zlib_stream() {
        let (mut deflate, mut inflate) = (Deflate::new(), Inflate::new());
        for n in 0..50 {
            let headers = Headers::new([("streamType", "data".to_owned()), ("requestID", n.to_string())]);
            let block = deflate.block(&headers);
            let back = inflate.headers(&block).unwrap();
            assert_eq!(back, headers);
            assert_eq!(back.get("streamtype"), Some("data"));
        }
        let long = Headers::new([("x", "y".repeat(20_000))]);
        assert_eq!(inflate.headers(&deflate.block(&long)).unwrap(), long);
        assert_eq!(inflate.headers(&deflate.block(&Headers::default())).unwrap(), Headers::default());
    }

    #[test]
    fn a_block_that_expands_without_end_is_refused() {
        let (mut deflate, mut inflate) = (Deflate::new(), Inflate::new());
        let bomb = deflate.block(&Headers::new([("x", "y".repeat(1 << 20))]));
        assert!(matches!(inflate.headers(&bomb), Err(HeaderBlockError::TooLong)));
        assert!(matches!(Inflate::new().headers(b"\xff\xff"), Err(HeaderBlockError::Zlib(_))));
        assert!(matches!(Headers::from_block(&[0, 0, 0, 1, 0, 0, 0, 9]), Err(HeaderBlockError::Malformed)));
    }
}
