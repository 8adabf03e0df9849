//! Pages through a list that is spread over shards ([`shard_of`](bellwether_schemas::tables::shard_of)): one shard after the other, and each in
//! the order of its entries. Knows places and cursors; what the list holds, and whether it is to be shown, is its reader's matter.

use super::{Shared, problem::Problem};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bellwether_schemas::{
    rows::{Read, Row, Span},
    tables::SHARDS,
};

/// Greater than every entry, in every store's order.
const END: &str = "\u{10ffff}";

/// Where in a list: the shard, and the entry behind which to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    shard: i64,
    behind: Option<String>,
}

impl Place {
    /// As a page's `next`.
    pub(super) fn cursor(&self) -> String {
        URL_SAFE_NO_PAD.encode(format!("{}/{}", self.shard, self.behind.as_deref().unwrap_or_default()))
    }

    /// From a page's `next`; the beginning where there is none.
    pub(super) fn read(cursor: Option<&str>) -> Result<Self, Problem> {
        let Some(cursor) = cursor else { return Ok(Self::default()) };
        let read = || {
            let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
            let (shard, behind) = text.split_once('/')?;
            let shard = shard.parse().ok().filter(|shard| (0..SHARDS).contains(shard))?;
            Some(Self { shard, behind: (!behind.is_empty()).then(|| behind.to_owned()) })
        };
        let bad = || Problem::invalid("cursor", "the cursor is none of ours", "send the `next` of the page before");
        read().ok_or_else(bad)
    }
}

/// What lies behind a text, in the order of texts.
pub(super) fn behind(text: &str) -> Span {
    Span::Between(vec![format!("{text}\0").into()], vec![END.into()])
}

impl Shared {
    /// The next rows of a list, and where the page after them begins. `shard` reads all of one shard; `entry` is what orders a row in it.
    pub(super) async fn page<R: Row>(
        &self,
        mut place: Place,
        limit: usize,
        shard: impl Fn(i64) -> Read,
        entry: impl Fn(&R) -> &str,
    ) -> Result<(Vec<R>, Option<Place>), Problem> {
        let mut rows: Vec<R> = Vec::new();
        while place.shard < SHARDS {
            let span = place.behind.as_deref().map_or(Span::All, behind);
            let read = Read { span, limit: Some(limit - rows.len()), ..shard(place.shard) };
            rows.extend(self.rows::<R>(read).await?);
            if rows.len() >= limit {
                place.behind = rows.last().map(|row| entry(row).to_owned());
                return Ok((rows, Some(place)));
            }
            place = Place { shard: place.shard + 1, behind: None };
        }
        Ok((rows, None))
    }
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_cursor_reads_back_and_nothing_else_panics(shard in 0..SHARDS, entry in "\\PC{1,40}", other in "\\PC{0,40}") {
            let place = Place { shard, behind: Some(entry) };
            prop_assert_eq!(Place::read(Some(&place.cursor())).unwrap(), place);
            Place::read(Some(&other)).ok();
        }
    }
}
