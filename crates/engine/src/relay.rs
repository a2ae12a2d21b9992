//! Bytes between two TCP connections: half-closes and resets are passed on, and no more than a buffer a direction waits.
//!
//! Who connects, and why, belongs to the callers.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

/// Bytes of a direction that wait at most, beside what the kernel holds.
const BUFFER: usize = 16 << 10;

/// Carries bytes both ways until both sides have said all, and counts them in `moved`. When one side is reset, so is the
/// other.
pub(crate) async fn relay(mut one: TcpStream, mut other: TcpStream, moved: &AtomicU64) {
    // A request of a few bytes does not wait for more.
    let _ = one.set_nodelay(true);
    let _ = other.set_nodelay(true);
    let ended = {
        let (read_one, write_one) = one.split();
        let (read_other, write_other) = other.split();
        tokio::try_join!(one_way(read_one, write_other, moved), one_way(read_other, write_one, moved))
    };
    if ended.is_err() {
        reset(&one);
        reset(&other);
    }
}

/// Has a connection end, when it is dropped, in such a way that its peer sees a reset and no end of what was said.
pub(crate) fn reset(stream: &TcpStream) {
    // Where that is refused the connection is gone already.
    let _ = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
}

async fn one_way(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, moved: &AtomicU64) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..count]).await?;
        moved.fetch_add(count as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A client and a server, with a relay between.
    async fn joined() -> (TcpStream, TcpStream, tokio::task::JoinHandle<u64>) {
        let pair = async || {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            (near, listener.accept().await.unwrap().0)
        };
        let (client, one) = pair().await;
        let (server, other) = pair().await;
        let carried = tokio::spawn(async move {
            let moved = AtomicU64::new(0);
            relay(one, other, &moved).await;
            moved.into_inner()
        });
        (client, server, carried)
    }

    #[tokio::test]
    async fn a_side_that_has_said_all_still_hears_the_other() {
        let (mut client, mut server, carried) = joined().await;
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut heard = String::new();
        server.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "question");
        server.write_all(b"answer").await.unwrap();
        drop(server);
        let mut heard = String::new();
        client.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "answer");
        assert_eq!(carried.await.unwrap(), 14);
    }

    #[tokio::test]
    async fn a_reset_is_a_reset_on_the_other_side() {
        let (client, mut server, carried) = joined().await;
        reset(&client);
        drop(client);
        let error = server.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        carried.await.unwrap();
    }

    #[tokio::test]
    async fn what_nobody_reads_holds_its_writer_up_and_nobody_else() {
        let (client, mut server, _carried) = joined().await;
        let mut taken = 0;
        // As much as the kernel's buffers and ours take, and no more.
        while let Ok(Ok(count)) = tokio::time::timeout(Duration::from_millis(300), async {
            client.writable().await?;
            match client.try_write(&[7; 64 << 10]) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(0),
                written => written,
            }
        })
        .await
        {
            taken += count;
            assert!(taken < 64 << 20, "{taken} bytes were taken and nobody read one");
        }
        // The way back is open all the same.
        server.write_all(b"!").await.unwrap();
        let mut one = [0; 1];
        client.readable().await.unwrap();
        assert_eq!(client.try_read(&mut one).unwrap(), 1);
    }
}
