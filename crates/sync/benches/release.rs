//! The last release of a barrier of 1,000 connections, beside a bare loop of `send` to 1,000 sockets in the same run.
//!
//! `cargo bench -p testground-sync --bench release`

use std::io::Write;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use testground_sync::server::{Options, Service};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

const CONNECTIONS: usize = 1000;
const ROUNDS: usize = 9;

fn main() {
    let reader = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut service = Vec::new();
    let mut bare = Vec::new();
    // By turns, so that whatever else the machine does meets both.
    for round in 0..ROUNDS {
        service.push(reader.block_on(barrier(round)));
        bare.push(bare_loop(&reader));
    }
    let (service, bare) = (median(service), median(bare));
    figure("last_release", service.as_secs_f64() * 1e3, "ms");
    figure("bare_loop_of_send", bare.as_secs_f64() * 1e3, "ms");
    figure("ratio", service.as_secs_f64() / bare.as_secs_f64(), "");
}

/// From sending the last signal until everybody has been released.
async fn barrier(round: usize) -> Duration {
    let (send, receive) = mpsc::channel();
    let stop = tokio_util::sync::CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            send.send(listener.local_addr().expect("it is bound")).expect("the other end waits");
            Service::in_memory(Options::default(), None).serve(listener, stopped).await.expect("serves");
        });
    });
    let address = receive.recv().expect("the service comes up");
    let state = format!("run:r{round}:states:ready");
    let mut waiting = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = open(address).await;
        let wait = format!(r#"{{"id":"0","barrier":{{"state":"{state}","target":1}}}}"#);
        stream.write_all(&frame(&wait)).await.expect("it listens");
        waiting.push(stream);
    }
    let mut signaller = open(address).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let readers = read_all(waiting);
    let start = Instant::now();
    let signal = frame(&format!(r#"{{"id":"0","signal_entry":{{"state":"{state}"}}}}"#));
    signaller.write_all(&signal).await.expect("it listens");
    let last = finish(readers).await;
    stop.cancel();
    thread.join().expect("the service ends");
    last - start
}

/// A thread that does nothing but `send`, to sockets that are read in the same way.
fn bare_loop(reader: &Runtime) -> Duration {
    let (mut senders, readers) = reader.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (mut senders, mut waiting) = (Vec::new(), Vec::new());
        for _ in 0..CONNECTIONS {
            let (stream, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
            waiting.push(stream.expect("it listens"));
            let accepted = accepted.expect("somebody connects").0.into_std().expect("a socket");
            accepted.set_nodelay(true).expect("a TCP socket");
            accepted.set_nonblocking(false).expect("a TCP socket");
            senders.push(accepted);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        (senders, read_all(waiting))
    });
    let (send, begun) = mpsc::channel();
    let sending = std::thread::spawn(move || {
        let release = [b'x'; 78];
        send.send(Instant::now()).expect("the other end waits");
        for sender in &mut senders {
            sender.write_all(&release).expect("the other end reads");
        }
        senders
    });
    let last = reader.block_on(finish(readers));
    drop(sending.join().expect("the sender ends"));
    last - begun.recv().expect("the sender began")
}

fn read_all(streams: Vec<TcpStream>) -> JoinSet<(TcpStream, Instant)> {
    let mut readers = JoinSet::new();
    for mut stream in streams {
        readers.spawn(async move {
            let mut buffer = [0; 256];
            assert!(stream.read(&mut buffer).await.expect("an answer") > 0);
            let now = Instant::now();
            (stream, now)
        });
    }
    readers
}

async fn finish(mut readers: JoinSet<(TcpStream, Instant)>) -> Instant {
    let mut last = Instant::now();
    let mut streams = Vec::new();
    while let Some(done) = readers.join_next().await {
        let (stream, at) = done.expect("a reader ends");
        last = last.max(at);
        streams.push(stream);
    }
    last
}

async fn open(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.set_nodelay(true).expect("a TCP socket");
    let request = "GET / HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("it listens");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        assert!(stream.read_buf(&mut answer).await.expect("an answer") > 0);
    }
    stream
}

fn frame(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    testground_sync::frame::write_text(&mut out, |out| out.extend_from_slice(text.as_bytes()));
    testground_sync::frame::mask_last(&mut out, 0, [1, 2, 3, 4]);
    out
}

fn median(mut values: Vec<Duration>) -> Duration {
    values.sort_unstable();
    values[values.len() / 2]
}

fn figure(bench: &str, value: f64, unit: &str) {
    let value = (value * 100.0).round() / 100.0;
    println!(
        r#"{{"bench":"sync/release/{bench}","value":{value},"unit":"{unit}","peer":"{CONNECTIONS} connections"}}"#
    );
}
