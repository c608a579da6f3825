//! The script, the style and the icon, as parts of the program.
//!
//! Invariant: the name of each contains the digest of its text. A browser may keep it for ever, and
//! a new program never meets an old script.

use std::sync::LazyLock;

use axum::{
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};

use crate::session::hex;

/// A file that pages load.
#[derive(Debug)]
pub(crate) struct Asset {
    /// Its name, with its digest.
    pub(crate) name: String,
    etag: String,
    kind: &'static str,
    text: &'static str,
}

impl Asset {
    fn new(stem: &str, extension: &str, kind: &'static str, text: &'static str) -> Self {
        let digest = hex(&Sha256::digest(text.as_bytes())[..8]);
        let name = format!("{stem}-{digest}.{extension}");
        Self { name, etag: format!("\"{digest}\""), kind, text }
    }

    /// Returns the path within the console.
    pub(crate) fn path(&self) -> String {
        format!("/assets/{}", self.name)
    }
}

pub(crate) static SCRIPT: LazyLock<Asset> = LazyLock::new(|| {
    let text = include_str!("../assets/console.js");
    Asset::new("console", "js", "text/javascript; charset=utf-8", text)
});

pub(crate) static STYLE: LazyLock<Asset> = LazyLock::new(|| {
    let text = include_str!("../assets/console.css");
    Asset::new("console", "css", "text/css; charset=utf-8", text)
});

pub(crate) static ICON: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new("icon", "svg", "image/svg+xml", include_str!("../assets/icon.svg"))
});

pub(crate) fn serve(name: &str, headers: &HeaderMap) -> Response {
    let all = [&*SCRIPT, &*STYLE, &*ICON];
    let Some(asset) = all.into_iter().find(|asset| asset.name == name) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let head = [
        (header::CONTENT_TYPE, asset.kind),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
        (header::ETAG, &asset.etag),
    ];
    if known.is_some_and(|known| known.contains(&asset.etag)) {
        return (StatusCode::NOT_MODIFIED, head).into_response();
    }
    (head, asset.text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn script_and_style_are_small() {
        let bytes = SCRIPT.text.len() + STYLE.text.len();
        assert!(bytes < 60_000, "{bytes} bytes");
    }

    #[test]
    fn nothing_is_loaded_from_elsewhere() {
        for text in [SCRIPT.text, STYLE.text, ICON.text] {
            let text = text.replace("http://www.w3.org/2000/svg", "");
            for word in ["http:", "https:", "@import", "//cdn"] {
                assert!(!text.contains(word), "{word}");
            }
        }
    }
}
