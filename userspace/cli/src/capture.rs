//! `weir capture`: packets of the datapath of this host, as a pcapng file with the reason of each.

use std::{
    fs::File,
    io::{ErrorKind, Write},
    net::IpAddr,
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncRead, AsyncReadExt};
use weir_core::pcap;
use weir_runtime::inspect::{self, Filter};

use crate::live;

/// Captures packets of this host's datapath, each with what became of it in a comment.
///
/// Needs root, as weir-l4 does. One capture at a time; it ends with its client, by --count or --for. Packets that come
/// faster than they can be written are lost, and counted.
///
///     weir capture --vip 198.51.100.10 --reason drop_ttl -w - | tcpdump -r -
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The file written; - for standard output.
    #[arg(short, long, value_name = "FILE")]
    write: PathBuf,
    /// Packets for this VIP only.
    #[arg(long, value_name = "ADDRESS")]
    vip: Option<IpAddr>,
    /// From clients of this prefix only.
    #[arg(long, value_name = "ADDRESS[/LEN]", value_parser = prefix)]
    client: Option<(IpAddr, u8)>,
    /// Counted under this reason only; may be given several times. `weir status` shows the names.
    #[arg(long, value_name = "REASON", value_delimiter = ',')]
    reason: Vec<String>,
    /// As they came in, as they left (or stood when they were dropped), or both.
    #[arg(long, value_enum, default_value_t)]
    direction: Direction,
    /// Bytes of each packet at most.
    #[arg(short, long, value_name = "BYTES", default_value_t = 262, value_parser = clap::value_parser!(u32).range(14..))]
    snap_len: u32,
    /// Ends after so many packets.
    #[arg(short, long, value_name = "N")]
    count: Option<u64>,
    /// Ends after this time.
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    time: Option<std::time::Duration>,
    /// Where weir-l4 has its sockets.
    #[arg(long, value_name = "DIR", default_value = "/run/weir")]
    run_dir: PathBuf,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Direction {
    #[default]
    Came,
    Left,
    Both,
}

fn prefix(text: &str) -> Result<(IpAddr, u8)> {
    let (ip, len) = text.split_once('/').map_or((text, None), |(ip, len)| (ip, Some(len)));
    let ip: IpAddr = ip.parse().with_context(|| format!("{ip:?} is no address"))?;
    let bits = if ip.is_ipv4() { 32 } else { 128 };
    let len = len.map_or(Ok(bits), str::parse).ok().filter(|len| *len <= bits);
    Ok((ip, len.with_context(|| format!("{text:?} is no prefix of 0 to {bits} bits"))?))
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let filter = Filter {
        vip: args.vip,
        client: args.client,
        reasons: args.reason.clone(),
        came: args.direction != Direction::Left,
        left: args.direction != Direction::Came,
        snap_len_bytes: args.snap_len,
        count: args.count,
        for_ms: args.time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
    };
    let mut to: Box<dyn Write> = if args.write.as_os_str() == "-" {
        Box::new(std::io::stdout().lock())
    } else {
        Box::new(File::create(&args.write).with_context(|| args.write.display().to_string())?)
    };
    let socket = args.run_dir.join(inspect::SOCKET);
    let (shown, lost) = live::block_on(async {
        let stream = inspect::capture(&socket, filter).await;
        let stream = stream.with_context(|| format!("ask weir-l4 at {}", socket.display()))?;
        tokio::select! {
            copied = copy(stream, &mut to) => copied,
            // The file ends with a whole block all the same.
            _ = tokio::signal::ctrl_c() => bail!("interrupted; what is written is whole"),
        }
    })??;
    eprintln!("{shown} packets captured, {lost} lost");
    Ok(ExitCode::SUCCESS)
}

/// Bytes of a block: a packet of 64 KiB with its options.
const BLOCK_LEN_MAX: usize = 1 << 17;

/// Writes whole blocks as they come; returns how many packets there were, and how many were lost. A reader of ours that has
/// gone away is the end of the capture.
async fn copy(mut from: impl AsyncRead + Unpin, to: &mut dyn Write) -> Result<(u64, u64)> {
    let (mut shown, mut lost) = (0, 0);
    loop {
        let mut block = vec![0; 8];
        match from.read_exact(&mut block).await {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok((shown, lost)),
            other => other.context("read from weir-l4")?,
        };
        let word = |at: usize, block: &[u8]| {
            block.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_le_bytes(*bytes))
        };
        let (kind, len) = (word(0, &block), word(4, &block) as usize);
        if !(12..=BLOCK_LEN_MAX).contains(&len) {
            bail!("weir-l4 sent a block of {len} bytes");
        }
        block.resize(len, 0);
        from.read_exact(&mut block[8..]).await.context("read from weir-l4")?;
        match kind {
            pcap::PACKET => shown += 1,
            // Received and dropped, eight bytes each behind the options' heads.
            pcap::STATISTICS => lost = u64::from(word(36, &block)),
            _ => {}
        }
        match to.write_all(&block).and_then(|()| to.flush()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok((shown, lost)),
            other => other.context("write the capture")?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_an_address_or_a_prefix() {
        assert_eq!(prefix("203.0.113.7").ok(), Some(("203.0.113.7".parse().expect("ip"), 32)));
        assert_eq!(prefix("2001:db8::/32").ok(), Some(("2001:db8::".parse().expect("ip"), 32)));
        for wrong in ["203.0.113.0/33", "203.0.113/24", "x", "::/", "::/129"] {
            assert!(prefix(wrong).is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn whole_blocks_are_copied_and_counted() {
        let writer = pcap::Writer;
        let packet = writer.packet(&pcap::Record {
            interface: 0,
            at_unix_ns: 1,
            len_bytes: 4,
            bytes: b"abcd",
            came_in: true,
            comment: "encap",
        });
        let whole = [writer.section(), writer.interface("eth0", 96), packet.clone(), packet].concat();
        let ended = [&whole[..], &writer.statistics(1, 9, 7)].concat();
        let mut out = Vec::new();
        assert_eq!(copy(&ended[..], &mut out).await.expect("copied"), (2, 7));
        assert_eq!(out, ended);
        out.clear();
        assert!(copy(&whole[..whole.len() - 1], &mut out).await.is_err(), "cut in a block");
        assert!(whole.starts_with(&out));
    }
}
