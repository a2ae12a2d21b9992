// What the fuzz target does with its bytes, and a test with random ones: both include this file.

use testground_sync::frame::{Inbox, Incoming};
use testground_sync::wire;

/// The longest message that is taken.
pub(crate) const LIMIT: usize = 4096;

/// Whatever a client sends, in whatever pieces: frames, then requests. The first byte says how it is cut.
pub(crate) fn frames(data: &[u8]) {
    let Some((first, data)) = data.split_first() else { return };
    let mut inbox = Inbox::of_client(LIMIT);
    for piece in data.chunks(usize::from(*first).max(1)) {
        let fed = inbox.feed(&mut piece.to_vec(), &mut |incoming| match incoming {
            Incoming::Message { payload, .. } => {
                assert!(payload.len() <= LIMIT);
                drop(wire::parse(payload));
            }
            Incoming::Oversized { head, tail, size, .. } => {
                assert!(size > LIMIT as u64);
                drop(wire::parse_cut(head, tail, String::new()));
            }
            Incoming::Ping(payload) => assert!(payload.len() <= 125),
            Incoming::Close { .. } => {}
        });
        assert!(inbox.held() <= 2 * LIMIT + 14);
        if fed.is_err() {
            return;
        }
    }
}
