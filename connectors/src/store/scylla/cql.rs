//! The text of every CQL statement, made from a [`Table`].
//! Pure: what is sent, and what is bound to it, is [`super::statements`]' and [`super::cells`]' business.

use bellwether_schemas::rows::{Table, Type};

/// How a CQL type is called in results and in `system_schema.columns`.
pub(super) const fn type_name(kind: Type) -> &'static str {
    match kind {
        Type::Text => "text",
        Type::Int => "bigint",
        Type::Timestamp => "timestamp",
        Type::Uuid => "uuid",
        Type::Bytes => "blob",
        Type::Bool => "boolean",
    }
}

/// The column that a fenced table has beside its own: the fence, for reading it back. (`WRITETIME` would have to be asked of every column,
/// because it is null where the column is, and could not answer for a row without values.)
pub(super) const FENCE: (&str, Type) = ("fence", Type::Int);

/// All columns: partition key, clustering key, then the others, each in the table's order, and [`FENCE`] where there is one.
/// Rows are selected and inserted in this order.
pub(super) fn columns(table: &Table) -> impl Iterator<Item = (&'static str, Type)> + use<> {
    let own = table.partition.iter().chain(table.clustering).chain(table.columns).copied();
    own.chain(table.fenced.then_some(FENCE))
}

fn name(keyspace: &str, table: &Table) -> String {
    format!("\"{keyspace}\".\"{}\"", table.name)
}

/// `"a", "b"`
fn list(columns: impl Iterator<Item = (&'static str, Type)>) -> String {
    columns.map(|(name, _)| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}

/// `"a" = ? AND "b" = ?`
fn equal(columns: impl Iterator<Item = (&'static str, Type)>) -> String {
    columns.map(|(name, _)| format!("\"{name}\" = ?")).collect::<Vec<_>>().join(" AND ")
}

fn marks(count: usize) -> String {
    vec!["?"; count].join(", ")
}

fn key(table: &Table) -> impl Iterator<Item = (&'static str, Type)> + use<> {
    table.partition.iter().chain(table.clustering).copied()
}

fn select(keyspace: &str, table: &Table) -> String {
    format!("SELECT {} FROM {}", list(columns(table)), name(keyspace, table))
}

/// Rows of a partition whose first `prefix` clustering columns are equal. Binds partition, prefix, limit.
pub(super) fn select_prefix(keyspace: &str, table: &Table, prefix: usize) -> String {
    let columns = table.partition.iter().chain(&table.clustering[..prefix]).copied();
    format!("{} WHERE {} LIMIT ?", select(keyspace, table), equal(columns))
}

/// `count` rows of a partition by their whole clustering keys. Binds partition, the keys, limit.
pub(super) fn select_rows(keyspace: &str, table: &Table, count: usize) -> String {
    let one = format!("({})", marks(table.clustering.len()));
    format!(
        "{} WHERE {} AND ({}) IN ({}) LIMIT ?",
        select(keyspace, table),
        equal(table.partition.iter().copied()),
        list(table.clustering.iter().copied()),
        vec![one; count].join(", ")
    )
}

/// Rows of a partition between two bounds of `width` clustering columns, the upper one excluded. Binds partition, from, to, limit.
pub(super) fn select_between(keyspace: &str, table: &Table, width: usize) -> String {
    let (bounds, marks) = (list(table.clustering[..width].iter().copied()), marks(width));
    format!(
        "{} WHERE {} AND ({bounds}) >= ({marks}) AND ({bounds}) < ({marks}) LIMIT ?",
        select(keyspace, table),
        equal(table.partition.iter().copied())
    )
}

/// Rows of a partition after a whole clustering key. Binds partition, clustering, limit.
pub(super) fn select_after(keyspace: &str, table: &Table) -> String {
    format!(
        "{} WHERE {} AND ({}) > ({}) LIMIT ?",
        select(keyspace, table),
        equal(table.partition.iter().copied()),
        list(table.clustering.iter().copied()),
        marks(table.clustering.len())
    )
}

/// All rows of a range of tokens, each preceded by its token. Binds first and last token.
pub(super) fn select_tokens(keyspace: &str, table: &Table) -> String {
    let token = format!("token({})", list(table.partition.iter().copied()));
    format!(
        "SELECT {token}, {} FROM {} WHERE {token} >= ? AND {token} <= ?",
        list(columns(table)),
        name(keyspace, table)
    )
}

/// The partition keys that have one token (there may be several). Binds the token.
pub(super) fn select_partitions(keyspace: &str, table: &Table) -> String {
    let partition = list(table.partition.iter().copied());
    format!("SELECT DISTINCT {partition} FROM {} WHERE token({partition}) = ?", name(keyspace, table))
}

/// Binds all columns, TTL (0: none), and the fence where there is one (again, as the cells' timestamp).
pub(super) fn insert(keyspace: &str, table: &Table) -> String {
    format!(
        "INSERT INTO {} ({}) VALUES ({}) USING TTL ?{}",
        name(keyspace, table),
        list(columns(table)),
        marks(columns(table).count()),
        if table.fenced { " AND TIMESTAMP ?" } else { "" }
    )
}

/// Binds all columns and TTL (0: none).
pub(super) fn insert_if_absent(keyspace: &str, table: &Table) -> String {
    format!(
        "INSERT INTO {} ({}) VALUES ({}) IF NOT EXISTS USING TTL ?",
        name(keyspace, table),
        list(columns(table)),
        marks(columns(table).count())
    )
}

/// Binds the fence where there is one, then the key.
pub(super) fn delete(keyspace: &str, table: &Table) -> String {
    let fence = if table.fenced { " USING TIMESTAMP ?" } else { "" };
    format!("DELETE FROM {}{fence} WHERE {}", name(keyspace, table), equal(key(table)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bellwether_schemas::{rows::Row, tables::*};

    #[test]
    fn statements_name_every_column_and_bind_by_the_tables_order() {
        let (keyspace, cursors) = ("k", ScheduleCursorRow::TABLE);
        assert_eq!(
            select_prefix(keyspace, cursors, 0),
            r#"SELECT "shard", "due" FROM "k"."schedule_cursors" WHERE "shard" = ? LIMIT ?"#
        );
        assert_eq!(
            insert(keyspace, cursors),
            r#"INSERT INTO "k"."schedule_cursors" ("shard", "due") VALUES (?, ?) USING TTL ?"#
        );
        let aggregates = AggregateRow::TABLE;
        assert_eq!(
            delete(keyspace, aggregates),
            concat!(
                r#"DELETE FROM "k"."aggregates" USING TIMESTAMP ? WHERE "project" = ? AND "day" = ? AND "template" = ? "#,
                r#"AND "channel" = ? AND "metric" = ? AND "source" = ?"#
            )
        );
        assert!(insert(keyspace, aggregates).contains(r#""included", "fence") VALUES"#));
        assert!(insert(keyspace, aggregates).ends_with("USING TTL ? AND TIMESTAMP ?"));
        let scheduled = ScheduledRow::TABLE;
        assert!(
            select_rows(keyspace, scheduled, 2)
                .ends_with(r#"WHERE "shard" = ? AND "minute" = ? AND ("due", "id") IN ((?, ?), (?, ?)) LIMIT ?"#)
        );
        assert!(select_between(keyspace, scheduled, 2).ends_with(
            r#"WHERE "shard" = ? AND "minute" = ? AND ("due", "id") >= (?, ?) AND ("due", "id") < (?, ?) LIMIT ?"#
        ));
        assert!(
            select_after(keyspace, scheduled)
                .ends_with(r#"WHERE "shard" = ? AND "minute" = ? AND ("due", "id") > (?, ?) LIMIT ?"#)
        );
        assert!(
            select_tokens(keyspace, scheduled)
                .ends_with(r#"WHERE token("shard", "minute") >= ? AND token("shard", "minute") <= ?"#)
        );
        assert!(insert_if_absent(keyspace, IdempotencyRow::TABLE).ends_with("IF NOT EXISTS USING TTL ?"));
    }
}
