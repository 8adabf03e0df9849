//! A browser's subscription, which is an address of the channel. Whose it is, and whether it still is one, is decided elsewhere.

use super::{super::public::is_public, encryption};
use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::URL_SAFE_NO_PAD},
};
use openssl::{ec::EcKey, pkey::Public};
use reqwest::Url;
use serde::{Deserialize, Serialize};
use std::{fmt, net::IpAddr};

/// Longest endpoint; those of the push services that we know have less than 600 characters.
const MAX_ENDPOINT: usize = 2048;
/// Bytes of the secret that goes with the key (RFC 8291 section 3.2).
const AUTH: usize = 16;
/// Browsers write base64url without padding; libraries between them and us have been seen to pad.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Which hosts an endpoint may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hosts {
    /// Public ones, by https. That a *name* is public shows only when it is called, and is checked then.
    Public,
    /// Any, by http too: for counterparts on loopback.
    Any,
}

/// A subscription that cannot be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSubscription {
    /// Not the JSON form of a `PushSubscription`.
    #[error("is no push subscription: send what the browser's `PushSubscription.toJSON()` returns")]
    Json,
    /// The endpoint is not one to call.
    #[error("has a bad `endpoint`: it {0}")]
    Endpoint(&'static str),
    /// The key is none of P-256.
    #[error("has a bad `keys.p256dh`: it must be an uncompressed point of P-256 in base64url")]
    Key,
    /// The secret is none.
    #[error("has a bad `keys.auth`: it must be {AUTH} bytes in base64url")]
    Auth,
}

/// A browser's subscription. Its text ([`fmt::Display`]) is compact JSON in one form, so that equal subscriptions are equal addresses.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Subscription {
    endpoint: Url,
    p256dh: Vec<u8>,
    auth: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Json {
    endpoint: String,
    keys: Keys,
}

#[derive(Serialize, Deserialize)]
struct Keys {
    p256dh: String,
    auth: String,
}

impl Subscription {
    /// Reads a subscription as a browser gives it (Push API, `PushSubscription.toJSON()`), or as we write it. Other fields, such as
    /// `expirationTime`, are left out.
    ///
    /// # Errors
    /// See [`BadSubscription`].
    pub fn parse(text: &str, hosts: Hosts) -> Result<Self, BadSubscription> {
        let Json { endpoint, keys } = serde_json::from_str(text).map_err(|_| BadSubscription::Json)?;
        let p256dh = LENIENT.decode(keys.p256dh).map_err(|_| BadSubscription::Key)?;
        if p256dh.len() != 65 || encryption::public_key(&p256dh).is_err() {
            return Err(BadSubscription::Key);
        }
        let auth = LENIENT.decode(keys.auth).map_err(|_| BadSubscription::Auth)?;
        if auth.len() != AUTH {
            return Err(BadSubscription::Auth);
        }
        let endpoint = endpoint_of(&endpoint, hosts).map_err(BadSubscription::Endpoint)?;
        Ok(Self { endpoint, p256dh, auth })
    }

    /// Where to POST.
    #[must_use]
    pub const fn endpoint(&self) -> &Url {
        &self.endpoint
    }

    /// The push service: scheme, host and port.
    #[must_use]
    pub fn origin(&self) -> String {
        self.endpoint.origin().ascii_serialization()
    }

    pub(super) fn key(&self) -> Result<EcKey<Public>, openssl::error::ErrorStack> {
        encryption::public_key(&self.p256dh)
    }

    pub(super) fn auth(&self) -> &[u8] {
        &self.auth
    }
}

fn endpoint_of(text: &str, hosts: Hosts) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "is no URL")?;
    // In its normal form it may be longer than it was.
    if url.as_str().len() > MAX_ENDPOINT {
        return Err("is longer than 2048 characters");
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err("must have neither credentials nor a fragment");
    }
    match hosts {
        Hosts::Any if !matches!(url.scheme(), "http" | "https") => Err("must be an http or https URL"),
        Hosts::Public if url.scheme() != "https" => Err("must be an https URL"),
        Hosts::Public if literal(&url).is_some_and(|address| !is_public(address)) => Err("must be on a public host"),
        _ => Ok(url),
    }
}

/// The address, where the host is one. The parser has read whatever form it had: `0x7f.1` is 127.0.0.1.
fn literal(url: &Url) -> Option<IpAddr> {
    url.host_str()?.trim_matches(['[', ']']).parse().ok()
}

impl fmt::Display for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = Keys { p256dh: URL_SAFE_NO_PAD.encode(&self.p256dh), auth: URL_SAFE_NO_PAD.encode(&self.auth) };
        let json = Json { endpoint: self.endpoint.to_string(), keys };
        f.write_str(&serde_json::to_string(&json).map_err(|_| fmt::Error)?)
    }
}

/// Whoever knows the endpoint can write to the browser (RFC 8030 section 8.3): it is not for logs.
impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("origin", &self.origin()).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    pub(crate) const P256DH: &str =
        "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4";
    pub(crate) const SECRET: &str = "BTBZMqHH6r4Tts7J_aSIgg";

    pub(crate) fn subscription(endpoint: &str) -> String {
        format!(r#"{{"endpoint":"{endpoint}","keys":{{"p256dh":"{P256DH}","auth":"{SECRET}"}}}}"#)
    }

    fn parse(endpoint: &str, hosts: Hosts) -> Result<Subscription, BadSubscription> {
        Subscription::parse(&subscription(endpoint), hosts)
    }

    #[test]
    fn equal_subscriptions_have_one_text() {
        let browser = json!({"endpoint": "HTTPS://Push.Example:443/x/../a?b", "expirationTime": null,
            "keys": {"auth": format!("{SECRET}=="), "p256dh": format!("{P256DH}=")}});
        let read = Subscription::parse(&browser.to_string(), Hosts::Public).unwrap();
        let text = subscription("https://push.example/a?b");
        assert_eq!(read.to_string(), text);
        assert_eq!(Subscription::parse(&text, Hosts::Public).unwrap(), read);
        assert_eq!(read.origin(), "https://push.example");
        assert!(!format!("{read:?}").contains("a?b"));
    }

    #[test]
    fn strangers_do_not_send_us_into_our_own_network() {
        for endpoint in [
            "http://push.example/a",
            "ftp://push.example/a",
            "https://127.0.0.1/",
            "https://0x7f.1/",
            "https://2130706433/",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://10.0.0.1:8443/",
            "https://169.254.169.254/latest",
            "https://u:p@push.example/",
            "https://push.example/#f",
            "/relative",
            "",
            "https://",
        ] {
            assert!(matches!(parse(endpoint, Hosts::Public), Err(BadSubscription::Endpoint(_))), "{endpoint}");
        }
        assert!(parse("https://1.1.1.1/a", Hosts::Public).is_ok());
        assert!(parse("http://127.0.0.1:9/a", Hosts::Any).is_ok());
        assert!(parse("file:///etc/passwd", Hosts::Any).is_err());
        assert!(parse(&format!("https://push.example/{}", "x".repeat(2048)), Hosts::Any).is_err());
    }

    #[test]
    fn keys_are_keys() {
        let with = |p256dh: &str, auth: &str| {
            let json = json!({"endpoint": "https://push.example/", "keys": {"p256dh": p256dh, "auth": auth}});
            Subscription::parse(&json.to_string(), Hosts::Public).map(drop)
        };
        assert_eq!(with(P256DH, SECRET), Ok(()));
        for bad in ["", "!", "AA", &P256DH[..86], &P256DH.replace("Aiw4", "Aiw8")] {
            assert_eq!(with(bad, SECRET), Err(BadSubscription::Key), "{bad}");
        }
        for bad in ["", "!", "AAAA", P256DH] {
            assert_eq!(with(P256DH, bad), Err(BadSubscription::Auth), "{bad}");
        }
        for bad in ["", "{}", "[]", r#"{"endpoint":"https://x/"}"#] {
            assert_eq!(Subscription::parse(bad, Hosts::Any), Err(BadSubscription::Json));
        }
    }

    proptest! {
        #[test]
        fn no_subscription_makes_us_panic(text in any::<String>(), endpoint in any::<String>(), key in any::<String>()) {
            Subscription::parse(&text, Hosts::Public).ok();
            let json = json!({"endpoint": endpoint, "keys": {"p256dh": P256DH, "auth": SECRET}});
            if let Ok(read) = Subscription::parse(&json.to_string(), Hosts::Public) {
                prop_assert_eq!(Subscription::parse(&read.to_string(), Hosts::Public), Ok(read));
            }
            let json = json!({"endpoint": "https://x/", "keys": {"p256dh": key, "auth": key}});
            prop_assert!(Subscription::parse(&json.to_string(), Hosts::Public).is_err());
        }
    }
}
