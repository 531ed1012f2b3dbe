//! The command line's own errors, as one line like all others.

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

/// The exit code of a command line that makes no sense, as shells and clap have it.
const USAGE: u8 = 2;

/// Reads the command line; prints help or an error, and gives the exit code for it.
pub fn parse<A: Parser + CommandFactory>() -> Result<A, u8> {
    A::try_parse().map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // A closed standard output is nobody's concern here.
            let _ = error.print();
            u8::from(error.use_stderr()) * USAGE
        }
        _ => {
            eprintln!("nebula: {}", one_line(&error.render().to_string()));
            USAGE
        }
    })
}

/// clap's error, a tip and the usage on lines of their own, as one line.
fn one_line(text: &str) -> String {
    let kept = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let kept = kept.take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"));
    let kept: Vec<&str> = kept.collect();
    kept.join("; ").replacen("error: ", "", 1).replace(":; ", ": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    #[command(name = "nebula")]
    struct Arguments {
        #[arg(long)]
        sip_port: Option<u16>,
        #[arg(long, required = true)]
        state: Option<String>,
    }

    #[test]
    fn an_error_is_one_line_that_says_what_would_be_right() {
        for (arguments, says) in [
            (&["nebula", "--sip-prot", "1"][..], &["--sip-prot", "--sip-port"][..]),
            (&["nebula", "--sip-port", "x"], &["--sip-port", "x", "invalid digit"]),
            (&["nebula"], &["--state"]),
        ] {
            let line = one_line(&Arguments::try_parse_from(arguments).unwrap_err().render().to_string());
            assert!(!line.contains('\n') && !line.contains("Usage") && !line.starts_with("error"), "{line:?}");
            for part in says {
                assert!(line.contains(part), "{line:?} should say {part:?}");
            }
        }
    }
}
