//! Deliver is the one step with an outside effect. Here is what is pure of it: [`prepare`] before the call, [`settle`] after it,
//! and the [`Claim`] that is committed before and tells the next owner what was perhaps sent.

use crate::{
    content::Rendered,
    definitions::Compiled,
    processor::{Output, Refusal},
};
use bellwether_schemas::{
    Timestamp,
    definitions::{OnAmbiguous, Provider},
    records::{Delivery, ErrorKind, MemberAction, MemberCommand, Reason, Receipt, ReceiptKind, Record},
};
use std::time::Duration;

/// Longest wait between two tries.
const MAX_BACKOFF: Duration = Duration::from_secs(3_600);
/// What is our provider's or our own account's doing, not the message's, may be tried this many times as often.
const PATIENCE: u32 = 8;

/// What is to be done with a delivery.
#[derive(Clone, Debug, PartialEq)]
pub enum Prepared {
    /// Send this by the provider of that name, which is defined so.
    Send(Box<Rendered>, String, Provider),
    /// Do not send: this is how it ends.
    End(Output),
}

/// The end of one try, as the connectors tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tried {
    /// The provider took it.
    Accepted {
        /// Its own id of the message.
        provider_id: Option<String>,
        /// Where the member is to be reached from now on, if that has changed.
        moved_to: Option<String>,
        /// What else is worth telling of it.
        detail: Option<String>,
    },
    /// It did not, or we do not know.
    Failed {
        /// What to do about it.
        kind: ErrorKind,
        /// The provider's words.
        detail: String,
        /// How long it told us to wait.
        after: Option<Duration>,
    },
}

/// Chooses the provider and renders the delivery, unless it is too late or cannot be. `may_call` says whether a provider may be called now.
#[must_use]
pub fn prepare(delivery: &Delivery, project: &Compiled, may_call: impl Fn(&str) -> bool, now: Timestamp) -> Prepared {
    let sender = project.sender_of(&delivery.template, delivery.channel, &delivery.address, may_call);
    let Some((name, provider)) = sender else {
        let detail = format!("no provider serves {} any more; apply one, then replay", delivery.channel);
        return Prepared::End(rejected(delivery, "", &detail, now));
    };
    if let Some(output) = expired(delivery, name, provider, now) {
        return Prepared::End(output);
    }
    let locale = delivery.locale.as_deref();
    match project.content().render_json(&delivery.template, delivery.channel, locale, &delivery.context) {
        Ok(rendered) => Prepared::Send(Box::new(rendered), name.to_owned(), provider.clone()),
        Err(problem) => Prepared::End(rejected(delivery, name, &problem.to_string(), now)),
    }
}

/// How a delivery ends whose time has passed: it may have waited long for its provider since it was prepared.
#[must_use]
pub fn expired(delivery: &Delivery, name: &str, provider: &Provider, now: Timestamp) -> Option<Output> {
    delivery.expires_at.filter(|at| *at <= now)?;
    let detail = "it expired before it could be sent".into();
    Some(settle(delivery, name, provider, Tried::Failed { kind: ErrorKind::Expired, detail, after: None }, now))
}

fn rejected(delivery: &Delivery, provider: &str, detail: &str, now: Timestamp) -> Output {
    Output {
        records: vec![receipt(delivery, provider, ReceiptKind::Failed, Some(ErrorKind::Rejected), detail, now)],
        refused: Some(Refusal::new(Reason::Evaluation, detail)),
        ..Output::default()
    }
}

/// What follows from a try.
#[must_use]
pub fn settle(delivery: &Delivery, name: &str, provider: &Provider, tried: Tried, now: Timestamp) -> Output {
    let (kind, detail, after) = match tried {
        Tried::Accepted { provider_id, moved_to, detail } => {
            let sent = Receipt { provider_id, detail, ..told(delivery, name, ReceiptKind::Sent, now) };
            let mut records = vec![Record::Receipt(sent)];
            if let Some(address) = moved_to {
                let left = Some(delivery.address.clone());
                records.push(moved(delivery, name, MemberAction::AddAddress, Some(address), now));
                records.push(moved(delivery, name, MemberAction::RemoveAddress, left, now));
            }
            return Output { records, ..Output::default() };
        }
        Tried::Failed { kind, detail, after } => (kind, detail, after),
    };
    let tries = u32::try_from(delivery.attempt).unwrap_or(u32::MAX);
    let again = match kind {
        ErrorKind::Transient => tries < provider.max_attempts,
        ErrorKind::Ambiguous => provider.on_ambiguous == OnAmbiguous::Resend && tries < provider.max_attempts,
        ErrorKind::Throttled | ErrorKind::Unauthorized => tries < provider.max_attempts.saturating_mul(PATIENCE),
        ErrorKind::InvalidAddress
        | ErrorKind::OptedOut
        | ErrorKind::Rejected
        | ErrorKind::Expired
        | ErrorKind::Unreachable => false,
    };
    if again {
        let wait = backoff(delivery, provider).max(after.unwrap_or_default());
        let next = Delivery { attempt: delivery.attempt.saturating_add(1), ..delivery.clone() };
        return Output {
            records: vec![
                receipt(delivery, name, ReceiptKind::Deferred, Some(kind), &detail, now),
                Record::Later(now.plus(wait), Box::new(Record::Delivery(next))),
            ],
            ..Output::default()
        };
    }
    let refused = match kind {
        ErrorKind::InvalidAddress | ErrorKind::OptedOut | ErrorKind::Expired | ErrorKind::Unreachable => None,
        ErrorKind::Rejected => Some(Reason::Rejected),
        ErrorKind::Ambiguous if provider.on_ambiguous == OnAmbiguous::Hold => Some(Reason::Ambiguous),
        _ => Some(Reason::Exhausted),
    };
    Output {
        records: vec![receipt(delivery, name, ReceiptKind::Failed, Some(kind), &detail, now)],
        refused: refused.map(|reason| Refusal::new(reason, format!("{}: {detail}", kind.name()))),
        ..Output::default()
    }
}

fn moved(delivery: &Delivery, provider: &str, action: MemberAction, address: Option<String>, now: Timestamp) -> Record {
    Record::Member(MemberCommand {
        channel: Some(delivery.channel),
        address,
        ..MemberCommand::new(
            delivery.project.clone(),
            delivery.member.clone(),
            action,
            format!("provider {provider}"),
            now,
        )
    })
}

/// Doubles with every try, and spreads by up to half of itself, derived from the id so that a redelivery waits as long.
fn backoff(delivery: &Delivery, provider: &Provider) -> Duration {
    let doublings = u32::try_from(delivery.attempt.saturating_sub(1)).unwrap_or(0).min(20);
    let base = Duration::from_millis(provider.backoff_ms).saturating_mul(1 << doublings).min(MAX_BACKOFF);
    let seed = u64::try_from(delivery.attempt).unwrap_or(0);
    let spread = xxhash_rust::xxh64::xxh64(delivery.id.0.as_bytes(), seed) % 1_000;
    base + base.mul_f64(spread as f64 / 2_000.0)
}

fn told(delivery: &Delivery, provider: &str, kind: ReceiptKind, now: Timestamp) -> Receipt {
    Receipt {
        delivery: delivery.id,
        notification: delivery.notification,
        project: delivery.project.clone(),
        member: delivery.member.clone(),
        template: delivery.template.clone(),
        channel: delivery.channel,
        kind,
        at: now,
        attempt: delivery.attempt,
        provider: provider.to_owned(),
        provider_id: None,
        error: None,
        detail: None,
        address: None,
    }
}

fn receipt(
    delivery: &Delivery,
    provider: &str,
    kind: ReceiptKind,
    error: Option<ErrorKind>,
    detail: &str,
    now: Timestamp,
) -> Record {
    let of_address = matches!(error, Some(ErrorKind::InvalidAddress | ErrorKind::Unreachable));
    let address = of_address.then(|| delivery.address.clone());
    Record::Receipt(Receipt { error, detail: Some(detail.to_owned()), address, ..told(delivery, provider, kind, now) })
}

/// How far a partition's owner has claimed and which of the claimed are settled, as it is committed beside the offset of the first unsettled
/// record. Claimed and not settled is ambiguous to the next owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// Next offset that is not claimed.
    pub until: u64,
    /// Settled offsets within the committed offset and `until`, ascending.
    pub settled: Vec<u64>,
}

/// Widest span of offsets that a claim's bitmap may cover: 6 bits a character in 4,096 bytes, with room for the head.
pub const MAX_CLAIM: u64 = 24_000;

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl Claim {
    /// As commit metadata: `1:` (the format), the claimed count, `:`, and a bitmap of 6 offsets a digit (base64url alphabet), least significant first.
    #[must_use]
    pub fn encode(&self, committed: u64) -> String {
        let mut bits = Vec::new();
        for offset in &self.settled {
            let Some(at) = offset.checked_sub(committed).and_then(|at| usize::try_from(at).ok()) else { continue };
            if bits.len() <= at / 6 {
                bits.resize(at / 6 + 1, 0u8);
            }
            bits[at / 6] |= 1 << (at % 6);
        }
        let map: String = bits.into_iter().map(|six| char::from(DIGITS[usize::from(six)])).collect();
        format!("1:{}:{map}", self.until.saturating_sub(committed))
    }

    /// Reads what [`Claim::encode`] wrote beside `committed`. Anything else is no claim: nothing beyond the offset was called.
    #[must_use]
    pub fn decode(committed: u64, metadata: &str) -> Self {
        let none = Self { until: committed, settled: Vec::new() };
        let mut parts = metadata.splitn(3, ':');
        let (Some("1"), Some(count), Some(map)) = (parts.next(), parts.next(), parts.next()) else { return none };
        let Ok(count) = count.parse::<u64>() else { return none };
        if count > MAX_CLAIM || map.len() as u64 * 6 > MAX_CLAIM {
            return none;
        }
        let mut settled = Vec::new();
        for (at, digit) in map.bytes().enumerate() {
            let Some(six) = DIGITS.iter().position(|d| *d == digit) else { return none };
            let first = committed + at as u64 * 6;
            settled.extend((0..6).filter(|bit| six >> bit & 1 == 1).map(|bit| first + bit));
        }
        Self { until: committed.saturating_add(count), settled }
    }
}
