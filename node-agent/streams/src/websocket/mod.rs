//! The same streams inside a WebSocket: as numbered channels, or as one SPDY connection carried in binary messages.

mod bytes_io;
mod channels;

pub(crate) use bytes_io::WebSocketBytes;
pub(crate) use channels::{port_forward_channels, remote_command_channels};
