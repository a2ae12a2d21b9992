//! Any bytes as an offload header and a frame: nothing panics, and what is cut is understood.
#![no_main]

use libfuzzer_sys::fuzz_target;
use testground_sidecar::plane::switch::packet::reply::{self, Resolution};
use testground_sidecar::plane::switch::packet::{Layout, Segments, VnetHeader, checksum, flip_bit, take_run};

fuzz_target!(|data: &[u8]| {
    let Some((head, frame)) = data.split_first_chunk::<10>() else { return };
    let Some(vnet) = VnetHeader::decode(head) else { return };
    assert_eq!(VnetHeader::decode(&vnet.encode()).map(|v| v.gso), Some(vnet.gso));
    let Ok(layout) = Layout::parse(frame) else { return };
    if let Some(Resolution::Question(question)) = reply::resolution(frame, &layout) {
        let answer = reply::answer(frame, &layout, &question, [2, 0, 0, 0, 0, 1]);
        if let Some(answer) = answer {
            Layout::parse(&answer).unwrap();
        }
    }
    if let Some(error) = reply::rejection(frame, &layout) {
        let answer = Layout::parse(&error).unwrap();
        assert_eq!(reply::rejection(&error, &answer), None, "an answer that is answered");
    }
    let mut flipped = frame.to_vec();
    flip_bit(&mut flipped, layout.network, u64::MAX);
    let Ok(segments) = Segments::of(frame, &layout, &vnet) else { return };
    let Some(gso) = vnet.gso else { return };
    let mut payload = 0;
    for i in 0..segments.count {
        let (vnet, head) = take_run(frame, &layout, gso, &segments, i, 1).unwrap();
        let mut segment = [&head, &frame[segments.payload(i, 1)]].concat();
        payload += segment.len() - head.len();
        assert_eq!(segment.len() as u32, segments.size(i));
        let (start, offset) = vnet.partial_checksum.unwrap();
        assert!(checksum::fill_in(&mut segment, start.into(), offset.into()));
        Layout::parse(&segment).unwrap();
    }
    assert_eq!(payload, segments.payload(0, segments.count).len());
});
