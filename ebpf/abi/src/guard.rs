//! Protection: which sources may come, and how fast they and all together may open connections.

use crate::Address;

/// [`Config::guarded`](crate::Config::guarded): there are access lists.
pub const GUARDED_ACCESS: u32 = 1 << 0;
/// [`Config::guarded`](crate::Config::guarded): some services limit new connections.
pub const GUARDED_RATES: u32 = 1 << 1;

/// A client, or a prefix of them, towards one VIP or all.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// Whose client: twice a [`Guard::scope`], one more for IPv4. So no IPv6 prefix holds an IPv4 address.
    pub scope: u32,
    /// Its address.
    pub address: Address,
}
pod!(Source, 20);

impl Source {
    /// A client of `scope`, which is 0 for all VIPs.
    #[inline(always)]
    pub const fn new(scope: u32, address: Address) -> Self {
        Self { scope: scope << 1 | address.is_v4() as u32, address }
    }

    /// The number of the VIP, or 0 for all.
    pub const fn vip(&self) -> u32 {
        self.scope >> 1
    }
}

/// Bits of a [`Source`] before its address.
pub const SOURCE_SCOPE_BITS: u32 = 32;
/// Bits of a whole [`Source`].
pub const SOURCE_BITS: u32 = SOURCE_SCOPE_BITS + 128;

/// Key of `ACCESS`: a prefix of sources. The layout is that of the kernel's `bpf_lpm_trie_key`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourcePrefix {
    /// How many bits of `source` count, [`SOURCE_SCOPE_BITS`] at least; of an IPv4 address 96 more than are written.
    pub len_bits: u32,
    /// The prefix; zero beyond its length.
    pub source: Source,
}
pod!(SourcePrefix, 24);

impl SourcePrefix {
    /// Whether it holds a whole source, as the kernel's tries have it.
    pub const fn holds(&self, source: &Source) -> bool {
        let ours = u128::from_be_bytes(self.source.address.octets());
        let differing = ours ^ u128::from_be_bytes(source.address.octets());
        self.source.scope == source.scope
            && self.len_bits >= SOURCE_SCOPE_BITS
            && self.len_bits <= SOURCE_BITS
            && differing.leading_zeros() >= self.len_bits - SOURCE_SCOPE_BITS
    }
}

/// [`AccessRule::action`]: sources of the prefix are dropped.
pub const ACCESS_BLOCK: u8 = 1;
/// [`AccessRule::action`]: sources of the prefix may come, whatever shorter prefixes say.
pub const ACCESS_ALLOW: u8 = 2;

/// [`AccessRule::list`]: no list names the source, and only those of a list may come.
pub const LIST_DEFAULT: u16 = 0;
/// [`AccessRule::list`]: an entry of the moment, in no file.
pub const LIST_MOMENT: u16 = 1;
/// [`AccessRule::list`]: the first number of a list in a file.
pub const LIST_FIRST: u16 = 2;

/// What an entry of an access list says of its prefix.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccessRule {
    /// Until when, in seconds since the host booted (CLOCK_BOOTTIME); 0 without end.
    pub until_s: u32,
    /// Where its hits are counted.
    pub list: u16,
    /// [`ACCESS_BLOCK`] or [`ACCESS_ALLOW`].
    pub action: u8,
    /// Bits of the address that count: [`SourcePrefix::len_bits`] less [`SOURCE_SCOPE_BITS`].
    pub len_bits: u8,
}
pod!(AccessRule, 8);

impl AccessRule {
    /// Whether it holds, `boot_s` seconds after the boot.
    #[inline(always)]
    pub const fn holds(&self, boot_s: u32) -> bool {
        self.until_s == 0 || boot_s < self.until_s
    }
}

/// How a service is protected: the value of `GUARDS`. Each part counts only with its bit in
/// [`Service::flags`](crate::service::Service::flags).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Guard {
    /// The VIP's number, equal for all its services; from 1.
    pub scope: u32,
    /// Non-zero when only sources of a list may come.
    pub only_allowed: u32,
    /// New connections of a source: one in this time,
    pub source_interval_ns: u32,
    /// after so many at once.
    pub source_burst: u32,
    /// SYNs per CPU before cookies are thought of: one in this time.
    pub cookie_interval_ns: u32,
    /// SYNs per CPU at all: one in this time.
    pub syn_interval_ns: u32,
    /// MSS told to IPv4 clients in answers with a cookie.
    pub mss4: u16,
    /// The same for IPv6.
    pub mss6: u16,
}
pod!(Guard, 28);
