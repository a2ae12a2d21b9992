//! The first bytes of a connection: is it a WebSocket (RFC 6455, section 4), on whatever path and from whatever
//! origin, or plain HTTP?

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{Options, tune};

/// Most bytes of a request's head.
const MAX_HEAD_BYTES: usize = 16 << 10;
const MAX_HEADERS: usize = 64;

/// What a connection is.
pub(super) enum Kind {
    /// A WebSocket after its handshake, with the bytes that came right behind it.
    WebSocket(TcpStream, Vec<u8>),
    /// Plain HTTP, of which nothing has been answered.
    Http(Rewound),
}

/// A stream of which the first bytes were read and are read again.
#[derive(Debug)]
pub(crate) struct Rewound {
    head: Vec<u8>,
    read: usize,
    stream: TcpStream,
}

enum Head {
    Partial,
    Http,
    WebSocket { accept: String, bytes: usize },
    Refused(&'static str),
}

/// Reads a connection's head, and answers it if it asks for a WebSocket.
///
/// # Errors
/// The connection broke, took too long, or asks for something that is neither.
pub(super) async fn greet(mut stream: TcpStream, options: &Options) -> io::Result<Kind> {
    tune(&stream)?;
    let deadline = tokio::time::Instant::now() + options.handshake;
    let mut head = Vec::with_capacity(1024);
    loop {
        let read = tokio::time::timeout_at(deadline, stream.read_buf(&mut head));
        let Ok(read) = read.await else {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the request's head did not come in time"));
        };
        if read? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match judge(&head) {
            Head::Partial if head.len() < MAX_HEAD_BYTES => {}
            Head::Partial => {
                let answer = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\r\n";
                stream.write_all(answer).await?;
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the request's head is too long"));
            }
            Head::Http => return Ok(Kind::Http(Rewound { head, read: 0, stream })),
            Head::WebSocket { accept, bytes } => {
                // permessage-deflate is declined by not naming it.
                let answer = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
                     sec-websocket-accept: {accept}\r\n\r\n"
                );
                stream.write_all(answer.as_bytes()).await?;
                return Ok(Kind::WebSocket(stream, head.split_off(bytes)));
            }
            Head::Refused(why) => {
                let answer = format!(
                    "HTTP/1.1 {why}\r\nsec-websocket-version: 13\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
                );
                stream.write_all(answer.as_bytes()).await?;
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
        }
    }
}

fn judge(head: &[u8]) -> Head {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let bytes = match request.parse(head) {
        Ok(httparse::Status::Complete(bytes)) => bytes,
        Ok(httparse::Status::Partial) => return Head::Partial,
        // What is wrong with it is said by the HTTP side.
        Err(_) => return Head::Http,
    };
    let header = |name: &str| {
        let found = request.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name));
        found.and_then(|h| std::str::from_utf8(h.value).ok())
    };
    let has = |name: &str, token: &str| {
        header(name).is_some_and(|value| value.split(',').any(|v| v.trim().eq_ignore_ascii_case(token)))
    };
    if !has("upgrade", "websocket") {
        return Head::Http;
    }
    if request.method != Some("GET") || !has("connection", "upgrade") {
        return Head::Refused("400 Bad Request");
    }
    if header("sec-websocket-version") != Some("13") {
        return Head::Refused("426 Upgrade Required");
    }
    match header("sec-websocket-key") {
        Some(key) if !key.is_empty() => Head::WebSocket { accept: derive_accept_key(key.as_bytes()), bytes },
        _ => Head::Refused("400 Bad Request"),
    }
}

// === impl Rewound ===

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = &self.head[self.read..];
        if left.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let count = left.len().min(buffer.remaining());
        buffer.put_slice(&left[..count]);
        self.read += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
