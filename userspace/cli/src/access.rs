//! `weir access`: which sources may not come, or alone may; an entry more, an entry less.
//!
//! An entry is an object in the configuration directory, in a file of its own; the daemons act when the file appears or goes.

mod list;
mod put;
mod remove;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use weir_model::{AccessAction, Name, Snapshot};

use crate::output::Format;

/// Shows who may not come, blocks and lets in sources.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    List(list::Args),
    /// Blocks a prefix until it is removed or the time is over.
    ///
    /// Writes access-NAME.toml into the configuration directory. A longer prefix that is let in stays so.
    Block(put::Args),
    /// Lets a prefix in, whatever shorter prefixes say.
    Allow(put::Args),
    Remove(remove::Args),
}

/// Which sources, and where.
#[derive(clap::Args)]
struct Target {
    /// The configuration directory.
    dir: PathBuf,
    /// The sources: an address, or a prefix as in 203.0.113.0/24.
    #[arg(value_parser = prefix)]
    prefix: ipnet::IpNet,
    /// Only at this VIP.
    #[arg(long)]
    vip: Option<Name>,
    /// Shows what would happen and writes nothing.
    #[arg(long)]
    dry_run: bool,
    /// How results are printed.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match &args.verb {
        Verb::List(args) => list::run(args),
        Verb::Block(args) => put::run(args, AccessAction::Block),
        Verb::Allow(args) => put::run(args, AccessAction::Allow),
        Verb::Remove(args) => remove::run(args),
    }
}

impl Target {
    fn check(&self, snapshot: &Snapshot) -> Result<()> {
        match &self.vip {
            Some(vip) if !snapshot.vips.contains_key(vip) => {
                let known = snapshot.vips.keys().map(Name::as_str).collect::<Vec<_>>().join(", ");
                bail!("there is no vip {vip}; there are {known}")
            }
            _ => Ok(()),
        }
    }

    /// The VIPs of the list such an entry stands in.
    fn vips(&self) -> Vec<Name> {
        self.vip.iter().cloned().collect()
    }

    /// The name of its list: the prefix in letters a name may have.
    fn name(&self) -> Result<Name> {
        let prefix = self.prefix.to_string().replace("::", "--").replace([':', '.', '/'], "-");
        let vip = self.vip.as_ref().map_or(String::new(), |vip| format!("-{vip}"));
        format!("at-{prefix}{vip}").parse().context("name of the access list")
    }
}

fn word(action: AccessAction) -> &'static str {
    match action {
        AccessAction::Allow => "allow",
        AccessAction::Block => "block",
    }
}

/// A prefix, or an address alone.
fn prefix(text: &str) -> Result<ipnet::IpNet, String> {
    let net = match text.parse::<std::net::IpAddr>() {
        Ok(address) => address.into(),
        Err(_) => text
            .parse::<ipnet::IpNet>()
            .map_err(|_| format!("{text:?} is neither an address nor a prefix like \"203.0.113.0/24\""))?,
    };
    if net.trunc() != net {
        return Err(format!("{net} has bits beyond its length: write {}", net.trunc()));
    }
    Ok(net)
}
