//! The loaded datapath run on a single frame: program `probe`, on the maps in use, attached nowhere.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use aya::{
    Ebpf,
    programs::{TestRun, TestRunOptions, Xdp},
};
use weir_abi::{
    counters::{REASONS, Reason},
    programs,
};
use weir_core::datapath::{Action, Seen};

/// What tunnels and tags add at most.
const GROWTH_LEN_MAX: usize = 256;

/// Holds the loaded object, whose program `probe` is put into the kernel when it is first asked for. Cheap to clone.
#[derive(Clone)]
pub(crate) struct TestRunner(Arc<Mutex<Loaded>>);

struct Loaded {
    ebpf: Ebpf,
    /// The interface test packets come in on.
    ingress: u32,
}

impl TestRunner {
    /// Takes what is left of the object.
    pub(crate) fn new(ebpf: Ebpf, interface: &str) -> Self {
        let ingress = nix::net::if_::if_nametoindex(interface).unwrap_or_default();
        Self(Arc::new(Mutex::new(Loaded { ebpf, ingress })))
    }

    /// What the loaded datapath does with a frame. It counts it for its service if it is balanced, and remembers it if it is a
    /// first fragment; it counts no reason.
    pub(crate) fn run(&self, frame: &[u8]) -> anyhow::Result<Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).run(frame)
    }

    /// Whether a tunnel that ends here is opened and delivered; else why not.
    pub(crate) fn delivers(&self, frame: &[u8]) -> Result<(), String> {
        match self.run(frame) {
            // A SYN answered with a cookie would have been delivered.
            Ok(seen) if matches!(seen.reason, Reason::DecapDeliver | Reason::SynCookie) => Ok(()),
            Ok(seen) => {
                let name = REASONS.iter().find(|(reason, _)| *reason == seen.reason).map_or("?", |(_, n)| n);
                Err(format!("the loaded program does not deliver it: {name}"))
            }
            Err(error) => Err(format!("run the loaded program: {error:#}")),
        }
    }

    /// The kernel's number of the balancer that was loaded.
    pub(crate) fn balancer_id(&self) -> Option<u32> {
        let loaded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Some(loaded.ebpf.program(programs::BALANCER)?.info().ok()?.id())
    }
}

impl Loaded {
    fn run(&mut self, frame: &[u8]) -> anyhow::Result<Seen> {
        let program = self.ebpf.program_mut(programs::PROBE).context("the object has no program probe")?;
        let program: &mut Xdp = program.try_into()?;
        if program.fd().is_err() {
            program.load()?;
        }
        let mut out = vec![0; frame.len() + GROWTH_LEN_MAX];
        // struct xdp_md: data, data_end, data_meta, ingress, queue, egress.
        let context = [0, frame.len() as u32, 0, self.ingress, 0, 0].map(u32::to_ne_bytes).concat();
        let mut run = |context| {
            let out = Some(out.as_mut_slice());
            program.test_run(TestRunOptions {
                data_in: Some(frame),
                data_out: out,
                ctx_in: context,
                ..TestRunOptions::default()
            })
        };
        // Kernels before 5.15 know no context: there the packet comes in on the loopback interface.
        let result = match run(Some(&context)) {
            Ok(result) => result,
            Err(_) => run(None)?,
        };
        out.truncate(result.data_size_out as usize);
        let reason = result.return_value >> programs::PROBE_REASON_SHIFT;
        let (reason, _) = REASONS.get(reason as usize).context("a reason nobody knows")?;
        let action = match result.return_value & programs::PROBE_ACTION_MASK {
            2 => Action::Pass,
            3 => Action::Transmit,
            4 => Action::Redirect(0),
            _ => Action::Drop,
        };
        Ok(Seen { reason: *reason, action, frame: out })
    }
}
