//! HTTP/1.1 as it comes: what is sent on is read as what came was, and a body in chunks is the same however it is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_core::h1::{
    Bad, Chunked, Framing, Progress, Sender, field_room, parse_request, parse_response, write_request,
    write_response,
};

fuzz_target!(|bytes: &[u8]| {
    let mut room = field_room();
    if let Ok(Some(head)) = parse_request(bytes, &mut room) {
        let mut out = Vec::new();
        write_request(&mut out, &head, &Sender::new([203, 0, 113, 7].into(), true));
        let mut room = field_room();
        // With what is said of the client a head may become too large; it is the server's to say so.
        match parse_request(&out, &mut room) {
            Ok(again) => {
                let again = again.expect("a whole head stays whole");
                assert_eq!((again.len, again.framing), (out.len(), head.framing));
                assert_eq!((again.method, again.target, again.host), (head.method, head.target, head.host));
            }
            Err(error) => assert_eq!(error, Bad::HeadLen),
        }
    }
    for to_head in [false, true] {
        let mut room = field_room();
        if let Ok(Some(head)) = parse_response(bytes, &mut room, to_head) {
            let framing = if head.framing == Framing::UntilClose { Framing::Chunked } else { head.framing };
            let (mut out, via) = (Vec::new(), head.via());
            let fields = head.passed_on("").chain([("via", &*via)]);
            let told = head.told_length(framing).map_or(framing, Framing::Length);
            write_response(&mut out, (head.status, head.reason), fields, told, &[]);
            let mut room = field_room();
            match parse_response(&out, &mut room, to_head) {
                Ok(again) => assert_eq!(again.expect("a whole head stays whole").framing, framing),
                Err(error) => assert_eq!(error, Bad::HeadLen),
            }
        }
    }
    let cut = bytes.first().map_or(0, |first| usize::from(*first)).min(bytes.len());
    assert_eq!(body(&[bytes]), body(&[&bytes[..cut], &bytes[cut..]]));
});

/// The data of a body, and whether it ended or broke.
fn body(parts: &[&[u8]]) -> (Vec<u8>, Result<bool, Bad>) {
    let (mut chunked, mut data) = (Chunked::default(), Vec::new());
    for part in parts {
        let mut rest = *part;
        loop {
            match chunked.advance(rest) {
                Ok((framing, Progress::Data(len))) => {
                    data.extend_from_slice(&rest[framing..framing + len]);
                    rest = &rest[framing + len..];
                }
                Ok((_, Progress::End)) => return (data, Ok(true)),
                Ok((_, Progress::More)) => break,
                Err(bad) => return (data, Err(bad)),
            }
        }
    }
    (data, Ok(false))
}
