//! What librdkafka's and the broker's error codes mean for a caller: try again, or not, or stop claiming.
//! Protocol codes: <https://kafka.apache.org/protocol#protocol_error_codes>. Nothing is retried here.

use super::super::{CommitError, LogError};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use std::sync::atomic::{AtomicI32, Ordering};

/// An error of a request, or of a consumer, that concerns `subject` (a topic or a group).
pub(super) fn from_code(code: Code, subject: &str) -> LogError {
    match code {
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition => {
            LogError::UnknownTopic(subject.into())
        }
        Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed | Code::ClusterAuthorizationFailed => {
            LogError::Refused(format!("{subject}: {code}; give kafka.sasl.username the right to it"))
        }
        Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState => LogError::Refused(format!("{code}; check kafka.sasl and kafka.tls")),
        Code::InvalidSessionTimeout => LogError::Refused(format!(
            "kafka.session_timeout_ms: {code}; the broker's group.min.session.timeout.ms and group.max.session.timeout.ms bound it"
        )),
        Code::InvalidReplicationFactor => {
            LogError::Refused(format!("kafka.replication: {code}; use at most the number of brokers"))
        }
        Code::InvalidTopic | Code::InvalidPartitions | Code::InvalidConfig | Code::PolicyViolation => {
            LogError::Refused(format!("{subject}: {code}"))
        }
        Code::OffsetMetadataTooLarge => LogError::Refused(format!(
            "{subject}: {code}; raise the broker's offset.metadata.max.bytes to its default of 4096"
        )),
        _ => LogError::Unavailable(format!("{subject}: {code}")),
    }
}

/// An error of any kind that concerns `subject`. Never shows the value of a setting, which may be a secret.
pub(super) fn from_kafka(error: &KafkaError, subject: &str) -> LogError {
    match error {
        KafkaError::ClientConfig(_, problem, setting, _) => {
            LogError::Refused(format!("kafka setting `{setting}`: {problem}"))
        }
        KafkaError::ClientCreation(problem) => LogError::Refused(format!("kafka settings: {problem}")),
        KafkaError::AdminOp(code) => from_code(*code, subject),
        other => match other.rdkafka_error_code() {
            Some(code) => from_code(code, subject),
            None => LogError::Unavailable(format!("{subject}: {other}")),
        },
    }
}

/// Why no broker can be asked, from an error that librdkafka told by the way, in its own `words`.
pub(super) fn from_connection(code: Code, words: &str) -> LogError {
    match code {
        Code::Authentication => LogError::Refused(format!("{words}; check kafka.sasl")),
        Code::SSL if words.contains("certificate verify failed") => {
            LogError::Refused(format!("{words}; check kafka.tls"))
        }
        _ => unreachable(words),
    }
}

/// A broker that goes away in the midst of a handshake looks the same as one that wants another kind of it.
pub(super) fn unreachable(words: &str) -> LogError {
    LogError::Unavailable(format!("{words}; if it stays so, check kafka.brokers, kafka.tls and kafka.sasl"))
}

/// Why a commit failed: whether the group has gone on without us, or whether nobody knows.
pub(super) fn from_commit(error: &KafkaError, group: &str) -> CommitError {
    match error.rdkafka_error_code() {
        Some(
            // The group does not know us any more: we stalled for longer than the session timeout, or missed a rebalance.
            Code::UnknownMemberId
            // The group has rebalanced since we were given our partitions. (`StaleMemberEpoch` and `FencedMemberEpoch` are the words
            // of the newer group protocol, which `options` cannot turn on; they would mean the same.)
            | Code::IllegalGeneration
            | Code::StaleMemberEpoch
            | Code::FencedMemberEpoch
            // The broker says this only between the joining and the assigning of a new generation. Before, while members are asked to
            // join, commits of the old generation pass; so by now the partitions are being given away.
            | Code::RebalanceInProgress
            // Another member uses our group.instance.id; librdkafka then refuses everything as fatal.
            | Code::FencedInstanceId
            | Code::Fenced
            | Code::Fatal
            // librdkafka itself has found out that we are no member.
            | Code::AssignmentLost,
        ) => CommitError::Superseded,
        // Among them WaitingForCoordinator: librdkafka held the commit back for a session timeout and no coordinator came.
        Some(code) => CommitError::Log(from_code(code, group)),
        None => CommitError::Log(LogError::Unavailable(format!("{group}: {error}"))),
    }
}

/// A lasting trouble, said once when it comes and once when it goes, however often it is met.
#[derive(Debug)]
pub(super) struct Trouble {
    what: &'static str,
    /// Code that was met last; 0 is none.
    met: AtomicI32,
}

impl Trouble {
    pub(super) const fn new(what: &'static str) -> Self {
        Self { what, met: AtomicI32::new(0) }
    }

    pub(super) fn met(&self, code: Code) {
        // One outage shows in several codes by turns; the first tells enough.
        if self.met.swap(code as i32, Ordering::Relaxed) == 0 {
            tracing::warn!(client = self.what, error = %code, "kafka: trouble, going on by itself when it ends");
        } else {
            tracing::debug!(client = self.what, error = %code, "kafka: still in trouble");
        }
    }

    /// Whether there was trouble until now. Called for every record, so it only reads where there was none.
    pub(super) fn over(&self) -> bool {
        let over = self.met.load(Ordering::Relaxed) != 0 && self.met.swap(0, Ordering::Relaxed) != 0;
        if over {
            tracing::info!(client = self.what, "kafka: working again");
        }
        over
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lost_membership_supersedes() {
        for code in [Code::UnknownMemberId, Code::IllegalGeneration, Code::RebalanceInProgress, Code::AssignmentLost] {
            assert!(matches!(from_commit(&KafkaError::ConsumerCommit(code), "g"), CommitError::Superseded), "{code}");
        }
        for code in
            [Code::WaitingForCoordinator, Code::OperationTimedOut, Code::NotCoordinator, Code::BrokerTransportFailure]
        {
            let error = from_commit(&KafkaError::ConsumerCommit(code), "g");
            assert!(matches!(error, CommitError::Log(LogError::Unavailable(_))), "{code}");
        }
        let error = from_commit(&KafkaError::ConsumerCommit(Code::GroupAuthorizationFailed), "g");
        assert!(matches!(error, CommitError::Log(LogError::Refused(_))));
    }

    #[test]
    fn the_value_of_a_setting_is_not_shown() {
        let error = rdkafka::ClientConfig::new().set("linger.ms", "hunter2").create_native_config().err().unwrap();
        let text = from_kafka(&error, "x").to_string();
        assert!(text.contains("linger.ms") && !text.contains("hunter2"), "{text}");
    }
}
