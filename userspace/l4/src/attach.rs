//! Puts the programs in force by pinned links: a program already there is replaced in one step, none is ever detached.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    programs::{
        ProgramError, SkLookup, Xdp, XdpMode,
        links::{FdLink, LinkError, PinnedLink},
        xdp::XdpLink,
    },
};
use weir_abi::programs;
use weir_model::status::InterfaceStatus;

/// Why a program could not be put in force.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttachError {
    #[error("attach the balancer to {0}: {1}")]
    Xdp(String, ProgramError),
    #[error("attach the balancer to {0}: another XDP program is there, which is not ours")]
    Occupied(String),
    #[error("link of {0}: {1}")]
    Link(String, LinkError),
    #[error("pin the link of {0}: {1}")]
    Pin(String, Box<dyn std::error::Error + Send + Sync>),
    #[error("attach sk_lookup to this network namespace: {0}")]
    SkLookup(ProgramError),
    #[error("open the network namespace: {0}")]
    Namespace(io::Error),
    #[error("replace the sk_lookup link: {0}")]
    Replace(io::Error),
    #[error("the object has no usable program {0}")]
    NoProgram(&'static str),
}

/// Where the link of an interface is pinned.
fn link_path(pin_dir: &Path, interface: &str) -> PathBuf {
    pin_dir.join(format!("xdp-{interface}"))
}

/// Puts the balancer on an interface.
pub(crate) fn xdp(
    ebpf: &mut Ebpf,
    interface: &str,
    pin_dir: &Path,
    generic: bool,
) -> Result<InterfaceStatus, AttachError> {
    let program: &mut Xdp = ebpf
        .program_mut(programs::BALANCER)
        .and_then(|program| program.try_into().ok())
        .ok_or(AttachError::NoProgram(programs::BALANCER))?;
    let path = link_path(pin_dir, interface);
    let mode_path = pin_dir.join(format!("mode-{interface}"));
    if path.exists() {
        match replace(program, &path) {
            Ok(()) => {
                let mode = if mode_path.exists() { "generic" } else { "native" };
                return Ok(status(interface, mode));
            }
            // The interface the link belonged to is gone and another has its name.
            Err(error) => tracing::warn!("{interface}: pinned link is of no use, attaching anew: {error}"),
        }
        std::fs::remove_file(&path).map_err(AttachError::Replace)?;
    }
    let native = if generic { None } else { Some(program.attach(interface, XdpMode::Driver)) };
    let (id, mode) = match native {
        Some(Ok(id)) => (id, "native"),
        Some(Err(error)) if is_busy(&error) => return Err(AttachError::Occupied(interface.to_owned())),
        refused => {
            if let Some(Err(error)) = refused {
                tracing::warn!(
                    "{interface}: no native XDP, falling back to generic, which is slower: {error}"
                );
            }
            let id = program.attach(interface, XdpMode::Skb);
            (id.map_err(|error| AttachError::Xdp(interface.to_owned(), error))?, "generic")
        }
    };
    let link = program.take_link(id).map_err(|error| AttachError::Xdp(interface.to_owned(), error))?;
    let link = FdLink::try_from(link).map_err(|error| AttachError::Link(interface.to_owned(), error))?;
    link.pin(&path).map_err(|error| AttachError::Pin(interface.to_owned(), error.into()))?;
    if mode == "generic" {
        // A bpf file system holds no plain files; a directory's presence says it.
        let _for_display_only = std::fs::create_dir(&mode_path);
    }
    Ok(status(interface, mode))
}

fn replace(program: &mut Xdp, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let link: FdLink = PinnedLink::from_pin(path)?.into();
    program.attach_to_link(XdpLink::try_from(link)?)?;
    Ok(())
}

fn is_busy(error: &ProgramError) -> bool {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error() == Some(nix::libc::EBUSY),
        _ => false,
    }
}

fn status(interface: &str, mode: &str) -> InterfaceStatus {
    InterfaceStatus { name: interface.to_owned(), mode: mode.to_owned(), mtu: 0 }
}

/// Steers by sk_lookup in the namespace of this process.
///
/// Links of this kind cannot change their program: the new one is attached beside the old (both choose the same socket),
/// then takes the old one's pin.
pub(crate) fn steer(ebpf: &mut Ebpf, pin_dir: &Path) -> Result<(), AttachError> {
    let program: &mut SkLookup = ebpf
        .program_mut(programs::STEER)
        .and_then(|program| program.try_into().ok())
        .ok_or(AttachError::NoProgram(programs::STEER))?;
    let namespace = File::open("/proc/self/ns/net").map_err(AttachError::Namespace)?;
    let id = program.attach(&namespace).map_err(AttachError::SkLookup)?;
    let link: FdLink = program.take_link(id).map_err(AttachError::SkLookup)?.into();
    let (path, fresh) = (pin_dir.join("steer"), pin_dir.join("steer-new"));
    let _left_by_a_crash = std::fs::remove_file(&fresh);
    link.pin(&fresh).map_err(|error| AttachError::Pin("sk_lookup".into(), error.into()))?;
    std::fs::rename(&fresh, &path).map_err(AttachError::Replace)
}
