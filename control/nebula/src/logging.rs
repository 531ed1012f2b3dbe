//! Structured logs on standard error, as text for people or as JSON for machines. Written off the caller's thread.

use crate::config::{LogFormat, Logging};
use std::io::IsTerminal;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

/// Lines that wait for a slow terminal or pipe; beyond them lines are dropped rather than calls delayed.
const LINES_MAX: usize = 16_384;

/// Libraries whose everyday chatter is none of an operator's business; a filter that names one overrides it.
const QUIET: &str = "sea_orm_migration=warn,sqlx=warn";

/// Starts logging. What is waiting is written when the guard is dropped.
pub fn start(options: &Logging) -> Result<WorkerGuard, String> {
    let filter = EnvFilter::try_new(format!("{QUIET},{}", options.filter)).map_err(|e| {
        format!("logging.filter = {:?}: {e}; for example \"info\" or \"nebula_proxy=debug,info\"", options.filter)
    })?;
    let (writer, guard) = NonBlockingBuilder::default().buffered_lines_limit(LINES_MAX).finish(std::io::stderr());
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(colours);
    let installed = match options.format {
        LogFormat::Text => tracing::subscriber::set_global_default(subscriber.with_target(false).finish()),
        LogFormat::Json => tracing::subscriber::set_global_default(subscriber.json().flatten_event(true).finish()),
    };
    installed.map_err(|e| e.to_string())?;
    Ok(guard)
}
