//! The fuzz target's function over random bytes, and over sound frames with a few bytes changed: what a fuzzer would try
//! first, on every machine.

use proptest::prelude::*;

#[path = "../../fuzz/body.rs"]
mod body;

/// A client's frame with a mask of zeros, by the letter of RFC 6455, section 5.2.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        short @ 0..126 => out.push(0x80 | short as u8),
        long => {
            out.push(0x80 | 126);
            out.extend((long as u16).to_be_bytes());
        }
    }
    out.extend([0; 4]);
    out.extend(payload);
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn random_bytes(data in prop::collection::vec(any::<u8>(), 0..4000)) {
        body::frames(&data);
    }

    #[test]
    fn sound_frames_with_a_few_bytes_changed(
        cut in any::<u8>(),
        messages in prop::collection::vec(
            (
                prop::sample::select(vec![0x00u8, 0x01, 0x02, 0x80, 0x81, 0x82, 0x88, 0x89, 0x8a, 0xc1, 0x83]),
                prop_oneof![
                    prop::collection::vec(any::<u8>(), 0..200),
                    Just(br#"{"id":"1","signal_entry":{"state":"s"}}"#.to_vec()),
                    Just(br#"{"id":"2","barrier":{"state":"s","target":1}}{"id":"3"}"#.to_vec()),
                    Just(vec![b'['; body::LIMIT + 10]),
                ],
            ),
            1..8,
        ),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let mut data = vec![cut];
        messages.iter().for_each(|(first, payload)| data.extend(frame(*first, payload)));
        for (at, byte) in changes {
            let at = at.index(data.len());
            data[at] = byte;
        }
        body::frames(&data);
    }
}
