//! Files that go with a letter: fetched by URL, or carried in one (`data:`, RFC 2397). Bounded in size, cached by URL.
//! What becomes of them in the letter is `letter`'s business.

use super::{KIND, wrong};
use crate::channels::{Attachment, ConfigError, SendError, http, public};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bellwether_schemas::records::ErrorKind::{self, Rejected, Transient};
use bytes::Bytes;
use moka::future::Cache;
use reqwest::{Client, Url, header::CONTENT_TYPE};
use serde::{Deserialize, Serialize};
use std::{net::IpAddr, sync::Arc, time::Duration};

/// What a file is when nobody says.
const UNKNOWN: &str = "application/octet-stream";
/// What a cached file costs beside its bytes.
const OVERHEAD: usize = 512;

/// How files are had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FilesConfig {
    /// Bytes of one file.
    pub max_bytes: usize,
    /// Bytes of all files of one letter; a third more goes over the wire (base64).
    pub max_total_bytes: usize,
    /// Bytes of files kept in memory.
    pub cache_bytes: u64,
    /// Seconds that a fetched file is used before it is fetched again.
    pub cache_seconds: u64,
    /// Seconds for one fetch.
    pub timeout_seconds: u64,
    /// Allows URLs on private addresses and by http: for files of your own network, where nobody else writes templates
    /// or events.
    pub allow_private_hosts: bool,
}

impl Default for FilesConfig {
    fn default() -> Self {
        Self {
            max_bytes: 5 << 20,
            max_total_bytes: 10 << 20,
            cache_bytes: 64 << 20,
            cache_seconds: 600,
            timeout_seconds: 10,
            allow_private_hosts: false,
        }
    }
}

impl FilesConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if self.max_bytes > self.max_total_bytes {
            return Err(wrong(
                "files",
                "has a `max_bytes` above its `max_total_bytes`: no letter could carry such a file",
            ));
        }
        if self.max_total_bytes > 100 << 20 {
            return Err(wrong("files", "has a `max_total_bytes` above 100 MiB: few servers take more than 25"));
        }
        http::timeout(KIND, self.timeout_seconds)
    }
}

/// A file, ready to go with a letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its name; of an inline one also its content id.
    pub name: String,
    /// Media type.
    pub media_type: String,
    /// Shown within the HTML.
    pub inline: bool,
    /// Content.
    pub bytes: Bytes,
}

/// A content and its media type.
type Content = (String, Bytes);

/// Fetches files.
#[derive(Debug)]
pub(super) struct Files {
    config: FilesConfig,
    client: Client,
    cache: Cache<String, Content>,
}

impl Files {
    pub(super) fn new(config: FilesConfig) -> Result<Self, ConfigError> {
        let mut client = Client::builder()
            .timeout(Duration::from_secs(config.timeout_seconds))
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("bellwether/", env!("CARGO_PKG_VERSION")))
            .no_proxy();
        if !config.allow_private_hosts {
            client = client.dns_resolver(public::PublicOnly);
        }
        let client = client.build().map_err(|error| wrong("files", format!("no HTTP client is to be had: {error}")))?;
        let weight =
            |url: &String, content: &Content| u32::try_from(url.len() + content.1.len() + OVERHEAD).unwrap_or(u32::MAX);
        let cache = Cache::builder()
            .max_capacity(config.cache_bytes)
            .weigher(weight)
            .time_to_live(Duration::from_secs(config.cache_seconds))
            .build();
        Ok(Self { config, client, cache })
    }

    /// All files of a letter, one after the other, so that their sum is known before the next is asked for. Nothing of
    /// the letter has been sent when this fails, so nothing is ambiguous.
    pub(super) async fn of(&self, attachments: &[Attachment]) -> Result<Vec<File>, SendError> {
        let (mut files, mut total) = (Vec::with_capacity(attachments.len()), 0);
        for Attachment { name, url, inline } in attachments {
            let (media_type, bytes) = if url.starts_with("data:") {
                self.fit(data(url).ok_or_else(|| refused("is no `data:` URL that we read: base64, please"))?)?
            } else {
                self.cache.try_get_with_by_ref(url, self.fetch(url)).await.map_err(Arc::unwrap_or_clone)?
            };
            total += bytes.len();
            if total > self.config.max_total_bytes {
                return Err(refused("and those before it are larger together than `files.max_total_bytes`"));
            }
            files.push(File { name: name.clone(), media_type, inline: *inline, bytes });
        }
        Ok(files)
    }

    async fn fetch(&self, url: &str) -> Result<Content, SendError> {
        let url = Url::parse(url).map_err(|_| refused("has no URL"))?;
        if !self.config.allow_private_hosts && !is_public(&url) {
            return Err(refused("must have an https URL on a public host: see `files.allow_private_hosts`"));
        }
        let mut response = self.client.get(url).send().await.map_err(|error| unfetched(&error))?;
        let status = response.status().as_u16();
        match status {
            200 => {}
            408 | 425 | 429 | 500..=599 => return Err(failed(Transient, &format!("cannot be fetched: HTTP {status}"))),
            _ => return Err(failed(Rejected, &format!("cannot be fetched: HTTP {status}"))),
        }
        let media_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = media_type_of(media_type.unwrap_or_default());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| unfetched(&error))? {
            if body.len() + chunk.len() > self.config.max_bytes {
                return Err(refused("is larger than `files.max_bytes`"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok((media_type, body.into()))
    }

    fn fit(&self, content: Content) -> Result<Content, SendError> {
        if content.1.len() > self.config.max_bytes {
            Err(refused("is larger than `files.max_bytes`"))
        } else {
            Ok(content)
        }
    }
}

fn failed(kind: ErrorKind, problem: &str) -> SendError {
    SendError::new(kind, format!("an attachment {problem}"))
}

fn refused(problem: &str) -> SendError {
    failed(Rejected, problem)
}

/// In our words, because the library's hold the URL, and that may hold a token.
fn unfetched(error: &reqwest::Error) -> SendError {
    if public::is_not_public(error) {
        return refused("must have an https URL on a public host: see `files.allow_private_hosts`");
    }
    failed(Transient, if error.is_timeout() { "did not come in time" } else { "cannot be fetched: no connection" })
}

/// Whether a URL may be called. That a name is public shows only when it is resolved.
fn is_public(url: &Url) -> bool {
    let address = url.host_str().and_then(|host| host.trim_matches(['[', ']']).parse::<IpAddr>().ok());
    url.scheme() == "https" && address.is_none_or(public::is_public)
}

/// Type and subtype alone; what does not look like them is unknown.
fn media_type_of(text: &str) -> String {
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_token = |part: &str| {
        let known = |c: char| c.is_ascii_alphanumeric() || "!#$&-^_.+".contains(c);
        (1..=100).contains(&part.len()) && part.chars().all(known)
    };
    match essence.split_once('/') {
        // A multipart or a message would need a structure that we do not check.
        Some(("multipart" | "message", _)) => UNKNOWN.into(),
        Some((kind, subtype)) if is_token(kind) && is_token(subtype) => essence,
        _ => UNKNOWN.into(),
    }
}

/// Reads a base64 `data:` URL.
fn data(url: &str) -> Option<Content> {
    let (head, body) = url.strip_prefix("data:")?.split_once(',')?;
    let media_type = head.strip_suffix(";base64")?;
    Some((media_type_of(media_type), BASE64.decode(body).ok()?.into()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn files(change: serde_json::Value) -> Files {
        Files::new(serde_json::from_value(change).unwrap()).unwrap()
    }

    fn attachment(url: &str) -> Attachment {
        Attachment { name: "a.txt".into(), url: url.into(), inline: false }
    }

    #[tokio::test]
    async fn a_file_may_travel_in_its_url() {
        let one = attachment("data:text/plain;charset=utf-8;base64,SGVsbG8=");
        let found = files(serde_json::json!({})).of(std::slice::from_ref(&one)).await.unwrap();
        assert_eq!((found[0].media_type.as_str(), &found[0].bytes[..]), ("text/plain", &b"Hello"[..]));
        let small = files(serde_json::json!({"max_bytes": 6, "max_total_bytes": 9}));
        assert!(small.of(std::slice::from_ref(&one)).await.is_ok());
        let error = small.of(&[one.clone(), one]).await.unwrap_err();
        assert_eq!((error.kind, error.detail.contains("max_total_bytes")), (Rejected, true), "{error}");
        let smaller = files(serde_json::json!({"max_bytes": 4, "max_total_bytes": 9}));
        let error = smaller.of(&[attachment("data:;base64,SGVsbG8=")]).await.unwrap_err();
        assert_eq!((error.kind, error.detail.contains("max_bytes")), (Rejected, true), "{error}");
    }

    #[tokio::test]
    async fn nobody_sends_us_into_our_own_network() {
        for url in [
            "https://127.0.0.1/x",
            "https://[::1]/x",
            "https://10.0.0.1/x",
            "http://example.com/x",
            "file:///etc/passwd",
            "x",
            "data:,x",
            "https://localhost/x",
        ] {
            let error = files(serde_json::json!({})).of(&[attachment(url)]).await.unwrap_err();
            assert_eq!(error.kind, Rejected, "{url}: {error}");
        }
    }

    #[test]
    fn a_media_type_is_one_or_unknown() {
        for (text, expected) in [
            ("image/png", "image/png"),
            ("Text/HTML; charset=utf-8", "text/html"),
            ("image/svg+xml", "image/svg+xml"),
            ("", UNKNOWN),
            ("png", UNKNOWN),
            ("a/b\r\nBcc: x", UNKNOWN),
            ("multipart/mixed; boundary=x", UNKNOWN),
        ] {
            assert_eq!(media_type_of(text), expected, "{text}");
        }
    }

    #[test]
    fn limits_must_fit_each_other() {
        assert!(FilesConfig::default().validate().is_ok());
        for (max_bytes, max_total_bytes) in [(2, 1), (1, usize::MAX)] {
            assert!(FilesConfig { max_bytes, max_total_bytes, ..FilesConfig::default() }.validate().is_err());
        }
    }

    proptest! {
        #[test]
        fn no_url_makes_us_panic(text in any::<String>()) {
            data(&format!("data:{text}"));
            media_type_of(&text);
        }
    }
}
