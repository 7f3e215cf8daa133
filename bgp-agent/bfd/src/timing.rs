//! How often to send and how long to wait. RFC 5880 §6.8.2 to §6.8.4, §6.8.7. Pure arithmetic.

use std::num::NonZeroU8;
use std::time::Duration;

/// RFC 5880 §6.8.3: "When bfd.SessionState is not Up, the system MUST set bfd.DesiredMinTxInterval to a value of not less than
/// one second", so that a peer without BFD costs next to nothing.
pub const SLOW_INTERVAL: Duration = Duration::from_secs(1);

/// RFC 5880 §6.8.7: the larger of what we want and what the peer can take; `None` when it wants nothing.
pub fn transmit_interval(desired_min_tx_us: u32, remote_min_rx_us: u32) -> Option<Duration> {
    (remote_min_rx_us != 0).then(|| Duration::from_micros(desired_min_tx_us.max(remote_min_rx_us).into()))
}

/// RFC 5880 §6.8.4: "the value of Detect Mult received from the remote system, multiplied by the agreed transmit interval of
/// the remote system (the greater of bfd.RequiredMinRxInterval and the last received Desired Min TX Interval)".
pub fn detection_time(
    remote_detect_mult: NonZeroU8,
    required_min_rx_us: u32,
    remote_desired_min_tx_us: u32,
) -> Duration {
    let interval = Duration::from_micros(required_min_rx_us.max(remote_desired_min_tx_us).into());
    interval * u32::from(remote_detect_mult.get())
}

/// RFC 5880 §6.8.7: "the interval MUST be reduced by a random value of 0 to 25%"; with a multiplier of 1 it "MUST be no more
/// than 90% of the negotiated transmission interval". `random` is any number, evenly spread.
pub fn jittered(interval: Duration, detect_mult: NonZeroU8, random: u64) -> Duration {
    let longest = if detect_mult.get() == 1 { 0.90 } else { 1.0 };
    let share = (random >> 11) as f64 / (1u64 << 53) as f64;
    interval.mul_f64(0.75 + (longest - 0.75) * share)
}

/// splitmix64: jitter and discriminators need to differ, not to be secret beyond their seed.
pub(crate) fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mult(n: u8) -> NonZeroU8 {
        NonZeroU8::new(n).unwrap()
    }

    #[test]
    fn the_slower_side_decides_how_often_we_send() {
        assert_eq!(transmit_interval(50_000, 10_000), Some(Duration::from_millis(50)));
        assert_eq!(transmit_interval(10_000, 50_000), Some(Duration::from_millis(50)));
        assert_eq!(transmit_interval(10_000, 0), None);
    }

    #[test]
    fn ten_milliseconds_times_three_are_thirty() {
        assert_eq!(detection_time(mult(3), 10_000, 10_000), Duration::from_millis(30));
        assert_eq!(detection_time(mult(5), 10_000, 40_000), Duration::from_millis(200));
        // The largest there is, without overflow.
        assert_eq!(detection_time(mult(255), 1, u32::MAX), Duration::from_micros(u64::from(u32::MAX) * 255));
    }

    #[test]
    fn jitter_stays_in_its_bounds_and_fills_them() {
        let interval = Duration::from_millis(100);
        for (detect_mult, longest) in [(1, 90), (2, 100), (3, 100), (255, 100)] {
            let mut state = 1;
            let drawn: Vec<Duration> =
                (0..10_000).map(|_| jittered(interval, mult(detect_mult), random(&mut state))).collect();
            let (least, most) = (drawn.iter().min().unwrap(), drawn.iter().max().unwrap());
            assert!(*least >= Duration::from_millis(75) && *least < Duration::from_millis(76), "{least:?}");
            let longest = Duration::from_millis(longest);
            assert!(*most <= longest && *most > longest - Duration::from_millis(1), "{most:?}");
        }
    }
}
