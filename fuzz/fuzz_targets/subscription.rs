//! A browser's subscription comes from strangers: any text is one in its normal form, which reads the same again and calls no private host by its
//! number, or a typed error.
#![no_main]

use bellwether_connectors::channels::web_push::{Hosts, Subscription};
use libfuzzer_sys::fuzz_target;
use std::net::IpAddr;

/// Stands in an input for a key, which the fuzzer would never find: the generator of P-256 (SEC 2, section 2.4.2).
const KEY: &str = "@KEY@";
const P256: &str = "BGsX0fLhLEJH-Lzm5WOkQPJ3A32BLeszoPShOUXYmMKWT-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU";

fuzz_target!(|text: &str| {
    let text = text.replace(KEY, P256);
    for hosts in [Hosts::Public, Hosts::Any] {
        let Ok(subscription) = Subscription::parse(&text, hosts) else { continue };
        let again = Subscription::parse(&subscription.to_string(), hosts).expect("its own form reads");
        assert_eq!(again, subscription);
        assert_eq!(again.to_string(), subscription.to_string());
        let endpoint = subscription.endpoint();
        // The rest of the endpoint is a secret.
        let shown = format!("Subscription {{ origin: {:?}, .. }}", subscription.origin());
        assert_eq!(format!("{subscription:?}"), shown);
        if hosts == Hosts::Public {
            assert_eq!(endpoint.scheme(), "https");
            let number: Option<IpAddr> =
                endpoint.host_str().and_then(|host| host.trim_matches(['[', ']']).parse().ok());
            let is_inside = |ip: IpAddr| ip.is_loopback() || matches!(ip, IpAddr::V4(v4) if v4.is_private());
            assert!(!number.is_some_and(is_inside), "{endpoint}");
        }
    }
});
