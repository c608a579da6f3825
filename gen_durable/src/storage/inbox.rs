//! Reads inboxes: the signals that come with a claim or a commit, and those that are loaded later.
//!
//! Invariant: one statement brings a bounded part of an inbox, in signals and in bytes.

use sqlx::{PgConnection, Row};

use super::row::{Inbox, InboxRow, Missing, Portion};

const LOAD_INBOX: &str = include_str!("sql/load_inbox.sql");

/// Reads an inbox that a statement aggregated: its signals, and true if there are more.
pub(super) fn parse_inbox(text: Option<&str>) -> Result<Inbox, sqlx::Error> {
    let Some(text) = text else { return Ok(Inbox::default()) };
    let (signals, more) = parse_signals(text)?;
    Ok(Inbox { signals, more })
}

fn parse_signals<T: for<'a> serde::Deserialize<'a>>(text: &str) -> Result<T, sqlx::Error> {
    serde_json::from_str(text).map_err(|source| sqlx::Error::ColumnDecode {
        index: "inbox".to_owned(),
        source: Box::new(source),
    })
}

/// Loads signals of an instance that its worker has not loaded yet.
pub(crate) async fn load_inbox(
    connection: &mut PgConnection,
    id: i64,
    missing: &Missing,
) -> Result<Portion, sqlx::Error> {
    let row = sqlx::query(LOAD_INBOX)
        .bind(id)
        .bind(missing.after)
        .bind(missing.count_max)
        .bind(missing.bytes_max)
        .bind(&missing.name)
        .bind(missing.loaded)
        .fetch_one(connection)
        .await?;
    let signals = match row.try_get::<Option<&str>, _>(0)? {
        Some(text) => parse_signals::<Vec<InboxRow>>(text)?,
        None => Vec::new(),
    };
    let names: Vec<String> = row.try_get(1)?;
    let counts: Vec<i64> = row.try_get(2)?;
    let counts = counts.into_iter().map(|count| usize::try_from(count).unwrap_or(usize::MAX));
    Ok(Portion { signals, beyond: names.into_iter().zip(counts).collect(), last: row.try_get(3)? })
}
