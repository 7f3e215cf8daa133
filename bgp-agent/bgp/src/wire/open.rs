//! OPEN and its capabilities. RFC 4271 §4.2, RFC 5492, RFC 4760 §8, RFC 6793 §3, RFC 4724 §3.
//!
//! Decoding checks what can be judged without knowing the peer; whether it is the *expected* peer is
//! the session's negotiation.

use super::{AS_TRANS, Families, MessageType, Notification, frame};
use bgpkit_parser::models::capabilities::{
    BgpCapabilityType, FourOctetAsCapability, MultiprotocolExtensionsCapability, RouteRefreshCapability,
};
use bgpkit_parser::models::{
    Afi, Asn, BgpOpenMessage, Capability, CapabilityValue, OptParam, ParamValue, Safi,
};
use bgpkit_parser::parser::bgp::messages::parse_bgp_open_message;
use bytes::Bytes;
use std::net::Ipv4Addr;

/// Optional parameter type "Capabilities". RFC 5492 §4.
const PARAM_CAPABILITIES: u8 = 2;

/// What one side offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// The AS number: of the 4-octet capability when there, else of the fixed field.
    pub asn: u32,
    /// Seconds; 0 means no keepalives and no hold timer. 1 and 2 do not exist.
    pub hold_time_s: u16,
    /// Never 0.0.0.0.
    pub bgp_id: Ipv4Addr,
    /// The capabilities that mean something here.
    pub capabilities: Capabilities,
}

/// The capabilities this speaker knows; others are ignored, as RFC 5492 §3 wants.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// Multiprotocol extensions. `None`: the capability is absent, which means IPv4 unicast only.
    pub families: Option<Families>,
    /// 4-octet AS numbers.
    pub four_octet_as: bool,
    /// ROUTE-REFRESH.
    pub route_refresh: bool,
    /// Graceful restart.
    pub graceful_restart: Option<GracefulRestart>,
}

/// The graceful restart capability. RFC 4724 §3; the N bit is RFC 8538 §2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GracefulRestart {
    /// The speaker has restarted.
    pub restarting: bool,
    /// Graceful restart also for NOTIFICATION and hold timer.
    pub notification: bool,
    /// How long the other side keeps the routes, in seconds, at most 4095.
    pub restart_time_s: u16,
    /// The families whose forwarding state is kept.
    pub families: Families,
}

impl GracefulRestart {
    // By hand because the codec knows no N bit.
    fn encode(&self) -> Vec<u8> {
        let flags = u16::from(self.restarting) << 15 | u16::from(self.notification) << 14;
        let mut value = (flags | self.restart_time_s.min(0x0fff)).to_be_bytes().to_vec();
        for (has, afi) in [(self.families.ipv4, 1), (self.families.ipv6, 2)] {
            if has {
                value.extend([0, afi, 1, 0x80]);
            }
        }
        value
    }

    fn decode(restarting: bool, restart_time_s: u16, families: Families) -> Self {
        Self { restarting, notification: false, restart_time_s, families }
    }
}

impl Open {
    /// The whole message.
    pub fn encode(&self) -> Bytes {
        let fixed_asn = u16::try_from(self.asn).unwrap_or(AS_TRANS);
        let mut capabilities = Vec::new();
        if let Some(families) = self.capabilities.families {
            for (has, afi) in [(families.ipv4, Afi::Ipv4), (families.ipv6, Afi::Ipv6)] {
                if has {
                    capabilities.push(Capability {
                        ty: BgpCapabilityType::MULTIPROTOCOL_EXTENSIONS_FOR_BGP_4,
                        value: CapabilityValue::MultiprotocolExtensions(
                            MultiprotocolExtensionsCapability::new(afi, Safi::Unicast),
                        ),
                    });
                }
            }
        }
        if self.capabilities.route_refresh {
            capabilities.push(Capability {
                ty: BgpCapabilityType::ROUTE_REFRESH_CAPABILITY_FOR_BGP_4,
                value: CapabilityValue::RouteRefresh(RouteRefreshCapability::new()),
            });
        }
        if let Some(graceful_restart) = &self.capabilities.graceful_restart {
            capabilities.push(Capability {
                ty: BgpCapabilityType::GRACEFUL_RESTART_CAPABILITY,
                value: CapabilityValue::Raw(graceful_restart.encode()),
            });
        }
        if self.capabilities.four_octet_as {
            capabilities.push(Capability {
                ty: BgpCapabilityType::SUPPORT_FOR_4_OCTET_AS_NUMBER_CAPABILITY,
                value: CapabilityValue::FourOctetAs(FourOctetAsCapability::new(self.asn)),
            });
        }
        let opt_params = if capabilities.is_empty() {
            Vec::new()
        } else {
            vec![OptParam {
                param_type: PARAM_CAPABILITIES,
                param_value: ParamValue::Capacities(capabilities),
            }]
        };
        let message = BgpOpenMessage {
            version: 4,
            asn: Asn::new_16bit(fixed_asn),
            hold_time: self.hold_time_s,
            bgp_identifier: self.bgp_id,
            extended_length: false,
            opt_params,
        };
        // The capabilities above take at most 2×6 + 2 + 12 + 6 bytes: no length field can overflow.
        let body = message.encode().expect("the capabilities of an own OPEN fit its length fields");
        frame(MessageType::Open, &body)
    }

    /// The body of an OPEN message.
    pub fn decode(body: &Bytes) -> Result<Self, Notification> {
        let [version, _, _, _, _, _, _, _, _, params_len] =
            *body.first_chunk().ok_or_else(Notification::open_unspecific)?;
        // First of all: another version may have another layout.
        if version != 4 {
            return Err(Notification::unsupported_version());
        }
        // RFC 9072 §2: 255 may announce a longer length field behind it, which the codec reads.
        if params_len != u8::MAX && usize::from(params_len) != body.len() - 10 {
            return Err(Notification::open_unspecific());
        }
        let message =
            parse_bgp_open_message(&mut body.clone()).map_err(|_| Notification::open_unspecific())?;
        let fixed_asn = u32::from(message.asn);
        let mut capabilities = Capabilities::default();
        let mut long_asn = None;
        for param in &message.opt_params {
            match &param.param_value {
                ParamValue::Capacities(list) => {
                    for capability in list {
                        read_capability(capability, &mut capabilities, &mut long_asn);
                    }
                }
                ParamValue::Raw(_) => return Err(Notification::unsupported_optional_parameter()),
            }
        }
        let asn = long_asn.unwrap_or(fixed_asn);
        // RFC 7607 §2: "If a BGP speaker receives zero as the peer AS in an OPEN message, it MUST abort the connection
        // and send a NOTIFICATION with Error Code OPEN Message Error and subcode Bad Peer AS."
        if asn == 0 || fixed_asn == 0 {
            return Err(Notification::bad_peer_as());
        }
        if message.bgp_identifier.is_unspecified() {
            return Err(Notification::bad_bgp_identifier());
        }
        // RFC 4271 §6.2: "An implementation MUST reject Hold Time values of one or two seconds."
        if matches!(message.hold_time, 1 | 2) {
            return Err(Notification::unacceptable_hold_time());
        }
        Ok(Self { asn, hold_time_s: message.hold_time, bgp_id: message.bgp_identifier, capabilities })
    }
}

fn read_capability(capability: &Capability, into: &mut Capabilities, long_asn: &mut Option<u32>) {
    match &capability.value {
        CapabilityValue::MultiprotocolExtensions(mp) => {
            // Its mere presence ends the implicit IPv4, also when the family is none of ours. RFC 4760 §8.
            let families = into.families.get_or_insert_default();
            match (mp.afi, mp.safi) {
                (Afi::Ipv4, Safi::Unicast) => families.ipv4 = true,
                (Afi::Ipv6, Safi::Unicast) => families.ipv6 = true,
                _ => {}
            }
        }
        CapabilityValue::FourOctetAs(four) => {
            into.four_octet_as = true;
            *long_asn = Some(four.asn);
        }
        CapabilityValue::RouteRefresh(_) => into.route_refresh = true,
        CapabilityValue::GracefulRestart(restart) => {
            let mut families = Families::default();
            for entry in &restart.address_families {
                match (entry.afi, entry.safi) {
                    (Afi::Ipv4, Safi::Unicast) => families.ipv4 = true,
                    (Afi::Ipv6, Safi::Unicast) => families.ipv6 = true,
                    _ => {}
                }
            }
            into.graceful_restart =
                Some(GracefulRestart::decode(restart.restart_state, restart.restart_time, families));
        }
        CapabilityValue::ExtendedNextHop(_)
        | CapabilityValue::AddPath(_)
        | CapabilityValue::BgpRole(_)
        | CapabilityValue::BgpExtendedMessage(_)
        | CapabilityValue::Raw(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> Open {
        Open {
            asn: 4_200_000_001,
            hold_time_s: 90,
            bgp_id: Ipv4Addr::new(10, 0, 1, 2),
            capabilities: Capabilities {
                families: Some(Families::BOTH),
                four_octet_as: true,
                route_refresh: true,
                graceful_restart: None,
            },
        }
    }

    fn body(message: &Bytes) -> Bytes {
        message.slice(super::super::HEADER_LEN..)
    }

    #[test]
    fn an_open_has_these_bytes() {
        let mut golden = vec![0xff; 16];
        golden.extend([0, 51, 1]);
        golden.extend([4, /* AS_TRANS */ 0x5b, 0xa0, /* hold */ 0, 90, /* id */ 10, 0, 1, 2]);
        golden.extend([22, /* capabilities */ 2, 20]);
        golden.extend([1, 4, 0, 1, 0, 1]);
        golden.extend([1, 4, 0, 2, 0, 1]);
        golden.extend([2, 0]);
        golden.extend([65, 4, 0xfa, 0x56, 0xea, 0x01]);
        assert_eq!(open().encode(), golden);
    }

    #[test]
    fn an_open_survives_the_wire() {
        for graceful_restart in [None, Some(GracefulRestart::decode(true, 120, Families::BOTH))] {
            let mut sent = open();
            sent.capabilities.graceful_restart = graceful_restart;
            assert_eq!(Open::decode(&body(&sent.encode())), Ok(sent));
        }
    }

    #[test]
    fn graceful_restart_carries_the_n_bit() {
        let capability = GracefulRestart {
            restarting: true,
            notification: true,
            restart_time_s: 0x123,
            families: Families::BOTH,
        };
        assert_eq!(capability.encode(), [0xc1, 0x23, 0, 1, 1, 0x80, 0, 2, 1, 0x80]);
    }

    #[test]
    fn opens_that_must_be_refused() {
        let plain = |f: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = vec![4, 0xfd, 0xe8, 0, 90, 10, 0, 0, 1, 0];
            f(&mut bytes);
            Open::decode(&Bytes::from(bytes)).map_err(|n| (n.code, n.subcode, n.data.to_vec()))
        };
        assert_eq!(plain(&|_| ()).map(|open| open.asn), Ok(65000));
        type Case = (&'static str, &'static dyn Fn(&mut Vec<u8>), (u8, u8, Vec<u8>));
        let table: &[Case] = &[
            ("version 3", &|b| b[0] = 3, (2, 1, vec![0, 4])),
            ("AS 0", &|b| b[1..3].fill(0), (2, 2, vec![])),
            ("identifier 0", &|b| b[5..9].fill(0), (2, 3, vec![])),
            ("hold time 1", &|b| b[4] = 1, (2, 6, vec![])),
            ("hold time 2", &|b| b[4] = 2, (2, 6, vec![])),
            ("parameters longer than the message", &|b| b[9] = 4, (2, 0, vec![])),
            ("bytes behind the parameters", &|b| b.extend([2, 0]), (2, 0, vec![])),
            (
                "authentication parameter",
                &|b| {
                    b[9] = 3;
                    b.extend([1, 1, 0])
                },
                (2, 4, vec![]),
            ),
            (
                "truncated capability",
                &|b| {
                    b[9] = 4;
                    b.extend([2, 2, 65, 4])
                },
                (2, 0, vec![]),
            ),
            (
                "AS 0 in the capability",
                &|b| {
                    b[9] = 8;
                    b.extend([2, 6, 65, 4, 0, 0, 0, 0])
                },
                (2, 2, vec![]),
            ),
        ];
        for (name, change, expected) in table {
            assert_eq!(plain(change), Err(expected.clone()), "{name}");
        }
    }

    #[test]
    fn unknown_capabilities_are_ignored() {
        let mut bytes = vec![4, 0xfd, 0xe8, 0, 90, 10, 0, 0, 1, 8];
        bytes.extend([2, 6, 200, 0, 1, 2, 9, 9]);
        let open = Open::decode(&Bytes::from(bytes)).expect("a strange capability is no error");
        assert_eq!(open.capabilities, Capabilities::default());
    }
}
