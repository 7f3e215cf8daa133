//! How large a client's TCP segments may be so that they fit into tunnels: for the listeners of the proxies, and for the
//! answers the datapath makes itself.

use std::{collections::BTreeMap, net::IpAddr};

use weir_abi::gue::{OVERHEAD_LEN_BYTES_MAX, OVERHEAD_V4_LEN_BYTES};
use weir_model::{MssClamp, Snapshot, Vip};

use super::Image;

/// What goes in front of a segment: IPv4 and TCP,
const HEADERS4_LEN_BYTES: u32 = 40;
/// or IPv6 and TCP.
const HEADERS6_LEN_BYTES: u32 = 60;
/// What the Internet carries, most of the time.
const INTERNET_MTU: u32 = 1_500;

/// The largest segment clients are to send to each address of a VIP, in bytes; addresses of which the kernel decides are left out.
pub fn clamps(snapshot: &Snapshot, image: &Image) -> BTreeMap<IpAddr, u16> {
    let vips = snapshot.vips.values().filter(|vip| vip.pool.is_none());
    let addresses = vips.flat_map(|vip| vip.addresses.iter().map(move |address| (vip, *address)));
    addresses.filter_map(|(vip, address)| Some((address, clamp(image, vip, address)?))).collect()
}

fn clamp(image: &Image, vip: &Vip, address: IpAddr) -> Option<u16> {
    match vip.mss_clamp {
        MssClamp::Off => None,
        MssClamp::Bytes(bytes) => Some(bytes),
        MssClamp::Tunnel => {
            let headers = if address.is_ipv4() { HEADERS4_LEN_BYTES } else { HEADERS6_LEN_BYTES };
            u16::try_from(fits(image)? - headers).ok()
        }
    }
}

/// The MSS in answers to SYNs that the datapath makes itself, by IPv4 and IPv6: they have no interface whose MTU would limit it.
pub(super) fn of_cookies(image: &Image, vip: &Vip) -> (u16, u16) {
    let packet = fits(image).unwrap_or(INTERNET_MTU).min(INTERNET_MTU);
    let (v4, v6) = ((packet - HEADERS4_LEN_BYTES) as u16, (packet - HEADERS6_LEN_BYTES) as u16);
    match vip.mss_clamp {
        MssClamp::Bytes(bytes) => (v4.min(bytes), v6.min(bytes)),
        MssClamp::Tunnel | MssClamp::Off => (v4, v6),
    }
}

/// Bytes of the largest packet any tunnel takes, where the MTU is known; never less than every host takes (RFC 1122 §3.3.3).
fn fits(image: &Image) -> Option<u32> {
    let overhead = if image.config.has_v6 != 0 { OVERHEAD_LEN_BYTES_MAX } else { OVERHEAD_V4_LEN_BYTES };
    match image.config.mtu {
        0 => None,
        mtu => Some(mtu.saturating_sub(overhead).max(576)),
    }
}

#[cfg(test)]
mod tests {
    use weir_model::SourceFile;

    use super::*;

    fn clamped(clamp: &str, mtu: u32, has_v6: u8) -> (Vec<u16>, (u16, u16)) {
        let text = format!(
            "[zone.az1]\n[node.h1]\nzone = \"az1\"\naddress = \"10.0.0.1\"\naddress6 = \"fd00::1\"\n[group.edge]\nnodes = [\"h1\"]\n\
             [vip.web]\naddresses = [\"198.51.100.10\", \"2001:db8::10\"]\ngroup = \"edge\"\nservices = [\"tcp/80\"]\n{clamp}"
        );
        let snapshot = Snapshot::read(&[SourceFile { path: "one.toml".into(), text }]).unwrap();
        let mut image = Image::default();
        image.config.mtu = mtu;
        image.config.has_v6 = has_v6.into();
        let vip = snapshot.vips.values().next().unwrap();
        (clamps(&snapshot, &image).into_values().collect(), of_cookies(&image, vip))
    }

    #[test]
    fn segments_fit_into_tunnels_unless_somebody_knows_better() {
        let (v4, v6) = (OVERHEAD_V4_LEN_BYTES as u16, OVERHEAD_LEN_BYTES_MAX as u16);
        assert_eq!(clamped("", 1_500, 0), (vec![1_460 - v4, 1_440 - v4], (1_460 - v4, 1_440 - v4)));
        assert_eq!(clamped("", 1_500, 1), (vec![1_460 - v6, 1_440 - v6], (1_460 - v6, 1_440 - v6)));
        assert_eq!(clamped("", 9_000, 1).0, [8_960 - v6, 8_940 - v6]);
        assert_eq!(clamped("", 9_000, 1).1, (1_460, 1_440), "an answer of ours knows no path");
        assert_eq!(clamped("", 0, 1), (vec![], (1_460, 1_440)), "no MTU is known");
        assert_eq!(clamped("", 100, 1).0, [536, 516]);
        assert_eq!(clamped("mss_clamp = \"off\"", 1_500, 0), (vec![], (1_460 - v4, 1_440 - v4)));
        assert_eq!(clamped("mss_clamp = 1200", 1_500, 0), (vec![1_200, 1_200], (1_200, 1_200)));
        assert_eq!(clamped("mss_clamp = 1460", 1_500, 0).0, [1_460, 1_460]);
    }
}
