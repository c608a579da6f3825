//! Live pages: what their streams send, and when they end.

use std::time::Duration;

use sqlx::PgPool;
use tokio::{io::AsyncReadExt, net::TcpStream};

use crate::support::{Error, SOON, engine, http::open, order, site::Site, until};

/// Opens the stream of a page.
pub(crate) async fn stream(site: &Site, who: &str, path: &str) -> Result<TcpStream, Error> {
    let (host, cookie) = (site.address.to_string(), format!("who={who}"));
    let headers = [("Host", &*host), ("Cookie", &*cookie)];
    open(site.address, "GET", &format!("{}/live{path}", site.prefix), &headers, "").await
}

/// Reads a stream until it has this text, and returns all of it.
pub(crate) async fn read_until(stream: &mut TcpStream, text: &str) -> Result<String, Error> {
    let mut all = String::new();
    let read = async {
        let mut bytes = [0; 8192];
        while !all.contains(text) {
            match stream.read(&mut bytes).await? {
                0 => return Err(format!("it ended without {text}: {all}").into()),
                count => all.push_str(&String::from_utf8_lossy(&bytes[..count])),
            }
        }
        Ok::<_, Error>(())
    };
    tokio::time::timeout(SOON, read).await??;
    Ok(all)
}

/// Opens the stream of a page, and returns what it sends up to this text.
pub(crate) async fn first_events(
    site: &Site,
    who: &str,
    path: &str,
    text: &str,
) -> Result<String, Error> {
    read_until(&mut stream(site, who, path).await?, text).await
}

#[gen_durable::test]
async fn a_stream_sends_what_changes_and_passes_proxies(pool: PgPool) -> Result<(), Error> {
    let engine = engine(&pool).await?;
    let site = Site::of(&pool).await?;
    let mut open = stream(&site, "ada", "/instances").await?;
    let first = read_until(&mut open, "event: look").await?;
    let head = first.to_lowercase();
    for header in ["x-accel-buffering: no", "content-type: text/event-stream", "no-store"] {
        assert!(head.contains(header), "{header}: {first}");
    }
    assert!(first.contains("event: patch") && first.contains("data: list"), "{first}");
    // The filter is a form that somebody may be filling in.
    assert!(!first.contains("data: filter"), "{first}");
    let id = order(1).execute(&engine).await?;
    until(&pool, 1, "parked").await?;
    read_until(&mut open, &format!("/instances/{id}\"")).await?;
    // Nothing changes any more but the time: looks follow each other without patches.
    read_until(&mut open, "event: look").await?;
    let quiet = read_until(&mut open, "event: look").await?;
    assert!(!quiet.contains("event: patch"), "{quiet}");
    engine.shutdown().await?;
    Ok(())
}

#[gen_durable::test]
async fn a_shutdown_ends_open_streams(pool: PgPool) -> Result<(), Error> {
    let site = Site::of(&pool).await?;
    let mut streams = Vec::new();
    for path in ["", "/instances", "/queues", "/queues"] {
        let mut stream = stream(&site, "eve", path).await?;
        read_until(&mut stream, "event: look").await?;
        streams.push(stream);
    }
    site.close().await?;
    for mut stream in streams {
        read_until(&mut stream, "event: bye").await?;
        let mut rest = Vec::new();
        tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await??;
    }
    Ok(())
}

#[gen_durable::test]
async fn a_stream_of_another_site_or_without_access_is_refused(pool: PgPool) -> Result<(), Error> {
    let site = Site::of(&pool).await?;
    let refused = stream(&site, "nobody", "").await;
    let answer = read_until(&mut refused?, "\r\n").await?;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    let host = site.address.to_string();
    let headers = [
        ("Host", &*host),
        ("Cookie", "who=ada"),
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Mode", "cors"),
    ];
    let answer = crate::support::http::ask(site.address, "GET", "/live", &headers, "").await?;
    assert_eq!(answer.status, 403);
    Ok(())
}
