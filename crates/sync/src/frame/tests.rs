use proptest::prelude::*;

use super::*;

/// What an inbox said, with its own copy of the bytes.
#[derive(Debug, PartialEq, Eq, Clone)]
enum Said {
    Message(bool, Vec<u8>),
    Oversized(Vec<u8>, Vec<u8>, u64),
    Ping(Vec<u8>),
    Close(u16, String),
}

fn copy(incoming: &Incoming<'_>) -> Said {
    match *incoming {
        Incoming::Message { binary, payload } => Said::Message(binary, payload.to_vec()),
        Incoming::Oversized { head, tail, size, .. } => Said::Oversized(head.to_vec(), tail.to_vec(), size),
        Incoming::Ping(payload) => Said::Ping(payload.to_vec()),
        Incoming::Close { code, reason } => Said::Close(code, reason.to_owned()),
    }
}

/// A client's frame, by the letter of RFC 6455, section 5.2.
fn client_frame(first: u8, mask: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        n @ 0..126 => out.push(0x80 | n as u8),
        n @ 126..0x1_0000 => {
            out.push(0x80 | 126);
            out.extend((n as u16).to_be_bytes());
        }
        n => {
            out.push(0x80 | 127);
            out.extend((n as u64).to_be_bytes());
        }
    }
    out.extend(mask);
    out.extend(payload.iter().enumerate().map(|(n, byte)| byte ^ mask[n % 4]));
    out
}

fn feed(inbox: &mut Inbox, bytes: &[u8]) -> Result<Vec<Said>, Violation> {
    let mut said = Vec::new();
    inbox.feed(&mut bytes.to_vec(), &mut |incoming| said.push(copy(&incoming)))?;
    Ok(said)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// However a stream is cut, the same messages come out, and nothing is held when all have.
    #[test]
    fn cuts_change_nothing(
        messages in prop::collection::vec(
            (prop::collection::vec(any::<u8>(), 0..9000), any::<[u8; 4]>(), any::<bool>(), 1..5usize),
            1..6,
        ),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        const LIMIT: usize = 5000;
        let mut stream = Vec::new();
        let mut expected = Vec::new();
        for (payload, mask, binary, parts) in &messages {
            let opcode = if *binary { 2 } else { 1 };
            let size = payload.len().div_ceil(*parts).max(1);
            let pieces: Vec<&[u8]> = if payload.is_empty() { vec![&[]] } else { payload.chunks(size).collect() };
            for (n, piece) in pieces.iter().enumerate() {
                let fin = if n + 1 == pieces.len() { 0x80 } else { 0 };
                stream.extend(client_frame(fin | if n == 0 { opcode } else { 0 }, *mask, piece));
                // Control frames may come between a message's frames.
                if fin == 0 {
                    stream.extend(client_frame(0x89, *mask, b"p"));
                    expected.push(Said::Ping(b"p".to_vec()));
                }
            }
            expected.push(match payload.len() > LIMIT {
                false => Said::Message(*binary, payload.clone()),
                true => Said::Oversized(
                    payload[..HEAD_BYTES].to_vec(),
                    payload[payload.len() - TAIL_BYTES..].to_vec(),
                    payload.len() as u64,
                ),
            });
        }
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len())).collect();
        at.extend([0, stream.len()]);
        at.sort_unstable();
        let mut inbox = Inbox::of_client(LIMIT);
        let mut said = Vec::new();
        for piece in at.windows(2) {
            said.extend(feed(&mut inbox, &stream[piece[0]..piece[1]]).unwrap());
        }
        // The head of a message in parts is what its parts gave before it was too big, so only its length differs.
        let same = |a: &Said, b: &Said| match (a, b) {
            (Said::Oversized(head, tail, size), Said::Oversized(h, t, s)) => {
                h.starts_with(head) && (t.ends_with(tail) || tail.ends_with(t)) && size == s
            }
            _ => a == b,
        };
        prop_assert_eq!(said.len(), expected.len());
        for (a, b) in said.iter().zip(&expected) {
            prop_assert!(same(a, b), "{:?} instead of {:?}", a, b);
        }
        prop_assert_eq!(inbox.held(), 0);
    }

    /// Whatever comes, an inbox holds no more than a message and a frame's header, and does not panic.
    #[test]
    fn garbage_is_bounded(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let mut inbox = Inbox::of_client(500);
        for piece in bytes.chunks(7) {
            if feed(&mut inbox, piece).is_err() {
                break;
            }
            prop_assert!(inbox.held() <= 1100, "{}", inbox.held());
        }
    }

    /// What this end writes, the other end reads, masked or not.
    #[test]
    fn written_frames_are_read(payload in prop::collection::vec(any::<u8>(), 0..70_000), mask in any::<[u8; 4]>()) {
        let mut out = Vec::new();
        write_text(&mut out, |out| out.extend_from_slice(&payload));
        let said = feed(&mut Inbox::of_server(1 << 20), &out).unwrap();
        prop_assert_eq!(&said, &[Said::Message(false, payload.clone())]);
        mask_last(&mut out, 0, mask);
        prop_assert_eq!(&out, &client_frame(0x81, mask, &payload));
    }
}

#[test]
fn a_close_frame_is_cut_between_characters() {
    let mut out = Vec::new();
    write_close(&mut out, code::POLICY, &"é".repeat(100));
    let said = feed(&mut Inbox::of_server(1000), &out).unwrap();
    assert_eq!(said, [Said::Close(1008, "é".repeat(61))]);
    let said = feed(&mut Inbox::of_client(1000), &client_frame(0x88, [1; 4], &[])).unwrap();
    assert_eq!(said, [Said::Close(1005, String::new())]);
}
