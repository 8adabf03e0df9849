//! The house that joins decisions and doors: everything of the `bellwether` binary that tests and benches use too.
//! It decides nothing about a record (that is `processors`) and knows no provider's protocol (that is `connectors`).

pub mod receivers;
