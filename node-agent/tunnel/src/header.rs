//! The first line of a stream: what it is for.

use std::fmt;
use std::str::FromStr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A line longer than this is no header of ours. Long enough for `dial` with the longest DNS name and a refusal's reason.
pub const MAX_HEADER_BYTES: usize = 1024;

/// What a stream is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Header {
    /// agent -> server: HTTP to the cluster's API as `system:node:NAME`.
    Api,
    /// agent -> server: a pod's raw TCP connection to the `kubernetes` Service.
    Kubernetes,
    /// server -> agent: HTTP/1.1 to the kubelet handler.
    Kubelet,
    /// server -> agent: raw TCP from the node to this address. Answered with a line, `ok` or `error: why`.
    Dial {
        /// Host name or address, IPv6 without brackets.
        host: String,
        /// TCP port.
        port: u16,
    },
}

impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Api => f.write_str("api"),
            Self::Kubernetes => f.write_str("kubernetes"),
            Self::Kubelet => f.write_str("kubelet"),
            Self::Dial { host, port } if host.contains(':') => write!(f, "dial [{host}]:{port}"),
            Self::Dial { host, port } => write!(f, "dial {host}:{port}"),
        }
    }
}

/// Why a header line could not be read.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// The stream ended or failed before the line did.
    #[error("the stream ended before its header line did")]
    Io(#[source] std::io::Error),
    /// No line end within [`MAX_HEADER_BYTES`].
    #[error("the header line is longer than {MAX_HEADER_BYTES} bytes")]
    TooLong,
    /// Not UTF-8.
    #[error("the header line is not UTF-8")]
    NotText,
    /// A purpose this end does not know.
    #[error("unknown stream header {0:?}")]
    Unknown(String),
}

impl FromStr for Header {
    type Err = HeaderError;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        let unknown = || HeaderError::Unknown(line.to_owned());
        match line {
            "api" => Ok(Self::Api),
            "kubernetes" => Ok(Self::Kubernetes),
            "kubelet" => Ok(Self::Kubelet),
            other => {
                let target = other.strip_prefix("dial ").ok_or_else(unknown)?;
                let (host, port) = target.rsplit_once(':').ok_or_else(unknown)?;
                let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
                if host.is_empty() || host.contains(char::is_whitespace) {
                    return Err(unknown());
                }
                Ok(Self::Dial { host: host.to_owned(), port: port.parse().map_err(|_| unknown())? })
            }
        }
    }
}

/// Reads one line, and not one byte further: what follows belongs to the stream's user.
pub async fn read_line<R: AsyncRead + Unpin>(reader: &mut R) -> Result<String, HeaderError> {
    let mut line = Vec::with_capacity(32);
    loop {
        match reader.read_u8().await.map_err(HeaderError::Io)? {
            b'\n' => return String::from_utf8(line).map_err(|_| HeaderError::NotText),
            _ if line.len() == MAX_HEADER_BYTES => return Err(HeaderError::TooLong),
            byte => line.push(byte),
        }
    }
}

/// Writes `line` and its end. A line end inside `line` becomes a space, so that an error's text cannot forge what follows.
pub async fn write_line<W: AsyncWrite + Unpin>(writer: &mut W, line: &str) -> std::io::Result<()> {
    let mut bytes: Vec<u8> = line.bytes().map(|b| if b == b'\n' { b' ' } else { b }).take(MAX_HEADER_BYTES).collect();
    bytes.push(b'\n');
    writer.write_all(&bytes).await?;
    writer.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_their_text_form() {
        for header in [
            Header::Api,
            Header::Kubernetes,
            Header::Kubelet,
            Header::Dial { host: "10.244.1.7".into(), port: 8080 },
            Header::Dial { host: "fd00::7".into(), port: 443 },
        ] {
            assert_eq!(header.to_string().parse::<Header>().unwrap(), header);
        }
    }

    #[test]
    fn unknown_purposes_and_broken_addresses_are_refused() {
        for line in ["", "apis", "dial", "dial ", "dial host", "dial :80", "dial host:70000", "dial a b:80"] {
            assert!(line.parse::<Header>().is_err(), "{line:?}");
        }
    }

    #[tokio::test]
    async fn a_line_is_read_without_touching_what_follows() {
        let mut input: &[u8] = b"kubelet\nGET / HTTP/1.1\r\n";
        assert_eq!(read_line(&mut input).await.unwrap(), "kubelet");
        assert_eq!(input, b"GET / HTTP/1.1\r\n");
        let mut endless: &[u8] = &[b'a'; MAX_HEADER_BYTES + 2];
        assert!(matches!(read_line(&mut endless).await, Err(HeaderError::TooLong)));
        let mut cut: &[u8] = b"kube";
        assert!(matches!(read_line(&mut cut).await, Err(HeaderError::Io(_))));
    }
}
