//! Answers to those who look into the datapath: one packet through the program, or packets as they come.

use anyhow::{Context, ensure};
use aya::{
    Ebpf,
    programs::{TestRun, TestRunOptions, Xdp},
};
use weir_abi::{counters::REASONS, programs};
use weir_core::{
    datapath::{Action, Names, Seen, fit, from_hex},
    image::Image,
};
use weir_runtime::inspect::{Answer, Ask, Asked};

use weir_l4::maps::MapsError;

use crate::capture::Tap;

/// What the kernel takes as a test packet without fragments of it.
const FRAME_LEN: std::ops::RangeInclusive<usize> = 14..=3_400;
/// What tunnels and tags add at most.
const GROWTH_LEN_MAX: usize = 256;

/// Holds the loaded object, whose program `probe` is put into the kernel when it is first asked for.
pub(crate) struct Inspector {
    ebpf: Ebpf,
    tap: Tap,
    /// The interface test packets come in on.
    ingress: u32,
}

impl Inspector {
    /// Takes what is left of the object.
    pub(crate) fn new(mut ebpf: Ebpf, interface: &str) -> Result<Self, MapsError> {
        let tap = Tap::new(&mut ebpf)?;
        let ingress = nix::net::if_::if_nametoindex(interface).unwrap_or_default();
        Ok(Self { ebpf, tap, ingress })
    }

    /// Answers, `boot_s` seconds after the boot, without keeping the caller waiting for the client.
    pub(crate) fn answer(&mut self, asked: Asked, image: &Image, names: &Names, boot_s: u32) {
        match &asked.ask {
            Ask::Run(hex) => {
                let answer = match self.run(hex, image, names, boot_s) {
                    Ok(answer) => answer,
                    Err(error) => Answer::Refused(format!("{error:#}")),
                };
                tokio::spawn(async move { asked.answer(&answer).await.map(drop) });
            }
            Ask::Capture(filter) => match self.tap.begin(filter) {
                Ok(session) => {
                    tracing::info!(?filter, "a capture begins");
                    tokio::spawn(async move {
                        if let Ok(client) = asked.answer(&Answer::Capturing).await {
                            session.serve(client).await;
                        }
                        tracing::info!("the capture has ended");
                    });
                }
                Err(why) => {
                    tokio::spawn(async move { asked.answer(&Answer::Refused(why)).await.map(drop) });
                }
            },
        }
    }

    fn run(&mut self, hex: &str, image: &Image, names: &Names, boot_s: u32) -> anyhow::Result<Answer> {
        let frame = from_hex(hex).context("not a frame in hex")?;
        ensure!(
            FRAME_LEN.contains(&frame.len()),
            "the kernel runs frames of {} to {} bytes, this one has {}",
            FRAME_LEN.start(),
            FRAME_LEN.end(),
            frame.len()
        );
        let seen = self.probe(&frame).context("run the packet")?;
        Ok(Answer::Ran(Box::new(fit(image, boot_s, &frame, names, &seen))))
    }

    /// What the loaded datapath does with a frame. It counts it for its service and remembers it if it is a first fragment.
    fn probe(&mut self, frame: &[u8]) -> anyhow::Result<Seen> {
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
