//! A certificate authority of a test's own, so that trust, and the lack of it, can be tried on loopback.

use openssl::{
    asn1::Asn1Time,
    hash::MessageDigest,
    pkey::{PKey, PKeyRef, Private},
    rsa::Rsa,
    x509::{
        X509, X509Builder, X509NameBuilder,
        extension::{BasicConstraints, SubjectAlternativeName},
    },
};
use std::net::IpAddr;

/// Signs certificates for a day.
pub(crate) struct Authority {
    key: PKey<Private>,
    certificate: X509,
}

/// A server's certificate with its private key (PKCS 8), both in PEM.
pub(crate) struct Identity {
    pub(crate) certificate: Vec<u8>,
    pub(crate) key: Vec<u8>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = key();
        let mut builder = builder("authority", &key);
        builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        Self { key, certificate: builder.build() }
    }

    /// What a client that trusts this authority is given, in PEM.
    pub(crate) fn certificate(&self) -> Vec<u8> {
        self.certificate.to_pem().unwrap()
    }

    /// An identity for `host`, a name or an address.
    pub(crate) fn identity(&self, host: &str) -> Identity {
        let key = key();
        let mut builder = builder(host, &key);
        builder.set_issuer_name(self.certificate.subject_name()).unwrap();
        let mut names = SubjectAlternativeName::new();
        if host.parse::<IpAddr>().is_ok() {
            names.ip(host)
        } else {
            names.dns(host)
        };
        let names = names.build(&builder.x509v3_context(Some(&self.certificate), None)).unwrap();
        builder.append_extension(names).unwrap();
        builder.sign(&self.key, MessageDigest::sha256()).unwrap();
        Identity { certificate: builder.build().to_pem().unwrap(), key: key.private_key_to_pem_pkcs8().unwrap() }
    }
}

fn key() -> PKey<Private> {
    PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap()
}

/// A certificate of `key`, issued by itself as long as nobody else is named.
fn builder(name: &str, key: &PKeyRef<Private>) -> X509Builder {
    let mut common = X509NameBuilder::new().unwrap();
    common.append_entry_by_text("CN", name).unwrap();
    let name = common.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_subject_name(&name).unwrap();
    builder.set_issuer_name(&name).unwrap();
    builder.set_pubkey(key).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
    builder
}
