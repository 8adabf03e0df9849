//! Writes the data of `examples/shop`: members, events, and how many of each kind there are. Every byte follows from the seed, so that a run
//! changes nothing unless this file changed; nothing here reads a clock or knows the pipeline, so that its counts are independent.

use anyhow::Context as _;
use std::{collections::BTreeSet, fs, path::Path};

const SEED: u64 = 0x005E_ED0F_A13E_2D4A;

/// Members that an import takes, of every sort.
const VALID_MEMBERS: usize = 520;

/// Writes `members.csv`, `browsers.csv`, `events.ndjson` and `expected.json` into `examples/shop` under `root`.
///
/// # Errors
/// A file cannot be written.
pub(crate) fn run(root: &Path) -> anyhow::Result<()> {
    let folder = root.join("examples/shop");
    for (name, text) in files() {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The files by name.
fn files() -> [(&'static str, String); 4] {
    let mut random = Random(SEED);
    let members = Members::generate(&mut random);
    let events = Events::generate(&members, &mut random);
    let expected = format!("{{\n  \"members\": {},\n  \"events\": {}\n}}\n", members.counts(), events.counts());
    let browsers = members.browsers();
    [
        ("members.csv", members.csv()),
        ("browsers.csv", browsers),
        ("events.ndjson", events.lines.join("\n") + "\n"),
        ("expected.json", expected),
    ]
}

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): small, and the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number from 0 to `bound`, the latter excluded.
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap_or_default()
    }

    fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

const FIRST_NAMES: [&str; 32] = [
    "Lucía", "Martín", "Sofía", "Hugo", "Paula", "Mateo", "Noa", "Leo", "Carmen", "Daniel", "Inés", "Álvaro",
    "Valeria", "Bruno", "Elena", "Iker", "Nuria", "Óscar", "Rocío", "Tomás", "Ainhoa", "Begoña", "Julián", "Marisol",
    "Emma", "Oliver", "Grace", "Henry", "Alice", "George", "Ruby", "Arthur",
];
const SURNAMES: [&str; 24] = [
    "García", "Ibáñez", "Romero", "Vidal", "Nuñez", "Soler", "Prieto", "Cano", "Méndez", "Lozano", "Rey", "Ferrer",
    "Aguirre", "Pastor", "Bravo", "Molina", "Sáez", "Campos", "Walker", "Hughes", "Bennett", "Marsh", "Doyle", "Reed",
];
const CITIES: [&str; 10] =
    ["Madrid", "Sevilla", "Bilbao", "Valencia", "Málaga", "Zaragoza", "Oviedo", "Cádiz", "London", "Leeds"];
/// Reserved for examples (RFC 2606 section 3).
const DOMAINS: [&str; 3] = ["example.com", "example.org", "example.net"];
/// Locales of which the templates know a relative; the empty one leaves the choice to the project's default.
const LOCALES: [(&str, usize); 6] = [("es-ES", 45), ("es", 15), ("es-MX", 5), ("en-GB", 18), ("en", 12), ("", 5)];

/// Local parts that make the SMTP receiver misbehave, and how many members have one.
const EMAIL_BEHAVIOURS: [(&str, usize); 5] =
    [("tempfail-once", 6), ("permfail", 5), ("reject-data", 3), ("slow", 6), ("silent", 1)];
/// Last digits that make the Twilio receiver misbehave, and how many members have them.
const PHONE_BEHAVIOURS: [(&str, usize); 8] =
    [("0001", 4), ("0002", 6), ("0003", 5), ("0004", 5), ("0005", 4), ("0006", 1), ("0007", 3), ("0008", 5)];

/// How members reached by a provider's HTTP API make its receiver behave, by the last four characters of their address; how many of each.
const BEHAVIOURS: [(&str, usize); 9] = [
    ("0001", 2),
    ("0002", 3),
    ("0003", 3),
    ("0004", 2),
    ("0005", 2),
    ("0006", 1),
    ("0007", 2),
    ("0008", 2),
    ("0009", 3),
];
/// Those who are reached in another way than by e-mail or SMS.
const OTHERS: [&str; 6] = ["whatsapp", "telegram", "web_push", "fcm", "apns", "webhook"];
/// How many of each of them behave as usual. Every second also has an e-mail address, and prefers the other way.
const USUAL: usize = 30;
/// Members who leave by SMS, and such whose mail is returned.
const LEAVING: usize = 4;
const BOUNCING: usize = 4;
/// Members who unsubscribe by the first e-mail that offers it.
const UNSUBSCRIBING: usize = 6;

/// Rows that an import must reject: field that is wrong, and what it says.
const REJECTED: [(&str, &str); 13] = [
    ("email", "sofia.example.com"),
    ("email", "ana@@example.com"),
    ("email", "two words@example.com"),
    ("email", "tom@"),
    ("phone", "12"),
    ("phone", "+34 12 34"),
    ("phone", "call me"),
    ("locale", "not a locale"),
    ("locale", "€€"),
    ("time_zone", "Mars/Olympus"),
    ("channels", "pigeon"),
    ("opt_ins.email", "perhaps"),
    ("client_user_id", ""),
];

/// The columns, in order.
const COLUMNS: [&str; 18] = [
    "client_user_id",
    "email",
    "phone",
    "locale",
    "time_zone",
    "channels",
    "opt_ins.email",
    "opt_ins.sms",
    "attributes.first_name",
    "attributes.city",
    "whatsapp",
    "telegram",
    "app_push",
    "webhook",
    "opt_ins.whatsapp",
    "opt_ins.telegram",
    "opt_ins.app_push",
    "opt_ins.webhook",
];

/// One row of `members.csv`: cells by column.
#[derive(Clone, Default)]
struct Member {
    cells: [String; COLUMNS.len()],
    /// The field for which an import must reject it.
    rejected: Option<&'static str>,
    /// Whether a receiver treats it differently, and whether it then never answers.
    special: bool,
    silent: bool,
    /// What the push service calls the member's browser, which no file of members can name.
    browser: Option<String>,
}

impl Member {
    fn cell(&self, column: &str) -> &str {
        COLUMNS.iter().position(|name| *name == column).map_or("", |index| &self.cells[index])
    }

    fn set(&mut self, column: &str, value: impl Into<String>) {
        if let Some(index) = COLUMNS.iter().position(|name| *name == column) {
            self.cells[index] = value.into();
        }
    }
}

struct Members {
    rows: Vec<Member>,
}

impl Members {
    fn generate(random: &mut Random) -> Self {
        let mut phones = BTreeSet::new();
        let mut rows = Vec::new();
        for (behaviour, count) in EMAIL_BEHAVIOURS {
            for n in 1..=count {
                let mut member = person(random, rows.len());
                member.set("email", format!("{behaviour}-{n:02}@example.com"));
                reachable_by("email", &mut member, behaviour == "silent");
                rows.push(member);
            }
        }
        for (digits, count) in PHONE_BEHAVIOURS {
            for _ in 0..count {
                let mut member = person(random, rows.len());
                member.set("phone", phone(random, &mut phones, Some(digits)));
                reachable_by("sms", &mut member, digits == "0006");
                rows.push(member);
            }
        }
        while rows.len() < VALID_MEMBERS {
            let mut member = person(random, rows.len());
            member.set("phone", phone(random, &mut phones, None));
            thin_out(random, &mut member);
            rows.push(member);
        }
        for (field, wrong) in REJECTED {
            let mut member = person(random, rows.len());
            member.set("phone", phone(random, &mut phones, None));
            member.set(field, wrong);
            member.rejected = Some(field);
            rows.push(member);
        }
        random.shuffle(&mut rows);
        for (n, member) in rows.iter_mut().enumerate().filter(|(_, member)| member.rejected != Some("client_user_id")) {
            member.set("client_user_id", format!("u{:04}", n + 1));
        }
        let mut members = Self { rows };
        members.add_others(random, &mut phones);
        members
    }

    /// Members who came with the other channels, after all that were there before.
    fn add_others(&mut self, random: &mut Random, phones: &mut BTreeSet<String>) {
        for _ in 0..LEAVING {
            let mut member = person(random, self.rows.len());
            member.set("phone", phone(random, phones, Some("0009")));
            reachable_by("sms", &mut member, false);
            self.add(member);
        }
        for n in 1..=BOUNCING {
            let mut member = person(random, self.rows.len());
            member.set("email", format!("bounce-{n:02}@example.com"));
            reachable_by("email", &mut member, false);
            self.add(member);
        }
        for n in 1..=UNSUBSCRIBING {
            let mut member = person(random, self.rows.len());
            member.set("email", format!("leave-{n:02}@example.com"));
            reachable_by("email", &mut member, false);
            self.add(member);
        }
        for way in OTHERS {
            let behaviours = BEHAVIOURS.iter().flat_map(|(digits, count)| std::iter::repeat_n(Some(*digits), *count));
            for (n, digits) in behaviours.chain(std::iter::repeat_n(None, USUAL)).enumerate() {
                let mut member = person(random, self.rows.len());
                (member.special, member.silent) = (digits.is_some(), digits == Some("0006"));
                let last = digits.map_or_else(|| (1000 + random.below(9000)).to_string(), str::to_owned);
                let serial = self.rows.len();
                let channel = if matches!(way, "fcm" | "apns") { "app_push" } else { way };
                match way {
                    "whatsapp" => member.set(way, phone(random, phones, Some(&last))),
                    "telegram" => member.set(way, format!("7{serial:04}{last}")),
                    "fcm" => member.set(channel, format!("fcm:c{serial:04}:APA91b{:012x}{last}", random.next() >> 16)),
                    "apns" => {
                        let words: String = (0..4).map(|_| format!("{:016x}", random.next())).collect();
                        member.set(channel, format!("apns:{}{last}", &words[..60]));
                    }
                    "webhook" => member.set(way, format!("crm-{serial:04}-{last}")),
                    _ => member.browser = Some(format!("browser-{serial:04}-{last}")),
                }
                if way != "web_push" {
                    member.set(&format!("opt_ins.{channel}"), "true");
                }
                if digits.is_none() && n % 2 == 0 {
                    member.set("channels", format!("{channel},email"));
                } else {
                    member.set("email", "");
                }
                self.add(member);
            }
        }
    }

    fn add(&mut self, mut member: Member) {
        member.set("client_user_id", format!("u{:04}", self.rows.len() + 1));
        self.rows.push(member);
    }

    /// Whose browsers subscribe, and what the push service calls them.
    fn browsers(&self) -> String {
        let named = self.rows.iter().filter_map(|m| Some((m.cell("client_user_id"), m.browser.as_deref()?)));
        named.fold("client_user_id,browser\n".into(), |csv, (id, browser)| csv + &format!("{id},{browser}\n"))
    }

    fn csv(&self) -> String {
        let mut csv = COLUMNS.join(",") + "\n";
        for member in &self.rows {
            let cells = member.cells.iter().map(|cell| match cell.contains(',') {
                true => format!("\"{cell}\""),
                false => cell.clone(),
            });
            csv += &(cells.collect::<Vec<_>>().join(",") + "\n");
        }
        csv
    }

    fn valid(&self) -> impl Iterator<Item = &Member> {
        self.rows.iter().filter(|member| member.rejected.is_none())
    }

    fn counts(&self) -> String {
        let valid: Vec<&Member> = self.valid().collect();
        let with = |column: &str, value: &str| valid.iter().filter(|member| member.cell(column) == value).count();
        object(&[
            ("rows", self.rows.len()),
            ("valid", valid.len()),
            ("rejected", self.rows.len() - valid.len()),
            ("without_email", with("email", "")),
            ("without_phone", with("phone", "")),
            ("without_locale", with("locale", "")),
            ("email_refused", with("opt_ins.email", "false")),
            ("email_unsaid", with("opt_ins.email", "")),
            ("sms_refused", with("opt_ins.sms", "false")),
            ("sms_unsaid", with("opt_ins.sms", "")),
            ("with_whatsapp", valid.len() - with("whatsapp", "")),
            ("with_telegram", valid.len() - with("telegram", "")),
            ("with_app_push", valid.len() - with("app_push", "")),
            ("with_webhook", valid.len() - with("webhook", "")),
            ("with_browser", valid.iter().filter(|member| member.browser.is_some()).count()),
            ("with_receiver_behaviour", valid.iter().filter(|member| member.special).count()),
        ])
    }
}

/// Somebody who can be reached by e-mail and agreed to everything.
fn person(random: &mut Random, serial: usize) -> Member {
    let mut member = Member::default();
    let (first, last) = (*random.pick(&FIRST_NAMES), *random.pick(&SURNAMES));
    let domain = random.pick(&DOMAINS);
    member.set("email", format!("{}.{}{serial}@{domain}", ascii(first), ascii(last)));
    let mut share = random.below(100);
    let locale = LOCALES.iter().find(|(_, weight)| {
        let found = share < *weight;
        share = share.saturating_sub(*weight);
        found
    });
    let locale = locale.map_or("", |(locale, _)| locale);
    member.set("locale", locale);
    member.set(
        "time_zone",
        match locale {
            "en-GB" => "Europe/London",
            "es-MX" => "America/Mexico_City",
            _ if random.percent(8) => "Atlantic/Canary",
            _ => "Europe/Madrid",
        },
    );
    member.set("opt_ins.email", "true");
    member.set("opt_ins.sms", "true");
    member.set("attributes.first_name", first);
    member.set("attributes.city", *random.pick(&CITIES));
    member
}

/// Lower-case letters without accents, as people write their addresses.
fn ascii(name: &str) -> String {
    let plain = |c: char| match c {
        'á' | 'Á' => 'a',
        'é' => 'e',
        'í' => 'i',
        'ó' | 'Ó' => 'o',
        'ú' => 'u',
        'ñ' => 'n',
        c => c.to_ascii_lowercase(),
    };
    name.chars().map(plain).collect()
}

/// Leaves only the channel on which a receiver behaves differently.
fn reachable_by(channel: &str, member: &mut Member, silent: bool) {
    member.set(if channel == "email" { "phone" } else { "email" }, "");
    (member.special, member.silent) = (true, silent);
}

/// A Spanish mobile number that nobody had yet. Only where `digits` says so does it end in four digits below 1000, which a receiver would heed.
fn phone(random: &mut Random, taken: &mut BTreeSet<String>, digits: Option<&str>) -> String {
    loop {
        let last = digits.map_or_else(|| (1000 + random.below(9000)).to_string(), str::to_owned);
        let national = format!("6{:04}{last}", random.below(10_000));
        if !taken.insert(national.clone()) {
            continue;
        }
        let (a, b, c) = (&national[..3], &national[3..6], &national[6..]);
        return match random.below(20) {
            0 => format!("{a} {b} {c}"),
            1 => format!("+34 {a} {b} {c}"),
            _ => format!("+34{national}"),
        };
    }
}

/// What real lists look like: something is missing, refused or never said.
fn thin_out(random: &mut Random, member: &mut Member) {
    match random.below(100) {
        0..8 => member.set("email", ""),
        8..22 => member.set("phone", ""),
        22 => {
            member.set("email", "");
            member.set("phone", "");
        }
        _ => {}
    }
    for opt_in in ["opt_ins.email", "opt_ins.sms"] {
        match random.below(100) {
            0..7 => member.set(opt_in, "false"),
            7..18 => member.set(opt_in, ""),
            _ => {}
        }
    }
    match random.below(100) {
        0..15 => member.set("channels", "sms,email"),
        15..25 => member.set("channels", "email"),
        25..30 => member.set("channels", "email,sms"),
        _ => {}
    }
    if random.percent(4) {
        member.set("attributes.first_name", "");
    }
}

/// What becomes of a well-formed event.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// A known member is to be told something.
    Notifying,
    /// Nobody by this name was imported.
    UnknownMember,
    /// No flow is triggered by its type.
    NoFlow,
    /// Its flow's condition does not hold.
    ConditionFalse,
    /// Its flow's condition has no answer, because `data` is no object.
    Undecidable,
}

/// A type of event, and the template of its flow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Placed,
    Shipped,
    Code,
    Prize,
    Tips,
    Other,
}

impl Kind {
    const fn template(self) -> &'static str {
        match self {
            Self::Placed => "order_placed",
            Self::Shipped => "order_shipped",
            Self::Code => "password_code",
            Self::Prize => "prize_won",
            Self::Tips => "weekly_tips",
            Self::Other => "",
        }
    }

    /// CloudEvents `source` and `type`. Ids count within a source, as the specification allows: the same id occurs in several.
    const fn source_and_type(self) -> (usize, &'static str) {
        match self {
            Self::Placed => (0, "shop.order.placed"),
            Self::Shipped => (0, "shop.order.shipped"),
            Self::Code => (1, "shop.password.requested"),
            Self::Prize => (2, "shop.prize.won"),
            Self::Tips => (2, "shop.tips.weekly"),
            Self::Other => (1, "shop.page.viewed"),
        }
    }
}

const SOURCES: [&str; 3] = ["/shop", "/web", "/club"];

struct Event {
    /// Minutes after the beginning of the story: 2 March 2026, 00:00 UTC.
    minute: usize,
    kind: Kind,
    fate: Fate,
    subject: String,
    data: String,
}

/// Orders of members, and how many of them are also shipped.
const ORDERS: usize = 960;
const SHIPPED: usize = 620;
/// Orders that cost nothing (no confirmation) and orders collected in the shop (nothing is shipped): half of each.
const CONDITION_FALSE: usize = 60;
const CODES: usize = 250;
const PRIZES: usize = 330;
const TIPS: usize = 540;
const NO_FLOW: usize = 140;
const UNKNOWN: usize = 40;
const DUPLICATES: usize = 60;
const WEEK: usize = 7 * 24 * 60;
const CARRIERS: [&str; 3] = ["Golondrina", "Paloma", "Cigüeña"];

struct Events {
    lines: Vec<String>,
    told: Vec<(Kind, Fate)>,
    malformed: Vec<(&'static str, usize)>,
    duplicates: usize,
}

impl Events {
    fn generate(members: &Members, random: &mut Random) -> Self {
        let mut story = Story { random, events: Vec::new(), orders: 1000 };
        story.tell(members);
        let mut events = std::mem::take(&mut story.events);
        events.sort_by_key(|event| event.minute);
        let mut ids = [0; SOURCES.len()];
        let mut lines: Vec<String> = events.iter().map(|event| event.line(&mut ids, random.percent(25))).collect();
        let told = events.iter().map(|event| (event.kind, event.fate)).collect();
        repeat(random, &events, &mut lines);
        let malformed = spoil(random, &mut lines);
        Self { lines, told, malformed, duplicates: DUPLICATES }
    }

    fn counts(&self) -> String {
        let malformed: usize = self.malformed.iter().map(|(_, count)| count).sum();
        let fate = |fate: Fate| self.told.iter().filter(|told| told.1 == fate).count();
        let template =
            |kind: Kind| (kind.template(), self.told.iter().filter(|t| **t == (kind, Fate::Notifying)).count());
        let templates = [Kind::Placed, Kind::Shipped, Kind::Code, Kind::Prize, Kind::Tips].map(template);
        let mut text = object(&[
            ("lines", self.lines.len()),
            ("malformed", malformed),
            ("valid", self.lines.len() - malformed),
            ("duplicate", self.duplicates),
            ("distinct", self.told.len()),
            ("undecidable", fate(Fate::Undecidable)),
            ("unknown_member", fate(Fate::UnknownMember)),
            ("no_flow", fate(Fate::NoFlow)),
            ("condition_false", fate(Fate::ConditionFalse)),
            ("notifying", fate(Fate::Notifying)),
        ]);
        text.truncate(text.len() - "\n  }".len());
        let nested = |counts: &[(&str, usize)]| object(counts).replace('\n', "\n  ");
        text += &format!(
            ",\n    \"malformed_by_kind\": {},\n    \"notifying_by_template\": {}\n  }}",
            nested(&self.malformed),
            nested(&templates)
        );
        text
    }
}

/// A JSON object of counts, as it stands one level deep in the file.
fn object(counts: &[(&str, usize)]) -> String {
    let fields: Vec<String> = counts.iter().map(|(name, count)| format!("    \"{name}\": {count}")).collect();
    format!("{{\n{}\n  }}", fields.join(",\n"))
}

/// The events of a week, before they are written down.
struct Story<'r> {
    random: &'r mut Random,
    events: Vec<Event>,
    /// Number of the last order.
    orders: usize,
}

impl Story<'_> {
    fn tell(&mut self, members: &Members) {
        let ids = |wanted: &dyn Fn(&Member) -> bool| -> Vec<String> {
            members.rows.iter().filter(|m| wanted(m)).map(|m| m.cell("client_user_id").to_owned()).collect()
        };
        let known = ids(&|m| m.rejected.is_none() && !m.silent);
        let special = ids(&|m| m.special && !m.silent);
        // One message each: every try of theirs takes the sender's whole timeout.
        let silent = ids(&|m| m.silent);
        let rejected = ids(&|m| m.rejected.is_some_and(|field| field != "client_user_id"));

        let spoken = ORDERS - silent.len();
        for subject in silent {
            self.order(subject, Fate::Notifying);
        }
        for n in 0..spoken {
            let subject = special.get(n).cloned().unwrap_or_else(|| self.random.pick(&known).clone());
            let (minute, number) = self.order(subject.clone(), Fate::Notifying);
            if n < SHIPPED {
                self.ship(subject, minute, &number, Fate::Notifying);
            }
        }
        for n in 0..CONDITION_FALSE {
            let subject = self.random.pick(&known).clone();
            match n % 2 {
                0 => drop(self.order(subject, Fate::ConditionFalse)),
                _ => self.ship(subject, 0, "B999", Fate::ConditionFalse),
            }
        }
        // Only what nobody needs offers to unsubscribe: each of those who do gets a tip.
        let unsubscribing = ids(&|m| m.cell("email").starts_with("leave"));
        for (kind, count) in [(Kind::Code, CODES), (Kind::Prize, PRIZES), (Kind::Tips, TIPS)] {
            for n in 0..count {
                let tipped = unsubscribing.get(n).filter(|_| kind == Kind::Tips);
                let subject = tipped.unwrap_or_else(|| self.random.pick(&known)).clone();
                self.simple(kind, subject, Fate::Notifying);
            }
        }
        for _ in 0..NO_FLOW {
            let subject = self.random.pick(&known).clone();
            self.simple(Kind::Other, subject, Fate::NoFlow);
        }
        for n in 0..UNKNOWN {
            let subject = rejected.get(n).cloned().unwrap_or_else(|| format!("ghost-{n}"));
            self.simple(*[Kind::Code, Kind::Tips].get(n % 2).unwrap_or(&Kind::Code), subject, Fate::UnknownMember);
        }
        for data in ["\"gift\"", "[49.9]"] {
            let (minute, subject) = (self.random.below(WEEK), self.random.pick(&known).clone());
            self.push(minute, Kind::Placed, Fate::Undecidable, subject, data.into());
        }
    }

    /// An order is placed; when, and its number.
    fn order(&mut self, subject: String, fate: Fate) -> (usize, String) {
        self.orders += 1;
        let number = format!("B{}", self.orders);
        let cents = if fate == Fate::ConditionFalse { 0 } else { 190 + self.random.below(18_000) };
        // Always with a fraction: the condition compares with a number of floating point.
        let data = format!("{{\"order\":{{\"number\":\"{number}\"}},\"total\":{}.{:02}}}", cents / 100, cents % 100);
        let minute = self.random.below(WEEK - 2 * 24 * 60);
        self.push(minute, Kind::Placed, fate, subject, data);
        (minute, number)
    }

    /// It is shipped a day or two later, or collected.
    fn ship(&mut self, subject: String, placed: usize, number: &str, fate: Fate) {
        let carrier = if fate == Fate::ConditionFalse { "pickup" } else { *self.random.pick(&CARRIERS) };
        let minute = placed + 24 * 60 + self.random.below(24 * 60);
        let data = format!("{{\"order\":{{\"number\":\"{number}\"}},\"carrier\":\"{carrier}\"}}");
        self.push(minute, Kind::Shipped, fate, subject, data);
    }

    fn simple(&mut self, kind: Kind, subject: String, fate: Fate) {
        let data = match kind {
            Kind::Code => format!("{{\"code\":\"{:06}\"}}", self.random.below(1_000_000)),
            Kind::Prize => format!(
                "{{\"coupon\":\"SOL-{}\",\"percent\":{}}}",
                1000 + self.random.below(9000),
                5 * (1 + self.random.below(4))
            ),
            Kind::Tips => "{\"week\":10}".into(),
            _ => format!("{{\"page\":\"/p/{}\"}}", self.random.below(400)),
        };
        let minute = self.random.below(WEEK);
        self.push(minute, kind, fate, subject, data);
    }

    fn push(&mut self, minute: usize, kind: Kind, fate: Fate, subject: String, data: String) {
        self.events.push(Event { minute, kind, fate, subject, data });
    }
}

impl Event {
    /// CloudEvents 1.0, JSON format. `time` is optional there: leaving it away most of the time keeps the file small.
    fn line(&self, ids: &mut [usize; SOURCES.len()], timed: bool) -> String {
        let Self { minute, subject, data, .. } = self;
        let (source, kind) = self.kind.source_and_type();
        ids[source] += 1;
        let (id, source) = (ids[source], SOURCES[source]);
        let (day, hour, minute) = (2 + minute / 1440, minute / 60 % 24, minute % 60);
        let time =
            if timed { format!("\"time\":\"2026-03-{day:02}T{hour:02}:{minute:02}:00Z\",") } else { String::new() };
        format!(
            "{{\"specversion\":\"1.0\",\"id\":\"{id}\",\"source\":\"{source}\",\"type\":\"{kind}\",\"subject\":\"{subject}\",{time}\"data\":{data}}}"
        )
    }
}

/// Sends some notifying events again, a while later, as a producer does that missed the acknowledgement.
fn repeat(random: &mut Random, events: &[Event], lines: &mut Vec<String>) {
    let mut notifying: Vec<usize> = (0..events.len()).filter(|n| events[*n].fate == Fate::Notifying).collect();
    random.shuffle(&mut notifying);
    notifying.truncate(DUPLICATES);
    // From the back, so that an insertion moves none of those that are still to be copied.
    notifying.sort_unstable_by(|a, b| b.cmp(a));
    for original in notifying {
        let later = (original + 1 + random.below(100)).min(lines.len());
        lines.insert(later, lines[original].clone());
    }
}

/// Strews lines that are no CloudEvents; how many of each kind.
fn spoil(random: &mut Random, lines: &mut Vec<String>) -> Vec<(&'static str, usize)> {
    const DATA: &str = r#""data":{"order":{"number":"B1"},"total":5.50}}"#;
    let with = |attributes: &str| format!("{{{attributes},{DATA}");
    let bad: [(&str, Vec<String>); 7] = [
        (
            "broken_json",
            vec![
                r#"{"specversion":"1.0","id":"x1","source":"/shop","type":"shop.order.pla"#.into(),
                r#"{"specversion":"1.0","id":"x2","source":"/shop",,"type":"shop.order.placed"}"#.into(),
                "{'specversion':'1.0','id':'x3'}".into(),
                "ERROR connection reset by peer".into(),
            ],
        ),
        ("not_an_object", vec!["[1,2,3]".into(), "\"shop.order.placed\"".into()]),
        (
            "missing_type",
            vec![
                with(r#""specversion":"1.0","id":"x4","source":"/shop","subject":"u0001""#),
                with(r#""specversion":"1.0","id":"x5","source":"/shop","type":"","subject":"u0002""#),
            ],
        ),
        (
            "missing_subject",
            vec![
                with(r#""specversion":"1.0","id":"x6","source":"/shop","type":"shop.order.placed""#),
                with(r#""specversion":"1.0","id":"x7","source":"/shop","type":"shop.order.placed","subject":null"#),
            ],
        ),
        (
            "wrong_specversion",
            vec![
                with(r#""specversion":"0.3","id":"x8","source":"/shop","type":"shop.order.placed","subject":"u0003""#),
                with(r#""id":"x9","source":"/shop","type":"shop.order.placed","subject":"u0004""#),
            ],
        ),
        (
            "wrong_type",
            vec![with(r#""specversion":"1.0","id":10,"source":"/shop","type":"shop.order.placed","subject":"u0005""#)],
        ),
        (
            "wrong_time",
            vec![
                with(
                    r#""specversion":"1.0","id":"x11","source":"/shop","type":"shop.order.placed","subject":"u0006","time":"yesterday""#,
                ),
                with(
                    r#""specversion":"1.0","id":"x12","source":"/shop","type":"shop.order.placed","subject":"u0007","time":"2026-03-02""#,
                ),
            ],
        ),
    ];
    let counts = bad.iter().map(|(kind, lines)| (*kind, lines.len())).collect();
    for line in bad.into_iter().flat_map(|(_, lines)| lines) {
        lines.insert(random.below(lines.len() + 1), line);
    }
    counts
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_files_are_those_that_would_be_written() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shop");
        for (name, text) in files() {
            let committed = fs::read_to_string(folder.join(name)).unwrap();
            assert!(committed == text, "examples/shop/{name} is out of date: run `cargo xtask example`");
        }
    }
}
