//! What every variant of a template would say, side by side, each with its sizes or with why it says nothing.
//! Sends nothing, and one variant that fails spoils no other.

use super::{
    Content,
    limits::{Measure, measures},
};
use bellwether_schemas::{Channel, definitions::Variant};
use serde_json::Value as Json;

/// One variant of a template as it would be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Previewed {
    /// Channel.
    pub channel: Channel,
    /// Locale of the variant.
    pub locale: String,
    /// The variant with every text rendered, or why it cannot be.
    pub rendered: Result<Variant, String>,
    /// How much it takes of its channel's limits.
    pub measures: Vec<Measure>,
}

impl Content {
    /// Renders every variant of a template with one context, by channel and locale.
    #[must_use]
    pub fn preview(&self, template: &str, context: &Json) -> Vec<Previewed> {
        let channels = self.variants.get(template).into_iter().flatten();
        let mut all: Vec<Previewed> = channels
            .flat_map(|(channel, locales)| {
                locales.keys().map(|locale| self.previewed(template, *channel, locale, context))
            })
            .collect();
        all.sort_by(|a, b| (a.channel, &a.locale).cmp(&(b.channel, &b.locale)));
        all
    }

    fn previewed(&self, template: &str, channel: Channel, locale: &str, context: &Json) -> Previewed {
        let rendered = self.render(template, channel, Some(locale), context);
        let rendered = rendered.map(|rendered| rendered.variant).map_err(|error| error.to_string());
        let measures = rendered.as_ref().map(|variant| measures(channel, variant)).unwrap_or_default();
        Previewed { channel, locale: locale.to_owned(), rendered, measures }
    }
}
