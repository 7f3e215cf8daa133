//! OPEN and its capabilities. RFC 4271 §4.2, RFC 5492, RFC 9072; the capabilities of RFC 2918, 4724, 4760, 6793, 7313,
//! 8538, 8654, 8950 and 9234.
//!
//! Decoding checks what can be judged without knowing the peer; whether it is the *expected* peer is
//! the session's negotiation.

use super::{AS_TRANS, Families, Family, MessageType, Notification, frame};
use bytes::{Buf, Bytes};
use std::net::Ipv4Addr;

/// Optional parameter type "Capabilities". RFC 5492 §4.
const PARAM_CAPABILITIES: u8 = 2;

/// Optional parameter type that announces extended lengths. RFC 9072 §2.
const PARAM_EXTENDED_LENGTH: u8 = 255;

/// Capability codes, <https://www.iana.org/assignments/capability-codes>.
mod code {
    pub(super) const MULTIPROTOCOL: u8 = 1;
    pub(super) const ROUTE_REFRESH: u8 = 2;
    pub(super) const EXTENDED_NEXT_HOP: u8 = 5;
    pub(super) const EXTENDED_MESSAGE: u8 = 6;
    pub(super) const ROLE: u8 = 9;
    pub(super) const GRACEFUL_RESTART: u8 = 64;
    pub(super) const FOUR_OCTET_AS: u8 = 65;
    pub(super) const ENHANCED_ROUTE_REFRESH: u8 = 70;
}

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
    /// ROUTE-REFRESH with marks. RFC 7313.
    pub enhanced_route_refresh: bool,
    /// Messages up to 65,535 octets. RFC 8654.
    pub extended_message: bool,
    /// IPv4 unicast with an IPv6 next hop. RFC 8950.
    pub extended_next_hop: bool,
    /// Graceful restart.
    pub graceful_restart: Option<GracefulRestart>,
    /// What the sender is to the receiver. RFC 9234.
    pub role: Option<PeeringRole>,
}

/// What a speaker is to its external peer. RFC 9234 §4.1, in the order of its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum PeeringRole {
    /// The sender is the peer's provider.
    Provider = 0,
    /// The sender is a route server.
    RouteServer = 1,
    /// The sender is a client of a route server.
    RouteServerClient = 2,
    /// The sender is the peer's customer.
    Customer = 3,
    /// Neither pays the other.
    Peer = 4,
}

impl PeeringRole {
    fn from_wire(value: u8) -> Option<Self> {
        use PeeringRole::{Customer, Peer, Provider, RouteServer, RouteServerClient};
        [Provider, RouteServer, RouteServerClient, Customer, Peer]
            .into_iter()
            .find(|role| *role as u8 == value)
    }

    /// Whether the two sides see their relation alike. RFC 9234 §4.2, Table 2.
    pub fn fits(self, other: Self) -> bool {
        use PeeringRole::{Customer, Peer, Provider, RouteServer, RouteServerClient};
        matches!(
            (self, other),
            (Provider, Customer)
                | (Customer, Provider)
                | (RouteServer, RouteServerClient)
                | (RouteServerClient, RouteServer)
                | (Peer, Peer)
        )
    }

    /// RFC 9234 §5: routes to a Customer, a Peer or an RS-Client carry the OTC attribute; the peer of these is what
    /// the local role says.
    pub fn marks_only_to_customer(self) -> bool {
        matches!(self, Self::Provider | Self::Peer | Self::RouteServer)
    }
}

/// The graceful restart capability. RFC 4724 §3; the N bit is RFC 8538 §2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GracefulRestart {
    /// R: the speaker has restarted.
    pub restarting: bool,
    /// N: graceful restart also for NOTIFICATION and hold timer.
    pub notification: bool,
    /// How long the other side keeps the routes, in seconds, at most 4095.
    pub restart_time_s: u16,
    /// The families routes are kept of.
    pub families: Families,
    /// F, for all of them on the way out: forwarding went on during the restart. On the way in, what the peer says of
    /// any.
    pub forwarding_preserved: bool,
}

impl GracefulRestart {
    fn encode(&self) -> Vec<u8> {
        let flags = u16::from(self.restarting) << 15 | u16::from(self.notification) << 14;
        let mut value = (flags | self.restart_time_s.min(0x0fff)).to_be_bytes().to_vec();
        for family in self.families.iter() {
            value.extend(family.afi().to_be_bytes());
            value.extend([1, u8::from(self.forwarding_preserved) << 7]);
        }
        value
    }

    fn decode(value: &[u8]) -> Option<Self> {
        let (flags, entries) = value.split_first_chunk::<2>()?;
        let flags = u16::from_be_bytes(*flags);
        let mut families = Families::default();
        let mut forwarding_preserved = false;
        let (entries, []) = entries.as_chunks::<4>() else {
            return None;
        };
        for [afi_high, afi_low, safi, flags] in entries {
            if let Some(family) = Family::from_wire(u16::from_be_bytes([*afi_high, *afi_low]), *safi) {
                families.set(family, true);
                forwarding_preserved |= flags & 0x80 != 0;
            }
        }
        Some(Self {
            restarting: flags & 0x8000 != 0,
            notification: flags & 0x4000 != 0,
            restart_time_s: flags & 0x0fff,
            families,
            forwarding_preserved,
        })
    }
}

impl Capabilities {
    /// The value of the Capabilities parameter: at most 2×6 + 2 + 8 + 2 + 3 + 12 + 6 + 2 = 47 octets.
    fn encode(&self, asn: u32) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        let mut put = |code: u8, value: &[u8]| {
            out.extend([code, value.len() as u8]);
            out.extend_from_slice(value);
        };
        for family in self.families.iter().flat_map(|families| families.iter()) {
            let [high, low] = family.afi().to_be_bytes();
            put(code::MULTIPROTOCOL, &[high, low, 0, 1]);
        }
        if self.route_refresh {
            put(code::ROUTE_REFRESH, &[]);
        }
        if self.extended_next_hop {
            // NLRI AFI 1, SAFI 1 (two octets here), next hop AFI 2.
            put(code::EXTENDED_NEXT_HOP, &[0, 1, 0, 1, 0, 2]);
        }
        if self.extended_message {
            put(code::EXTENDED_MESSAGE, &[]);
        }
        if let Some(role) = self.role {
            put(code::ROLE, &[role as u8]);
        }
        if let Some(graceful_restart) = &self.graceful_restart {
            put(code::GRACEFUL_RESTART, &graceful_restart.encode());
        }
        if self.four_octet_as {
            put(code::FOUR_OCTET_AS, &asn.to_be_bytes());
        }
        if self.enhanced_route_refresh {
            put(code::ENHANCED_ROUTE_REFRESH, &[]);
        }
        out
    }

    /// One capability of the peer. One with a length that its RFC does not know is as good as absent: RFC 5492 has no
    /// error for it.
    fn read(&mut self, code: u8, value: &[u8], long_asn: &mut Option<u32>) -> Result<(), Notification> {
        match (code, value) {
            (code::MULTIPROTOCOL, [afi_high, afi_low, _, safi]) => {
                // Its mere presence ends the implicit IPv4, also when the family is none of ours. RFC 4760 §8.
                let families = self.families.get_or_insert_default();
                if let Some(family) = Family::from_wire(u16::from_be_bytes([*afi_high, *afi_low]), *safi) {
                    families.set(family, true);
                }
            }
            (code::ROUTE_REFRESH, _) => self.route_refresh = true,
            (code::EXTENDED_NEXT_HOP, value) => {
                let (entries, _) = value.as_chunks::<6>();
                self.extended_next_hop |= entries.contains(&[0, 1, 0, 1, 0, 2]);
            }
            // RFC 8654 §3: "Capability Length … 0".
            (code::EXTENDED_MESSAGE, []) => self.extended_message = true,
            (code::ROLE, [value]) => {
                let role = PeeringRole::from_wire(*value);
                // RFC 9234 §4.2: "if multiple BGP Role Capabilities are received and not all of them have the same value, then
                // the BGP speaker MUST reject the connection using the Role Mismatch Notification".
                if self.role.is_some_and(|before| Some(before) != role) {
                    return Err(Notification::role_mismatch());
                }
                self.role = role;
            }
            (code::GRACEFUL_RESTART, value) => self.graceful_restart = GracefulRestart::decode(value),
            (code::FOUR_OCTET_AS, [a, b, c, d]) => {
                self.four_octet_as = true;
                *long_asn = Some(u32::from_be_bytes([*a, *b, *c, *d]));
            }
            (code::ENHANCED_ROUTE_REFRESH, _) => self.enhanced_route_refresh = true,
            _ => {}
        }
        Ok(())
    }
}

impl Open {
    /// The whole message.
    pub fn encode(&self) -> Bytes {
        let fixed_asn = u16::try_from(self.asn).unwrap_or(AS_TRANS);
        let capabilities = self.capabilities.encode(self.asn);
        let mut body = vec![4];
        body.extend(fixed_asn.to_be_bytes());
        body.extend(self.hold_time_s.to_be_bytes());
        body.extend(self.bgp_id.octets());
        if capabilities.is_empty() {
            body.push(0);
        } else {
            body.extend([capabilities.len() as u8 + 2, PARAM_CAPABILITIES, capabilities.len() as u8]);
            body.extend(capabilities);
        }
        frame(MessageType::Open, &body)
    }

    /// The body of an OPEN message.
    pub fn decode(body: &Bytes) -> Result<Self, Notification> {
        let Some(([version, asn_high, asn_low, hold_high, hold_low, a, b, c, d, params_len], params)) =
            body.split_first_chunk()
        else {
            return Err(Notification::open_unspecific());
        };
        // First of all: another version may have another layout.
        if *version != 4 {
            return Err(Notification::unsupported_version());
        }
        let fixed_asn = u16::from_be_bytes([*asn_high, *asn_low]);
        let hold_time_s = u16::from_be_bytes([*hold_high, *hold_low]);
        let bgp_id = Ipv4Addr::new(*a, *b, *c, *d);
        let (params, extended) = parameters(*params_len, params).ok_or_else(Notification::open_unspecific)?;
        let mut capabilities = Capabilities::default();
        let mut long_asn = None;
        read_parameters(params, extended, &mut capabilities, &mut long_asn)?;
        let asn = long_asn.unwrap_or(u32::from(fixed_asn));
        // RFC 7607 §2: "If a BGP speaker receives zero as the peer AS in an OPEN message, it MUST abort the connection
        // and send a NOTIFICATION with Error Code OPEN Message Error and subcode Bad Peer AS."
        if asn == 0 || fixed_asn == 0 {
            return Err(Notification::bad_peer_as());
        }
        if bgp_id.is_unspecified() {
            return Err(Notification::bad_bgp_identifier());
        }
        // RFC 4271 §6.2: "An implementation MUST reject Hold Time values of one or two seconds."
        if matches!(hold_time_s, 1 | 2) {
            return Err(Notification::unacceptable_hold_time());
        }
        Ok(Self { asn, hold_time_s, bgp_id, capabilities })
    }
}

/// The optional parameters, and whether their lengths have two octets; `None` when the length of all is a lie.
fn parameters(len: u8, rest: &[u8]) -> Option<(&[u8], bool)> {
    // RFC 9072 §2: "If the value of the 'Non-Ext OP Type' field is 255, then the encoding described above is used",
    // whatever the length before it, unless that is zero.
    if len != 0
        && let Some((&[PARAM_EXTENDED_LENGTH, high, low], params)) = rest.split_first_chunk()
    {
        return (params.len() == usize::from(u16::from_be_bytes([high, low]))).then_some((params, true));
    }
    (rest.len() == usize::from(len)).then_some((rest, false))
}

fn read_parameters(
    mut params: &[u8],
    extended: bool,
    capabilities: &mut Capabilities,
    long_asn: &mut Option<u32>,
) -> Result<(), Notification> {
    let unspecific = Notification::open_unspecific;
    while params.has_remaining() {
        let param_type = params.get_u8();
        let len = if extended {
            usize::from(params.try_get_u16().map_err(|_| unspecific())?)
        } else {
            usize::from(params.try_get_u8().map_err(|_| unspecific())?)
        };
        let (mut value, rest) = params.split_at_checked(len).ok_or_else(unspecific)?;
        params = rest;
        if param_type != PARAM_CAPABILITIES {
            return Err(Notification::unsupported_optional_parameter());
        }
        while let Some((&[code, len], rest)) = value.split_first_chunk() {
            let (capability, rest) = rest.split_at_checked(usize::from(len)).ok_or_else(unspecific)?;
            capabilities.read(code, capability, long_asn)?;
            value = rest;
        }
        if !value.is_empty() {
            return Err(unspecific());
        }
    }
    Ok(())
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
                ..Capabilities::default()
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
        let restart = GracefulRestart {
            restarting: true,
            notification: true,
            restart_time_s: 120,
            families: Families::IPV4,
            forwarding_preserved: true,
        };
        for graceful_restart in [None, Some(restart)] {
            let mut sent = open();
            sent.capabilities.graceful_restart = graceful_restart;
            assert_eq!(Open::decode(&body(&sent.encode())), Ok(sent.clone()));
            sent.capabilities = Capabilities {
                enhanced_route_refresh: true,
                extended_message: true,
                extended_next_hop: true,
                role: Some(PeeringRole::Customer),
                ..sent.capabilities
            };
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
            forwarding_preserved: true,
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

    #[test]
    fn a_capability_of_a_strange_length_is_as_good_as_absent() {
        for capability in
            [&[1u8, 3, 0, 1, 1][..], &[65, 2, 0, 1], &[64, 1, 0], &[64, 3, 0, 120, 0], &[6, 1, 0], &[9, 0]]
        {
            let mut bytes = vec![4, 0xfd, 0xe8, 0, 90, 10, 0, 0, 1];
            bytes.extend([capability.len() as u8 + 2, 2, capability.len() as u8]);
            bytes.extend(capability);
            let open = Open::decode(&Bytes::from(bytes)).unwrap_or_else(|n| panic!("{capability:?}: {n}"));
            assert_eq!((open.asn, open.capabilities), (65000, Capabilities::default()), "{capability:?}");
        }
    }

    #[test]
    fn extended_parameter_lengths_are_read() {
        let mut bytes = vec![4, 0xfd, 0xe8, 0, 90, 10, 0, 0, 1, 255, 255];
        let mut params = vec![2, 0, 2, 2, 0];
        // A strange capability that makes the whole longer than a short length can say.
        params.extend([2, 1, 0]);
        params.extend([200, 254]);
        params.extend([7; 254]);
        bytes.extend((params.len() as u16).to_be_bytes());
        bytes.extend(&params);
        let open = Open::decode(&Bytes::from(bytes.clone())).expect("RFC 9072");
        assert!(open.capabilities.route_refresh);
        bytes[12] ^= 1;
        assert_eq!(Open::decode(&Bytes::from(bytes)).map_err(|n| (n.code, n.subcode)), Err((2, 0)));
    }

    #[test]
    fn roles_fit_as_the_table_says_and_two_different_ones_are_a_mismatch() {
        use PeeringRole::{Customer, Peer, Provider, RouteServer, RouteServerClient};
        let fitting: usize = [Provider, RouteServer, RouteServerClient, Customer, Peer]
            .iter()
            .flat_map(|a| {
                [Provider, RouteServer, RouteServerClient, Customer, Peer].map(|b| usize::from(a.fits(b)))
            })
            .sum();
        assert_eq!(fitting, 5);
        let two = |second: u8| {
            let mut bytes = vec![4, 0xfd, 0xe8, 0, 90, 10, 0, 0, 1, 8, 2, 6, 9, 1, 3];
            bytes.extend([9, 1, second]);
            Open::decode(&Bytes::from(bytes))
                .map(|open| open.capabilities.role)
                .map_err(|n| (n.code, n.subcode))
        };
        assert_eq!(two(3), Ok(Some(Customer)));
        assert_eq!(two(4), Err((2, 11)));
    }
}
