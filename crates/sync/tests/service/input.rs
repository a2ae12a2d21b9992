//! Whatever a peer may send: the answers byte for byte, and what is bounded.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use testground_sync::engine::Limits;
use testground_sync::server::Options;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Bytes, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::support::{LocalService, PATIENCE, client};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn open(address: SocketAddr) -> Socket {
    connect_async(format!("ws://{address}/any/path?at=all")).await.unwrap().0
}

async fn next(socket: &mut Socket) -> Message {
    let message = tokio::time::timeout(PATIENCE, socket.next()).await;
    message.expect("the service does not answer").expect("the connection ended").unwrap()
}

async fn text(socket: &mut Socket) -> String {
    match next(socket).await {
        Message::Text(text) => text.to_string(),
        other => panic!("expected text, got {other:?}"),
    }
}

/// The close code and the reason.
async fn closed(socket: &mut Socket) -> (CloseCode, String) {
    match next(socket).await {
        Message::Close(Some(frame)) => (frame.code, frame.reason.to_string()),
        other => panic!("expected a close frame, got {other:?}"),
    }
}

#[tokio::test]
async fn every_message_is_answered_as_it_is_written_down() {
    let frames = include_str!("../golden/frames.txt");
    let service = LocalService::in_memory(Options::default()).await;
    let mut second = open(service.address).await;
    let mut socket = None;
    for (n, line) in frames.lines().enumerate() {
        let Some((kind, frame)) = line.split_once(' ') else {
            socket = None;
            continue;
        };
        if kind == "#" {
            continue;
        }
        if socket.is_none() {
            socket = Some(open(service.address).await);
        }
        let socket = socket.as_mut().unwrap();
        match kind {
            ">" => socket.send(Message::text(frame)).await.unwrap(),
            ">b" => socket.send(Message::binary(frame.as_bytes().to_vec())).await.unwrap(),
            "=" => {
                second.send(Message::text(frame)).await.unwrap();
                next(&mut second).await;
            }
            "<" => {
                let peer = match socket.get_ref() {
                    MaybeTlsStream::Plain(stream) => stream.local_addr().unwrap().to_string(),
                    _ => String::new(),
                };
                assert_eq!(text(socket).await.replace(&peer, "PEER"), frame, "line {}", n + 1);
            }
            other => panic!("line {}: {other:?}", n + 1),
        }
    }
}

#[tokio::test]
async fn an_error_that_an_sdk_would_take_for_success_is_never_sent() {
    let service = LocalService::in_memory(Options::default()).await;
    let cases = [
        (r#"{"id":"1","barrier":{"state":"s","target":-1}}"#, "the barrier's target is -1"),
        (r#"{"id":"1","barrier":{"state":"","target":1}}"#, "the state or topic is empty"),
        (r#"{"id":"1","barrier":{"state":"s","target":1"#, "the message is no request"),
        (r#"{"id":"0","subscribe":{"topic":"t"}}"#, "id \"0\" is in use"),
    ];
    for (request, reason) in cases {
        let mut socket = open(service.address).await;
        // A wait of an SDK, which the last case reuses the id of.
        socket.send(Message::text(r#"{"id":"0","barrier":{"state":"never","target":1}}"#)).await.unwrap();
        socket.send(Message::text(request)).await.unwrap();
        let (code, said) = closed(&mut socket).await;
        assert_eq!(code, CloseCode::Policy);
        assert!(said.starts_with(reason), "{said}");
    }
    // So it is when somebody else ends the wait.
    let mut socket = open(service.address).await;
    socket.send(Message::text(r#"{"id":"0","barrier":{"state":"ended","target":1}}"#)).await.unwrap();
    while service.handle.snapshot().barriers.iter().all(|b| b.state != "ended" || b.waiting.is_empty()) {
        tokio::task::yield_now().await;
    }
    service.handle.cancel_barriers("ended", "the run is over").await;
    assert_eq!(closed(&mut socket).await, (CloseCode::Policy, "the run is over".to_owned()));
}

#[tokio::test]
async fn messages_over_the_limit_are_refused_and_the_connection_stays() {
    let service = LocalService::in_memory(Options::default()).await;
    let mut socket = open(service.address).await;
    let padding = |bytes: usize| "x".repeat(bytes);
    // As Go writes it, and as JavaScript does.
    let go = format!(r#"{{"id":"7","publish":{{"topic":"t","payload":"{}"}}}}"#, padding(200_000));
    let js = format!(r#"{{"publish":{{"topic":"t","payload":{{"id":"{}"}}}},"id":"8"}}"#, padding(32_768));
    for (id, frame) in [("7", go), ("8", js)] {
        let bytes = frame.len();
        socket.send(Message::text(frame)).await.unwrap();
        let expected = format!(
            r#"{{"id":"{id}","error":"limit message_bytes: a message of {bytes} bytes; 32768 are allowed","publish":null,"subscribe":"","signal_entry":null}}"#
        );
        assert_eq!(text(&mut socket).await, expected);
    }
    // What fits into a request has to fit into what subscribers get.
    let quotes = "\\\"".repeat(9000);
    socket
        .send(Message::text(format!(r#"{{"id":"9","publish":{{"topic":"t","payload":"{quotes}"}}}}"#)))
        .await
        .unwrap();
    let answer = text(&mut socket).await;
    assert!(
        answer.contains("limit message_bytes: 36166 bytes of this item as subscribers read it"),
        "{answer}"
    );
    // The biggest that fits arrives, in a frame of at most 32,768 bytes.
    let fits = padding(32_768 - testground_sync::wire::ITEM_OVERHEAD - 6);
    service.handle.publish("test", "t", &format!("\"{fits}\"")).await.unwrap();
    let id = "i".repeat(testground_sync::wire::MAX_ID_BYTES);
    socket
        .send(Message::text(format!(r#"{{"id":"{id}","subscribe":{{"topic":"t","after":0}}}}"#)))
        .await
        .unwrap();
    let item = text(&mut socket).await;
    assert!(item.len() <= 32_768 && item.len() > 32_600, "{} bytes", item.len());
}

#[tokio::test]
async fn limits_refuse_by_name_and_the_connection_stays() {
    let limits = Limits {
        requests_per_peer: 3,
        subscriptions_per_run: 2,
        topics_per_run: 2,
        states_per_run: 1,
        bytes_per_run: 20,
        ..Limits::default()
    };
    let service = LocalService::in_memory(Options { limits, ..Options::default() }).await;
    let mut socket = open(service.address).await;
    let cases = [
        (r#"{"id":"0","subscribe":{"topic":"run:r:a"}}"#, None),
        (r#"{"id":"1","subscribe":{"topic":"run:r:a"}}"#, None),
        (r#"{"id":"2","subscribe":{"topic":"run:r:a"}}"#, Some("limit subscriptions_per_run: ")),
        (r#"{"id":"3","subscribe":{"topic":"run:q:a"}}"#, None),
        (r#"{"id":"4","subscribe":{"topic":"run:q:a"}}"#, Some("limit requests_per_peer: ")),
        (r#"{"id":"5","publish":{"topic":"run:p:a","payload":"0123456789"}}"#, Some("")),
        (r#"{"id":"6","publish":{"topic":"run:p:a","payload":"0123456789"}}"#, Some("limit bytes_per_run: ")),
        (r#"{"id":"7","publish":{"topic":"run:p:b","payload":1}}"#, Some("")),
        (r#"{"id":"8","publish":{"topic":"run:p:c","payload":1}}"#, Some("limit topics_per_run: ")),
        (r#"{"id":"9","signal_entry":{"state":"run:p:a"}}"#, Some("")),
        (r#"{"id":"10","signal_entry":{"state":"run:p:b"}}"#, Some("limit states_per_run: ")),
    ];
    for (request, answer) in cases {
        socket.send(Message::text(request)).await.unwrap();
        if let Some(error) = answer {
            let said = text(&mut socket).await;
            assert!(said.contains(&format!(r#""error":"{error}"#)), "{request}: {said}");
        }
    }
}

#[tokio::test]
async fn what_is_no_websocket_is_told_so() {
    let service = LocalService::in_memory(Options::default()).await;
    let upgrade = "GET / HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n";
    let key = "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for (request, status) in [
        (format!("{upgrade}sec-websocket-version: 12\r\n{key}\r\n"), "HTTP/1.1 426"),
        (format!("{upgrade}sec-websocket-version: 13\r\n\r\n"), "HTTP/1.1 400"),
        (format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(20_000)), "HTTP/1.1 431"),
        ("GET /nothing HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_owned(), "HTTP/1.1 404"),
        ("\0\u{1}\u{2} is no request\r\n\r\n".to_owned(), "HTTP/1.1 400"),
    ] {
        let mut stream = TcpStream::connect(service.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        tokio::time::timeout(PATIENCE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), status);
    }
    // The example of RFC 6455, section 1.3; the extension that Go offers is declined.
    let mut stream = TcpStream::connect(service.address).await.unwrap();
    let request = format!(
        "{upgrade}sec-websocket-version: 13\r\nsec-websocket-extensions: permessage-deflate\r\norigin: http://evil\r\n{key}\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![0; 1024];
    let count = stream.read(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..count]).to_lowercase();
    assert!(
        answer.starts_with("http/1.1 101") && answer.contains("s3pplmbitxaq9kygzzhzrbk+xoo="),
        "{answer}"
    );
    assert!(!answer.contains("extensions"), "{answer}");
}

#[tokio::test]
async fn broken_frames_end_their_connection_and_no_other() {
    let service = LocalService::in_memory(Options::default()).await;
    let witness = client(service.address, "witness").await;
    let handshake = "GET / HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
                     sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let cases: [(&[u8], u16); 6] = [
        (b"\x81\x02{}", 1002),
        (b"\xc1\x82aaaa{}", 1002),
        (b"\x83\x82aaaa{}", 1002),
        (b"\x80\x82aaaa{}", 1002),
        (b"\x89\xfe\x01\x00aaaa", 1002),
        (b"\x81\xff\x00\x00\x00\x00\x10\x00\x00\x00aaaa", 1009),
    ];
    for (bytes, code) in cases {
        let mut stream = TcpStream::connect(service.address).await.unwrap();
        stream.write_all(handshake.as_bytes()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, async {
            while !answer.windows(4).any(|w| w == b"\r\n\r\n") || answer.ends_with(b"\r\n\r\n") {
                assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "no close frame: {bytes:?}");
            }
        });
        read.await.unwrap();
        let at = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        assert_eq!(
            (answer[at], u16::from_be_bytes([answer[at + 2], answer[at + 3]])),
            (0x88, code),
            "{bytes:?}"
        );
        drop(stream);
        witness.signal("s").await.unwrap();
    }
    // Half a frame, and gone; half closed; a flood of pings.
    let mut stream = TcpStream::connect(service.address).await.unwrap();
    stream.write_all(handshake.as_bytes()).await.unwrap();
    stream.write_all(b"\x81\xfe\x10\x00aaaa{").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut socket = open(service.address).await;
    for _ in 0..5000 {
        socket.feed(Message::Ping(Bytes::from_static(b"x"))).await.unwrap();
    }
    socket.send(Message::text(r#"{"id":"after","signal_entry":{"state":"s"}}"#)).await.unwrap();
    loop {
        match next(&mut socket).await {
            Message::Pong(payload) => assert_eq!(&payload[..], b"x"),
            Message::Text(answer) => {
                assert!(answer.contains(r#""id":"after","error":"""#), "{answer}");
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    drop((socket, stream));
    while service.handle.snapshot().peers > 1 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_message_that_is_no_utf8_is_refused() {
    let service = LocalService::in_memory(Options::default()).await;
    let mut socket = open(service.address).await;
    let message = b"{\"id\":\"1\",\"publish\":{\"topic\":\"t\",\"payload\":\"\xff\"}}".to_vec();
    socket.send(Message::binary(message)).await.unwrap();
    let answer = text(&mut socket).await;
    assert!(answer.contains("not UTF-8 from byte 44 on"), "{answer}");
}

#[tokio::test]
async fn a_thousand_that_never_speak_change_nothing() {
    let options = Options { handshake: Duration::from_secs(3), ..Options::default() };
    let service = LocalService::in_memory(options).await;
    let mut silent = Vec::new();
    for _ in 0..1000 {
        silent.push(TcpStream::connect(service.address).await.unwrap());
    }
    client(service.address, "witness").await.signal("s").await.unwrap();
    // Each is ended when its time is up.
    for mut stream in silent {
        let mut byte = [0];
        let ended = tokio::time::timeout(PATIENCE, stream.read(&mut byte)).await;
        assert!(matches!(ended, Ok(Ok(0) | Err(_))), "{ended:?}");
    }
}

#[tokio::test]
async fn a_subscriber_that_never_reads_is_cut_off_and_told_and_nobody_else_notices() {
    let options = Options { stall: Duration::from_millis(200), ..Options::default() };
    let service = LocalService::in_memory(options).await;
    let mut stuck = open(service.address).await;
    stuck.send(Message::text(r#"{"id":"3","subscribe":{"topic":"t"}}"#)).await.unwrap();
    let reader = client(service.address, "reader").await;
    let mut items = reader.subscribe("t", 0).await.unwrap();
    // More than the kernel takes for a socket that nobody reads.
    let item = format!("\"{}\"", "x".repeat(30_000));
    for n in 1..=600 {
        assert_eq!(service.handle.publish("test", "t", &item).await.unwrap(), n);
        assert_eq!(items.next().await.unwrap().seq, n);
    }
    // Only its connection ends; when it reads at last, it finds items, then why there are no more.
    while service.handle.snapshot().peers > 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut got = 0;
    let error = loop {
        let message = text(&mut stuck).await;
        match message.contains(r#""error":"""#) {
            true => got += 1,
            false => break message,
        }
    };
    assert!(got > 0 && got < 600, "{got}");
    assert!(
        error.starts_with(r#"{"id":"3","error":"cut off: nothing was read from this connection for 200ms""#),
        "{error}"
    );
    assert_eq!(closed(&mut stuck).await.0, CloseCode::Again);
}
