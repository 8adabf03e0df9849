//! Definitions from YAML trees: every unknown field, missing field and wrong type is told, not only the first.
//! What values mean together is not judged here; `processors` does that.

use super::{
    Located,
    tree::{Entry, Kind, Node, Place},
};
use bellwether_processors::definitions::did_you_mean;
use bellwether_schemas::{
    Channel, Lane,
    definitions::{
        ApprovedTemplate, Attachment, Button, Cap, Category, Consent, DeclaredEvent, Digest, Exceed, Fallback, Flow,
        Media, MediaKind, MessageType, Notify, OnAmbiguous, Per, Project, Provider, QuietHours, Routing, Sample,
        Schema, Secret, Template, Title, Tracking, ValueFormat, ValueKind, Variant, Weekday, Weighted, Weights, Window,
    },
};
use serde_json::{Map, Number, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Reads one file and collects what is wrong with it.
pub(super) struct Reader {
    pub(super) file: String,
    pub(super) errors: Vec<Located>,
}

impl Reader {
    fn error(&mut self, at: Place, problem: impl Into<String>, remedy: impl Into<String>) {
        let (problem, remedy) = (problem.into(), remedy.into());
        self.errors.push(Located { file: self.file.clone(), line: at.line, column: at.column, problem, remedy });
    }

    fn expected(&mut self, node: &Node, expected: &str) {
        self.error(node.at, format!("{} where {expected} is expected", node.what()), format!("write {expected}"));
    }

    /// The entries of a map; nothing for what is none.
    fn entries<'n>(&mut self, node: &'n Node) -> &'n [Entry] {
        match &node.kind {
            Kind::Map(entries) => entries,
            _ => {
                self.expected(node, "a map");
                &[]
            }
        }
    }

    /// The entries of a map with known fields; others are told.
    fn fields<'n>(&mut self, node: &'n Node, known: &[&str]) -> Fields<'n> {
        let entries = self.entries(node);
        for entry in entries.iter().filter(|entry| !known.contains(&entry.key.as_str())) {
            let hint = did_you_mean(&entry.key, known.iter().copied());
            self.error(
                entry.at,
                format!("unknown field `{}`{hint}", entry.key),
                format!("use one of {}", known.join(", ")),
            );
        }
        Fields { at: node.at, entries, is_map: matches!(node.kind, Kind::Map(_)) }
    }

    fn required<T: Default>(
        &mut self,
        fields: &Fields<'_>,
        name: &str,
        read: impl FnOnce(&mut Self, &Node) -> Option<T>,
    ) -> T {
        match fields.get(name) {
            Some(node) => read(self, node).unwrap_or_default(),
            None => {
                if fields.is_map {
                    self.error(fields.at, format!("the field `{name}` is missing"), format!("add `{name}`"));
                }
                T::default()
            }
        }
    }

    /// Null is absent.
    fn optional<T>(
        &mut self,
        fields: &Fields<'_>,
        name: &str,
        read: impl FnOnce(&mut Self, &Node) -> Option<T>,
    ) -> Option<T> {
        fields.get(name).filter(|node| node.kind != Kind::Null).and_then(|node| read(self, node))
    }

    fn text(&mut self, node: &Node) -> Option<String> {
        match &node.kind {
            Kind::Text(text) => Some(text.clone()),
            Kind::Number(_) | Kind::Bool(_) => {
                self.error(node.at, format!("{} where text is expected", node.what()), "put it in quotes");
                None
            }
            _ => {
                self.expected(node, "text");
                None
            }
        }
    }

    fn whole_number<T: TryFrom<i64>>(&mut self, node: &Node) -> Option<T> {
        let number = match &node.kind {
            Kind::Number(number) => number.as_i64().and_then(|n| T::try_from(n).ok()),
            _ => None,
        };
        if number.is_none() {
            self.error(
                node.at,
                format!("{} that is no whole number in range", node.what()),
                "write a whole number, without quotes",
            );
        }
        number
    }

    fn number(&mut self, node: &Node) -> Option<Number> {
        match &node.kind {
            Kind::Number(number) => Some(number.clone()),
            _ => {
                self.expected(node, "a number");
                None
            }
        }
    }

    fn boolean(&mut self, node: &Node) -> Option<bool> {
        match &node.kind {
            Kind::Bool(yes) => Some(*yes),
            _ => {
                self.expected(node, "true or false");
                None
            }
        }
    }

    /// One of a closed set of names.
    fn choice<T: Copy>(&mut self, node: &Node, what: &str, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text(node)?;
        let names = || choices.iter().map(|(name, _)| *name);
        let found = choices.iter().find(|(name, _)| *name == text).map(|(_, choice)| *choice);
        if found.is_none() {
            let hint = did_you_mean(&text, names());
            let remedy = format!("use one of {}", names().collect::<Vec<_>>().join(", "));
            self.error(node.at, format!("unknown {what} `{text}`{hint}"), remedy);
        }
        found
    }

    fn channel(&mut self, node: &Node) -> Option<Channel> {
        self.choice(node, "channel", &Channel::ALL.map(|channel| (channel.name(), channel)))
    }

    fn lane(&mut self, node: &Node) -> Option<Lane> {
        self.choice(node, "lane", &Lane::ALL.map(|lane| (lane.name(), lane)))
    }

    fn json(&mut self, node: &Node) -> Option<Map<String, Value>> {
        Some(Node::json_map(self.entries(node)))
    }

    /// Keeps the first error of each place: what a text with an unset variable is not, nobody needs to hear.
    pub(super) fn without_consequences(&mut self) {
        let mut places = BTreeSet::new();
        self.errors.retain(|error| places.insert((error.line, error.column)));
    }

    /// `project.yaml`.
    pub(super) fn project(&mut self, node: &Node) -> Project {
        const FIELDS: [&str; 15] = [
            "name",
            "default_locale",
            "default_region",
            "time_zone",
            "quiet_hours",
            "holidays",
            "caps",
            "categories",
            "double_opt_in",
            "channels",
            "routing",
            "engagement",
            "tracking",
            "attributes",
            "search",
        ];
        let fields = self.fields(node, &FIELDS);
        Project {
            name: self.required(&fields, "name", Self::text),
            default_locale: self.required(&fields, "default_locale", Self::text),
            default_region: self.optional(&fields, "default_region", Self::text),
            time_zone: self.optional(&fields, "time_zone", Self::text),
            quiet_hours: self.optional(&fields, "quiet_hours", |r, n| {
                let fields = r.fields(n, &["from", "to"]);
                Some(QuietHours {
                    from: r.required(&fields, "from", Self::text),
                    to: r.required(&fields, "to", Self::text),
                })
            }),
            holidays: self.optional(&fields, "holidays", |r, n| r.list(n, Self::text)).unwrap_or_default(),
            caps: self
                .optional(&fields, "caps", |r, n| {
                    Some(r.entries(n).iter().map(|entry| (entry.key.clone(), r.cap(&entry.value))).collect())
                })
                .unwrap_or_default(),
            categories: self
                .optional(&fields, "categories", |r, n| {
                    Some(r.entries(n).iter().map(|entry| (entry.key.clone(), r.category(&entry.value))).collect())
                })
                .unwrap_or_default(),
            double_opt_in: self.optional(&fields, "double_opt_in", Self::boolean).unwrap_or_default(),
            channels: self.optional(&fields, "channels", |r, n| r.list(n, Self::channel)).unwrap_or_default(),
            routing: self.optional(&fields, "routing", |r, n| Some(r.routing(n))),
            engagement: self.optional(&fields, "engagement", Self::boolean).unwrap_or_default(),
            tracking: self.optional(&fields, "tracking", Self::tracking),
            attributes: self.optional(&fields, "attributes", Self::properties),
            search: self.optional(&fields, "search", |r, n| r.list(n, Self::text)).unwrap_or_default(),
        }
    }

    fn category(&mut self, node: &Node) -> Category {
        let fields = self.fields(node, &["title", "consent"]);
        let consents = Consent::ALL.map(|consent| (consent.name(), consent));
        Category {
            title: self.required(&fields, "title", |r, n| r.title(n).map(Some)).unwrap_or(Title::Plain(String::new())),
            consent: self
                .required(&fields, "consent", |r, n| r.choice(n, "consent", &consents).map(Some))
                .unwrap_or(Consent::Required),
        }
    }

    /// A text, or one for each locale.
    fn title(&mut self, node: &Node) -> Option<Title> {
        if !matches!(node.kind, Kind::Map(_)) {
            return self.text(node).map(Title::Plain);
        }
        let entries = self.entries(node).iter();
        Some(Title::ByLocale(entries.filter_map(|e| Some((e.key.clone(), self.text(&e.value)?))).collect()))
    }

    /// `None` where its key cannot be read, which has been told.
    fn tracking(&mut self, node: &Node) -> Option<Tracking> {
        const FIELDS: [&str; 7] = ["base_url", "key", "previous_keys", "opens", "clicks", "channels", "unsubscribe"];
        let fields = self.fields(node, &FIELDS);
        let base_url = self.required(&fields, "base_url", Self::text);
        let key = self.required(&fields, "key", |r, n| Some(r.secret(n)));
        Some(Tracking {
            base_url,
            previous_keys: self.optional(&fields, "previous_keys", |r, n| r.list(n, Self::secret)).unwrap_or_default(),
            opens: self.optional(&fields, "opens", Self::boolean).unwrap_or(true),
            clicks: self.optional(&fields, "clicks", Self::boolean).unwrap_or(true),
            channels: self
                .optional(&fields, "channels", |r, n| r.list(n, Self::channel))
                .unwrap_or_else(Tracking::default_channels),
            unsubscribe: self
                .optional(&fields, "unsubscribe", |r, n| r.list(n, Self::lane))
                .unwrap_or_else(Tracking::default_unsubscribe),
            key: key?,
        })
    }

    /// Where a secret is to be had. What is there instead is never repeated: it may be the secret.
    fn secret(&mut self, node: &Node) -> Option<Secret> {
        let place = match &node.kind {
            Kind::Map(entries) => match entries.as_slice() {
                [Entry { key, value: Node { kind: Kind::Text(place), .. }, .. }] => Some((key.as_str(), place.clone())),
                _ => None,
            },
            _ => None,
        };
        match place {
            Some(("env", name)) => Some(Secret::Env(name)),
            Some(("file", path)) => Some(Secret::File(path.into())),
            _ => {
                let remedy = "write `{env: NAME}` or `{file: PATH}`, never the secret itself";
                self.error(node.at, "the place of a secret is expected", remedy);
                None
            }
        }
    }

    fn cap(&mut self, node: &Node) -> Cap {
        let fields = self.fields(node, &["most", "per", "categories", "channels", "exceed", "keep"]);
        let exceed = [("drop", Exceed::Drop), ("defer", Exceed::Defer), ("digest", Exceed::Digest)];
        Cap {
            most: self.required(&fields, "most", Self::whole_number),
            per: self.required(&fields, "per", |r, n| r.per(n).map(Some)).unwrap_or(Per::Day),
            categories: self.required(&fields, "categories", |r, n| r.list(n, Self::text)),
            channels: self.optional(&fields, "channels", |r, n| r.list(n, Self::channel)).unwrap_or_default(),
            exceed: self.optional(&fields, "exceed", |r, n| r.choice(n, "policy", &exceed)).unwrap_or_default(),
            keep: self
                .optional(&fields, "keep", |r, n| {
                    let mut keep = BTreeMap::new();
                    for entry in r.entries(n) {
                        let Ok(priority) = entry.key.parse() else {
                            r.error(entry.at, format!("`{}` is no priority", entry.key), "write a number from 1 to 9");
                            continue;
                        };
                        keep.extend(r.whole_number(&entry.value).map(|places: u32| (priority, places)));
                    }
                    Some(keep)
                })
                .unwrap_or_default(),
        }
    }

    /// `day`, `week`, or `{hours: N}`.
    fn per(&mut self, node: &Node) -> Option<Per> {
        if matches!(node.kind, Kind::Map(_)) {
            let fields = self.fields(node, &["hours"]);
            return Some(Per::Hours(self.required(&fields, "hours", Self::whole_number)));
        }
        self.choice(node, "time", &[("day", Per::Day), ("week", Per::Week)])
    }

    fn routing(&mut self, node: &Node) -> Routing {
        let fields = self.fields(node, &["weights", "costs"]);
        Routing {
            weights: self.optional(&fields, "weights", |r, n| Some(r.weights(n))).unwrap_or_default(),
            costs: self.optional(&fields, "costs", |r, n| Some(r.by_channel(n, Self::number))).unwrap_or_default(),
        }
    }

    fn weights(&mut self, node: &Node) -> Weights {
        let fields = self.fields(node, &["reach", "engagement", "cost"]);
        let mut weight = |name| self.optional(&fields, name, Self::number).unwrap_or_else(Weights::default_weight);
        Weights { reach: weight("reach"), engagement: weight("engagement"), cost: weight("cost") }
    }

    /// `events/NAME.yaml`.
    pub(super) fn event(&mut self, node: &Node) -> DeclaredEvent {
        let fields = self.fields(node, &["type", "data", "samples"]);
        DeclaredEvent {
            kind: self.required(&fields, "type", Self::text),
            data: self.required(&fields, "data", Self::schema),
            samples: self
                .optional(&fields, "samples", |r, n| {
                    Some(r.entries(n).iter().map(|e| (e.key.clone(), r.sample(&e.value))).collect())
                })
                .unwrap_or_default(),
        }
    }

    fn sample(&mut self, node: &Node) -> Sample {
        let fields = self.fields(node, &["data", "member"]);
        Sample {
            data: self.required(&fields, "data", |_, node| Some(node.json())),
            member: self.optional(&fields, "member", Self::json).unwrap_or_default(),
        }
    }

    fn schema(&mut self, node: &Node) -> Option<Schema> {
        let known = ["type", "description", "properties", "required", "items", "enum", "format"];
        let fields = self.fields(node, &known);
        let list = |r: &mut Self, n: &Node| r.list(n, |_, n| Some(n.json()));
        fields.is_map.then(|| Schema {
            kind: self.optional(&fields, "type", |r, n| r.choice(n, "type", &ValueKind::ALL)),
            description: self.optional(&fields, "description", Self::text),
            properties: self.optional(&fields, "properties", Self::properties).unwrap_or_default(),
            required: self.optional(&fields, "required", |r, n| r.list(n, Self::text)).unwrap_or_default(),
            items: self.optional(&fields, "items", Self::schema).map(Box::new),
            choices: self.optional(&fields, "enum", list).unwrap_or_default(),
            format: self.optional(&fields, "format", |r, n| r.choice(n, "format", &ValueFormat::ALL)),
        })
    }

    fn properties(&mut self, node: &Node) -> Option<BTreeMap<String, Schema>> {
        let entries = self.entries(node);
        Some(entries.iter().map(|e| (e.key.clone(), self.schema(&e.value).unwrap_or_default())).collect())
    }

    /// `types/ID.yaml`.
    pub(super) fn message_type(&mut self, node: &Node) -> MessageType {
        let fields = self.fields(node, &["name", "channels", "sender", "templates"]);
        MessageType {
            name: self.optional(&fields, "name", Self::text),
            channels: self.optional(&fields, "channels", |r, n| r.list(n, Self::channel)).unwrap_or_default(),
            sender: self.optional(&fields, "sender", Self::text),
            templates: self.required(&fields, "templates", |r, n| r.list(n, Self::weighted)),
        }
    }

    fn weighted(&mut self, node: &Node) -> Option<Weighted> {
        let fields = self.fields(node, &["template", "weight"]);
        Some(Weighted {
            template: self.required(&fields, "template", Self::text),
            weight: self.optional(&fields, "weight", Self::whole_number).unwrap_or(Weighted::DEFAULT_WEIGHT),
        })
    }

    /// `providers.yaml`.
    pub(super) fn providers(&mut self, node: &Node) -> BTreeMap<String, Provider> {
        self.entries(node).iter().map(|entry| (entry.key.clone(), self.provider(&entry.value))).collect()
    }

    /// Fields that are not ours are the connector's settings.
    fn provider(&mut self, node: &Node) -> Provider {
        const OURS: [&str; 7] =
            ["kind", "weight", "rate_per_second", "max_in_flight", "on_ambiguous", "max_attempts", "backoff_ms"];
        let entries = self.entries(node);
        let fields = Fields { at: node.at, entries, is_map: matches!(node.kind, Kind::Map(_)) };
        let ambiguous = [("resend", OnAmbiguous::Resend), ("hold", OnAmbiguous::Hold)];
        Provider {
            kind: self.required(&fields, "kind", Self::text),
            weight: self.optional(&fields, "weight", Self::whole_number).unwrap_or(Provider::DEFAULT_WEIGHT),
            rate_per_second: self.optional(&fields, "rate_per_second", Self::whole_number),
            max_in_flight: self
                .optional(&fields, "max_in_flight", Self::whole_number)
                .unwrap_or(Provider::DEFAULT_MAX_IN_FLIGHT),
            on_ambiguous: self
                .optional(&fields, "on_ambiguous", |r, n| r.choice(n, "policy", &ambiguous))
                .unwrap_or_default(),
            max_attempts: self
                .optional(&fields, "max_attempts", Self::whole_number)
                .unwrap_or(Provider::DEFAULT_MAX_ATTEMPTS),
            backoff_ms: self
                .optional(&fields, "backoff_ms", Self::whole_number)
                .unwrap_or(Provider::DEFAULT_BACKOFF_MS),
            settings: entries
                .iter()
                .filter(|entry| !OURS.contains(&entry.key.as_str()))
                .map(|entry| (entry.key.clone(), entry.value.json()))
                .collect(),
        }
    }

    /// `templates/NAME.yaml`.
    pub(super) fn template(&mut self, node: &Node) -> Template {
        let fields = self.fields(node, &["channels", "sample"]);
        let channels = self.required(&fields, "channels", |r, n| Some(r.by_channel(n, |r, n| Some(r.variants(n)))));
        Template { channels, sample: self.optional(&fields, "sample", Self::json).unwrap_or_default() }
    }

    /// What can be read, by channel.
    fn by_channel<T>(&mut self, node: &Node, read: impl Fn(&mut Self, &Node) -> Option<T>) -> BTreeMap<Channel, T> {
        let mut all = BTreeMap::new();
        for entry in self.entries(node) {
            let name = Node { at: entry.at, kind: Kind::Text(entry.key.clone()) };
            let value = read(self, &entry.value);
            all.extend(self.channel(&name).zip(value));
        }
        all
    }

    fn variants(&mut self, node: &Node) -> BTreeMap<String, Variant> {
        self.entries(node).iter().map(|entry| (entry.key.clone(), self.variant(&entry.value))).collect()
    }

    fn variant(&mut self, node: &Node) -> Variant {
        const FIELDS: [&str; 13] = [
            "subject",
            "title",
            "html",
            "text",
            "json",
            "url",
            "icon",
            "image",
            "header",
            "template",
            "buttons",
            "attachments",
            "data",
        ];
        let fields = self.fields(node, &FIELDS);
        let mut text = |name| self.optional(&fields, name, Self::text);
        let (subject, title, html, body) = (text("subject"), text("title"), text("html"), text("text"));
        let (json, url, icon, image) = (text("json"), text("url"), text("icon"), text("image"));
        Variant {
            subject,
            title,
            html,
            text: body,
            json,
            url,
            icon,
            image,
            header: self.optional(&fields, "header", |r, n| Some(r.media(n))),
            template: self.optional(&fields, "template", |r, n| Some(r.approved_template(n))),
            buttons: self.optional(&fields, "buttons", |r, n| r.list(n, Self::button)).unwrap_or_default(),
            attachments: self.optional(&fields, "attachments", |r, n| r.list(n, Self::attachment)).unwrap_or_default(),
            data: self
                .optional(&fields, "data", |r, n| {
                    let entries = r.entries(n);
                    Some(entries.iter().filter_map(|e| Some((e.key.clone(), r.text(&e.value)?))).collect())
                })
                .unwrap_or_default(),
        }
    }

    fn media(&mut self, node: &Node) -> Media {
        let kinds = [("image", MediaKind::Image), ("video", MediaKind::Video), ("document", MediaKind::Document)];
        let fields = self.fields(node, &["kind", "url"]);
        Media {
            kind: self
                .required(&fields, "kind", |r, n| r.choice(n, "kind", &kinds).map(Some))
                .unwrap_or(MediaKind::Image),
            url: self.required(&fields, "url", Self::text),
        }
    }

    fn approved_template(&mut self, node: &Node) -> ApprovedTemplate {
        let fields = self.fields(node, &["name", "language", "parameters", "buttons"]);
        ApprovedTemplate {
            name: self.required(&fields, "name", Self::text),
            language: self.required(&fields, "language", Self::text),
            parameters: self.optional(&fields, "parameters", |r, n| r.list(n, Self::text)).unwrap_or_default(),
            buttons: self
                .optional(&fields, "buttons", |r, n| {
                    r.list(n, |r, n| if matches!(n.kind, Kind::Null) { Some(None) } else { r.text(n).map(Some) })
                })
                .unwrap_or_default(),
        }
    }

    fn button(&mut self, node: &Node) -> Option<Button> {
        let fields = self.fields(node, &["text", "url"]);
        Some(Button {
            text: self.required(&fields, "text", Self::text),
            url: self.optional(&fields, "url", Self::text),
        })
    }

    fn attachment(&mut self, node: &Node) -> Option<Attachment> {
        let fields = self.fields(node, &["name", "url", "inline"]);
        Some(Attachment {
            name: self.required(&fields, "name", Self::text),
            url: self.required(&fields, "url", Self::text),
            inline: self.optional(&fields, "inline", Self::boolean).unwrap_or(false),
        })
    }

    /// The items of a list that can be read.
    fn list<T>(&mut self, node: &Node, read: impl Fn(&mut Self, &Node) -> Option<T>) -> Option<Vec<T>> {
        match &node.kind {
            Kind::List(items) => Some(items.iter().filter_map(|item| read(self, item)).collect()),
            _ => {
                self.expected(node, "a list");
                None
            }
        }
    }

    /// `flows/NAME.yaml`.
    pub(super) fn flow(&mut self, node: &Node) -> Flow {
        let fields = self.fields(node, &["version", "on", "when", "notify"]);
        Flow {
            version: self.optional(&fields, "version", Self::whole_number).unwrap_or(Flow::DEFAULT_VERSION),
            on: self.required(&fields, "on", Self::text),
            when: self.optional(&fields, "when", Self::text),
            notify: match fields.get("notify") {
                Some(node) => self.notify(node),
                None => {
                    self.required(&fields, "notify", |_, _| Some(()));
                    Notify::default()
                }
            },
        }
    }

    fn notify(&mut self, node: &Node) -> Notify {
        const FIELDS: [&str; 12] = [
            "template",
            "type",
            "lane",
            "category",
            "priority",
            "quiet",
            "window",
            "spread_seconds",
            "channels",
            "expires_after_seconds",
            "fallback",
            "digest",
        ];
        let fields = self.fields(node, &FIELDS);
        Notify {
            template: self.optional(&fields, "template", Self::text),
            kind: self.optional(&fields, "type", Self::text),
            lane: self.required(&fields, "lane", |r, n| r.lane(n).map(Some)).unwrap_or(Lane::Bulk),
            category: self.optional(&fields, "category", Self::text),
            priority: self.optional(&fields, "priority", Self::whole_number).unwrap_or_default(),
            quiet: self.optional(&fields, "quiet", Self::boolean),
            window: self.optional(&fields, "window", |r, n| Some(r.window(n))),
            spread_seconds: self.optional(&fields, "spread_seconds", Self::whole_number),
            channels: self.optional(&fields, "channels", |r, n| r.list(n, Self::channel)).unwrap_or_default(),
            expires_after_seconds: self.optional(&fields, "expires_after_seconds", Self::whole_number),
            fallback: self.optional(&fields, "fallback", |r, n| Some(r.fallback(n))),
            digest: self.optional(&fields, "digest", |r, n| Some(r.digest(n))),
        }
    }
}

impl Reader {
    fn fallback(&mut self, node: &Node) -> Fallback {
        let fields = self.fields(node, &["after_seconds"]);
        Fallback { after_seconds: self.required(&fields, "after_seconds", Self::whole_number) }
    }

    fn digest(&mut self, node: &Node) -> Digest {
        let fields = self.fields(node, &["after_seconds", "key", "most"]);
        Digest {
            after_seconds: self.required(&fields, "after_seconds", Self::whole_number),
            key: self.optional(&fields, "key", Self::text),
            most: self.optional(&fields, "most", Self::whole_number),
        }
    }

    fn window(&mut self, node: &Node) -> Window {
        let days = Weekday::ALL.map(|day| (day.name(), day));
        let fields = self.fields(node, &["from", "to", "days"]);
        Window {
            from: self.required(&fields, "from", Self::text),
            to: self.required(&fields, "to", Self::text),
            days: self
                .optional(&fields, "days", |r, n| r.list(n, |r, n| r.choice(n, "day", &days)))
                .unwrap_or_default(),
        }
    }
}

/// The fields of a map.
struct Fields<'n> {
    at: Place,
    entries: &'n [Entry],
    /// What is no map has been told already; its fields are not missed too.
    is_map: bool,
}

impl<'n> Fields<'n> {
    fn get(&self, name: &str) -> Option<&'n Node> {
        self.entries.iter().find(|entry| entry.key == name).map(|entry| &entry.value)
    }
}
