//! What each side wants of the other. RFC 9113 §6.5.2, RFC 8441 §3.

use super::{FRAME_LEN_MAX, Fatal, Terms, WINDOW_MAX, WINDOW_MIN, frame};

const ENABLE_PUSH: u16 = 2;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;
const MAX_HEADER_LIST_SIZE: u16 = 6;
const ENABLE_CONNECT_PROTOCOL: u16 = 8;

/// Appends ours.
pub(super) fn put_ours(out: &mut Vec<u8>, terms: &Terms) {
    let ours = [
        (MAX_CONCURRENT_STREAMS, terms.streams_max),
        (MAX_HEADER_LIST_SIZE, terms.head_len_max),
        (ENABLE_CONNECT_PROTOCOL, 1),
        (INITIAL_WINDOW_SIZE, terms.stream_window),
    ];
    let all = if terms.stream_window == WINDOW_MIN { &ours[..3] } else { &ours };
    frame::put_settings(out, all);
}

/// The window of new streams, where the client says one. The rest is looked at and not needed: we push nothing, keep no table, and
/// send frames everybody takes; how large a head may be is the client's matter.
pub(super) fn initial_window(payload: &[u8]) -> Result<Option<u32>, Fatal> {
    let (settings, []) = payload.as_chunks::<6>() else { return Err(Fatal::FrameSize) };
    let mut window = None;
    for [id_high, id_low, value @ ..] in settings {
        let value = u32::from_be_bytes(*value);
        match u16::from_be_bytes([*id_high, *id_low]) {
            INITIAL_WINDOW_SIZE if value > WINDOW_MAX => return Err(Fatal::Window),
            INITIAL_WINDOW_SIZE => window = Some(value),
            ENABLE_PUSH | ENABLE_CONNECT_PROTOCOL if value > 1 => return Err(Fatal::Setting),
            MAX_FRAME_SIZE if !(FRAME_LEN_MAX as u32..1 << 24).contains(&value) => {
                return Err(Fatal::Setting);
            }
            _ => {}
        }
    }
    Ok(window)
}
