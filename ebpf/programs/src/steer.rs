//! sk_lookup: the service of a VIP → the listening socket its proxy registered. No VIP is bound by anybody.

use aya_ebpf::{bindings::sk_action, macros::sk_lookup, programs::SkLookupContext};
use weir_abi::{
    Address,
    service::{PROTO_TCP, PROTO_UDP},
};

use crate::maps;

const AF_INET: u32 = 2;

/// Chooses the socket for a new connection or datagram.
///
/// Always lets the kernel go on: without a registered socket an application that binds the VIP itself is found the usual
/// way, and when there is none the kernel refuses.
#[sk_lookup]
pub(crate) fn steer(ctx: SkLookupContext) -> u32 {
    steer_to_socket(&ctx);
    sk_action::SK_PASS
}

#[inline(always)]
fn steer_to_socket(ctx: &SkLookupContext) {
    let lookup = ctx.lookup;
    // Volatile, so that the compiler does not merge loads of different fields into one at a computed offset: the verifier
    // allows only constant offsets into a context.
    macro_rules! field {
        ($($place:tt)+) => {
            // SAFETY: the kernel hands a valid context to the program.
            unsafe { core::ptr::read_volatile(&raw const (*lookup).$($place)+) }
        };
    }
    let (family, protocol, local_port) = (field!(family), field!(protocol) as u8, field!(local_port));
    if protocol != PROTO_TCP && protocol != PROTO_UDP {
        return;
    }
    let v4 = field!(local_ip4);
    let v6 = [field!(local_ip6[0]), field!(local_ip6[1]), field!(local_ip6[2]), field!(local_ip6[3])];
    let address = if family == AF_INET { Address::v4(v4.to_ne_bytes()) } else { Address(v6) };
    let port = (local_port as u16).to_be_bytes();
    if let Ok(service) = maps::service_index(&address, port, protocol) {
        // An empty slot is no error: nobody registered for the service yet.
        let _ = maps::SOCKETS.redirect_sk_lookup(ctx, service, 0);
    }
}
