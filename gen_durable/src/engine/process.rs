//! The description of this process that its worker's row shows to operators.
//!
//! Invariant: nothing here can fail. A fact that cannot be found out is left out.

use super::config::Config;
use crate::storage::{Kinds, Process};

/// Describes the process of an engine.
pub(super) fn process<'a>(config: &'a Config, kinds: &'a Kinds) -> Process<'a> {
    Process {
        name: &config.name,
        queues: config.queues.keys().map(String::as_str).collect(),
        slots: config
            .queues
            .values()
            .map(|slots| i32::try_from(*slots).unwrap_or(i32::MAX))
            .collect(),
        kinds,
        host: host(),
        pid: std::process::id(),
        library: env!("CARGO_PKG_VERSION"),
    }
}

/// Returns the name of this host, as far as the environment or Linux tells it.
fn host() -> Option<String> {
    let told = std::env::var("HOSTNAME").ok();
    let read = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    told.as_deref().and_then(fitting).or_else(|| fitting(&read()?))
}

/// Makes a host's name one that every database can store. None if nothing is left of it.
fn fitting(name: &str) -> Option<String> {
    /// The longest name of a host on the internet, in bytes.
    const HOST_MAX: usize = 255;
    let fit = |letter: char| if letter.is_ascii_graphic() { letter } else { '?' };
    let name: String = name.trim().chars().take(HOST_MAX).map(fit).collect();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::fitting;

    #[test]
    fn the_name_of_a_host_can_be_stored() {
        assert_eq!(fitting("web-1.example\n").as_deref(), Some("web-1.example"));
        assert_eq!(fitting("b\u{fc}\0ro \u{2116}1").as_deref(), Some("b??ro??1"));
        assert_eq!(fitting(" \n"), None);
        assert_eq!(fitting(&"x".repeat(1000)).map(|name| name.len()), Some(255));
    }
}
