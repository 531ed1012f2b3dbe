//! Lines on standard error for what happens rarely: start, stop, attach, detach. Never per packet or per call.

use std::fmt::Display;
use std::io::Write;

/// Writes `nebula-dataplane: EVENT key=value ...` in one write. A closed standard error is nobody's concern here.
pub fn line(event: &str, fields: &[(&str, &dyn Display)]) {
    let mut line = format!("nebula-dataplane: {event}");
    for (key, value) in fields {
        line.push_str(&format!(" {key}={value}"));
    }
    line.push('\n');
    let _ = std::io::stderr().write_all(line.as_bytes());
}
