//! Logs to stderr: plain text for people, JSON lines for machines.

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One line of text.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("{text:?} is not a log format: text or json")),
        }
    }
}

/// Starts logging. `filter` (as in `info,weir_proxy=debug`) goes before `RUST_LOG`; without both it is `info`.
///
/// A filter that cannot be read is an error; a second call in the same process does nothing.
pub fn init(filter: Option<&str>, format: Format) -> Result<(), String> {
    let from_env = std::env::var("RUST_LOG").ok();
    let wanted = filter.or(from_env.as_deref()).unwrap_or("info");
    let filter = EnvFilter::try_new(wanted).map_err(|error| format!("log filter {wanted:?}: {error}"))?;
    let registry = tracing_subscriber::registry().with(filter);
    let writer = std::io::stderr;
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let _already_set = match format {
        Format::Text => registry.with(fmt::layer().with_writer(writer).with_ansi(terminal)).try_init(),
        Format::Json => registry.with(fmt::layer().json().with_writer(writer)).try_init(),
    };
    Ok(())
}
