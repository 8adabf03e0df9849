//! Which provider of a channel serves which address: weights, the order of each address, and who stands in for whom.
#![allow(clippy::unwrap_used, missing_docs)]

use bellwether_processors::definitions::{Compiled, ProviderCheck};
use bellwether_schemas::Channel;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

fn check(_: &str, _: &Map<String, Value>) -> ProviderCheck {
    ProviderCheck { channel: Some(Channel::Email), ..ProviderCheck::default() }
}

/// A project that sends mail by providers of these names and weights.
fn project(weights: &BTreeMap<String, u32>) -> Compiled {
    let providers: Map<String, Value> =
        weights.iter().map(|(name, weight)| (name.clone(), json!({"kind": "any", "weight": weight}))).collect();
    let document = json!({
        "project": {"name": "shop", "default_locale": "en"}, "providers": providers, "templates": {}, "flows": {},
    });
    Compiled::new(serde_json::from_value(document).unwrap(), 1, &check).unwrap()
}

fn weights(given: &[(&str, u32)]) -> BTreeMap<String, u32> {
    given.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect()
}

fn of(project: &Compiled, n: u32, may_call: impl Fn(&str) -> bool) -> String {
    project.provider_of(Channel::Email, &format!("m{n}@example.com"), may_call).unwrap().0.to_owned()
}

const ADDRESSES: u32 = 20_000;

#[test]
fn a_weight_is_a_part_of_the_addresses() {
    let project = project(&weights(&[("a", 1), ("b", 3), ("standby", 0)]));
    let by_b = (0..ADDRESSES).filter(|n| of(&project, *n, |_| true) == "b").count();
    let part = by_b as f64 / f64::from(ADDRESSES);
    // Three parts of four; the deviation of a part of 20,000 draws is 0.3 %.
    assert!((part - 0.75).abs() < 0.015, "{part}");
    assert!((0..ADDRESSES).all(|n| of(&project, n, |_| true) != "standby"), "weight 0 takes over only");
}

#[test]
fn a_provider_that_may_not_be_called_gives_its_addresses_to_the_others() {
    let project = project(&weights(&[("a", 1), ("b", 1), ("c", 2), ("standby", 0)]));
    let mut taken: BTreeMap<String, u32> = BTreeMap::new();
    for n in 0..ADDRESSES {
        let usual = of(&project, n, |_| true);
        let now = of(&project, n, |name| name != "a");
        if usual == "a" {
            *taken.entry(now).or_default() += 1;
        } else {
            assert_eq!(now, usual, "an address moves only if its own provider is out");
        }
    }
    // The others take in proportion to their weights.
    let part = f64::from(taken["c"]) / f64::from(taken["b"] + taken["c"]);
    assert!((part - 2.0 / 3.0).abs() < 0.03, "{taken:?}");
    let standby = of(&project, 1, |name| name == "standby");
    assert_eq!(standby, "standby", "it stands in where no other may be called");
    assert_eq!(of(&project, 1, |_| false), of(&project, 1, |_| true), "where none may, it waits for its own");
}

#[test]
fn without_a_choice_nobody_is_asked() {
    let project = project(&weights(&[("a", 1)]));
    assert_eq!(of(&project, 1, |_| unreachable!("there is one")), "a");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A changed weight, a new provider or one that is gone moves no address between two others.
    #[test]
    fn addresses_move_only_to_or_from_what_changed(
        before in prop::collection::btree_map("[a-h]", 0_u32..5, 2..6), changed in "[a-h]", weight in prop::option::of(1_u32..9),
    ) {
        let mut after = before.clone();
        match weight {
            Some(weight) => drop(after.insert(changed.clone(), weight)),
            None => drop(after.remove(&changed)),
        }
        // Where none has a weight they all stand in for nobody, which is another order.
        prop_assume!(!after.is_empty());
        prop_assume!([&before, &after].iter().all(|w| w.iter().any(|(name, weight)| *name != changed && *weight > 0)));
        let (old, new) = (project(&before), project(&after));
        let moved: BTreeSet<(String, String)> =
            (0..300).map(|n| (of(&old, n, |_| true), of(&new, n, |_| true))).filter(|(from, to)| from != to).collect();
        for (from, to) in moved {
            prop_assert!(from == changed || to == changed, "{from} -> {to}, and {changed} changed");
        }
    }
}
