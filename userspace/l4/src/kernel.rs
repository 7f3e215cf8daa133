//! Everything of the kernel that an image describes: the maps, and the routes.

use std::net::IpAddr;

use aya::Ebpf;
use weir_core::{image::Image, plan::Op};
use weir_l4::maps::{Maps, MapsError};

use crate::routes::{RouteError, Routes};

/// Why the kernel did not take or give something.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KernelError {
    #[error(transparent)]
    Maps(#[from] MapsError),
    #[error(transparent)]
    Route(#[from] RouteError),
}

/// The datapath's maps and routes.
pub(crate) struct Kernel {
    pub(crate) maps: Maps,
    routes: Routes,
}

impl Kernel {
    /// Takes the maps out of a loaded object.
    pub(crate) fn new(ebpf: &mut Ebpf, routes: Routes) -> Result<Self, KernelError> {
        Ok(Self { maps: Maps::new(ebpf)?, routes })
    }

    /// Applies one operation and looks whether it is there.
    pub(crate) async fn apply(&mut self, op: &Op) -> Result<(), KernelError> {
        match op {
            Op::PutRoute(vip) => self.routes.add(IpAddr::from(*vip)).await?,
            Op::DeleteRoute(vip) => self.routes.delete(IpAddr::from(*vip)).await?,
            in_maps => self.maps.apply(in_maps)?,
        }
        Ok(())
    }

    /// Everything that is there.
    pub(crate) async fn read_back(&self) -> Result<Image, KernelError> {
        Ok(Image { routes: self.routes.read().await?, ..self.maps.read_back()? })
    }

    /// The number of the XDP program an interface has.
    pub(crate) async fn xdp(&self, interface: &str) -> Result<Option<u32>, KernelError> {
        Ok(self.routes.xdp(interface).await?)
    }

    /// The MTU of an interface.
    pub(crate) async fn mtu(&self, interface: &str) -> Result<u32, KernelError> {
        Ok(self.routes.mtu(interface).await?)
    }
}
