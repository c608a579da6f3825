//! libpq's service file: named connections, as PGSERVICE chooses one.
//!
//! Invariant: a service that cannot be found, or a setting that is not understood, is an error.

use std::{fmt::Write, path::PathBuf};

/// The settings of a service that are understood, by libpq's names.
const SETTINGS: [&str; 11] = [
    "host",
    "hostaddr",
    "port",
    "user",
    "password",
    "dbname",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "options",
];
/// Settings that change nothing here: the program has a name and a timeout of its own.
const IGNORED: [&str; 2] = ["application_name", "connect_timeout"];

/// Returns the URL of a service.
pub(crate) fn url(name: &str) -> Result<String, String> {
    let files = files();
    for file in &files {
        let Ok(text) = std::fs::read_to_string(file) else { continue };
        if let Some(settings) = find(&text, name) {
            return of_settings(&settings)
                .map_err(|error| format!("service `{name}` in {}: {error}", file.display()));
        }
    }
    let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    Err(format!("PGSERVICE is `{name}`, and no service of that name is in {}", files.join(" or ")))
}

/// Returns the files that may have services, in libpq's order.
fn files() -> Vec<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let own = set("PGSERVICEFILE").map(PathBuf::from);
    let own = own.or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".pg_service.conf")));
    let folder = set("PGSYSCONFDIR").unwrap_or_else(|| "/etc/postgresql-common".into());
    own.into_iter().chain([PathBuf::from(folder).join("pg_service.conf")]).collect()
}

/// Returns the settings of a service, or none if the text has no such service.
fn find<'a>(text: &'a str, name: &str) -> Option<Vec<(&'a str, &'a str)>> {
    let lines = text.lines().map(str::trim);
    let mut lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.find(|line| {
        line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) == Some(name)
    })?;
    let settings = lines.take_while(|line| !line.starts_with('['));
    Some(settings.map(|line| line.split_once('=').unwrap_or((line, ""))).collect())
}

fn of_settings(settings: &[(&str, &str)]) -> Result<String, String> {
    let mut url = "postgres://".to_owned();
    let mut separator = '?';
    for (name, value) in settings {
        let (name, value) = (name.trim(), value.trim());
        if IGNORED.contains(&name) {
            continue;
        }
        if !SETTINGS.contains(&name) {
            return Err(format!("`{name}` is not understood; it can be {}", SETTINGS.join(", ")));
        }
        url.push(separator);
        url.push_str(name);
        url.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() {
                url.push(byte.into());
            } else {
                let _ = write!(url, "%{byte:02X}");
            }
        }
        separator = '&';
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str =
        "# ours\n[one]\nhost=a\n\n[two]\n host = /run/pg \nuser=größe\nport=5433\n[three]\nfoo=1\n";

    #[test]
    fn a_service_becomes_a_url() {
        let two = find(FILE, "two").expect("it is there");
        let url = of_settings(&two).expect("it is understood");
        assert_eq!(url, "postgres://?host=%2Frun%2Fpg&user=gr%C3%B6%C3%9Fe&port=5433");
        assert_eq!(find(FILE, "four"), None);
        let three = find(FILE, "three").expect("it is there");
        assert!(of_settings(&three).expect_err("no setting").contains("`foo` is not understood"));
    }
}
