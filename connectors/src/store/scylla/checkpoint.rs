//! How far a scan has come: the token and clustering key of the last row, as JSON.
//! It names the partition by a hash only, because partition keys may be personal data and checkpoints are shown.

use crate::store::{Checkpoint, StoreError};
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD as BASE64};
use bellwether_schemas::{
    Timestamp,
    rows::{Key, Table, Type, Value},
};
use serde_json::{Value as Json, json};
use uuid::Uuid;

/// Where a scan's last row stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// Token of its partition.
    pub(super) token: i64,
    /// Tells its partition from others of the same token, see [`fingerprint`].
    pub(super) partition: Uuid,
    /// Its clustering key.
    pub(super) clustering: Vec<Value>,
}

/// A hash of a partition key, for as long as the table lives.
pub(super) fn fingerprint(partition: &[Value]) -> Uuid {
    let json = Json::from_iter(partition.iter().map(to_json));
    Uuid::new_v5(&Uuid::NAMESPACE_OID, json.to_string().as_bytes())
}

impl Position {
    pub(super) fn of(token: i64, key: &Key) -> Self {
        Self { token, partition: fingerprint(&key.partition), clustering: key.clustering.clone() }
    }

    /// `["table", token, "partition", [clustering]]`
    pub(super) fn print(&self, table: &Table) -> Checkpoint {
        let clustering = Json::from_iter(self.clustering.iter().map(to_json));
        Checkpoint(json!([table.name, self.token, self.partition.to_string(), clustering]).to_string())
    }

    pub(super) fn parse(table: &Table, checkpoint: &Checkpoint) -> Result<Self, StoreError> {
        let parsed = || {
            let (name, token, partition, clustering): (String, i64, Uuid, Vec<Json>) =
                serde_json::from_str(&checkpoint.0).ok()?;
            if name != table.name || clustering.len() != table.clustering.len() {
                return None;
            }
            let values = clustering.iter().zip(table.clustering).map(|(json, (_, kind))| from_json(*kind, json));
            Some(Self { token, partition, clustering: values.collect::<Option<_>>()? })
        };
        parsed().ok_or_else(|| {
            StoreError::Refused(format!("not a checkpoint of a scan of table {}: begin the range anew", table.name))
        })
    }
}

fn to_json(value: &Value) -> Json {
    match value {
        Value::Text(text) => json!(text),
        Value::Int(number) => json!(number),
        Value::Timestamp(at) => json!(at.0),
        Value::Uuid(id) => json!(id.to_string()),
        Value::Bytes(bytes) => json!(BASE64.encode(bytes)),
        Value::Bool(flag) => json!(flag),
    }
}

fn from_json(kind: Type, json: &Json) -> Option<Value> {
    Some(match kind {
        Type::Text => Value::Text(json.as_str()?.to_owned()),
        Type::Int => Value::Int(json.as_i64()?),
        Type::Timestamp => Value::Timestamp(Timestamp(json.as_i64()?)),
        Type::Uuid => Value::Uuid(json.as_str()?.parse().ok()?),
        Type::Bytes => Value::Bytes(BASE64.decode(json.as_str()?).ok()?),
        Type::Bool => Value::Bool(json.as_bool()?),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bellwether_schemas::{rows::Row, tables::*};
    use proptest::prelude::*;

    fn value(kind: Type) -> BoxedStrategy<Value> {
        match kind {
            Type::Text => ".*".prop_map(Value::Text).boxed(),
            Type::Int => any::<i64>().prop_map(Value::Int).boxed(),
            Type::Timestamp => any::<i64>().prop_map(|at| Value::Timestamp(Timestamp(at))).boxed(),
            Type::Uuid => any::<u128>().prop_map(|id| Value::Uuid(Uuid::from_u128(id))).boxed(),
            Type::Bytes => any::<Vec<u8>>().prop_map(Value::Bytes).boxed(),
            Type::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        }
    }

    fn position() -> impl Strategy<Value = (&'static Table, Position)> {
        proptest::sample::select(bellwether_schemas::tables::all()).prop_flat_map(|table| {
            let clustering: Vec<_> = table.clustering.iter().map(|(_, kind)| value(*kind)).collect();
            (any::<i64>(), any::<u128>(), clustering).prop_map(move |(token, partition, clustering)| {
                (table, Position { token, partition: Uuid::from_u128(partition), clustering })
            })
        })
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back((table, position) in position()) {
            prop_assert_eq!(Position::parse(table, &position.print(table)).unwrap(), position);
        }

        #[test]
        fn any_other_text_is_refused(text in ".*") {
            prop_assert!(Position::parse(StoryRow::TABLE, &Checkpoint(text)).is_err());
        }
    }

    #[test]
    fn a_checkpoint_of_another_table_is_refused_and_none_shows_its_partition() {
        let key = MemberRow::key("shop", "ada@example.org", PROFILE, "");
        let printed = Position::of(7, &key).print(MemberRow::TABLE);
        assert!(!printed.0.contains("ada"), "{printed:?}");
        let refused = Position::parse(AggregateRow::TABLE, &printed).unwrap_err();
        assert!(refused.to_string().contains("aggregates"), "{refused}");
    }
}
