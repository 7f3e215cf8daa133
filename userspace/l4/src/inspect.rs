//! Answers to those who look into the datapath: one packet through the program, or packets as they come.

use anyhow::{Context, ensure};
use weir_core::{
    datapath::{Names, fit, from_hex},
    image::Image,
};
use weir_runtime::inspect::{Answer, Ask, Asked};

use crate::{capture::Tap, test_run::TestRunner};

/// What the kernel takes as a test packet without fragments of it.
const FRAME_LEN: std::ops::RangeInclusive<usize> = 14..=3_400;

/// Runs and captures packets.
pub(crate) struct Inspector {
    runner: TestRunner,
    tap: Tap,
}

impl Inspector {
    /// Looks by these.
    pub(crate) fn new(runner: TestRunner, tap: Tap) -> Self {
        Self { runner, tap }
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
        let seen = self.runner.run(&frame).context("run the packet")?;
        Ok(Answer::Ran(Box::new(fit(image, boot_s, &frame, names, &seen))))
    }
}
