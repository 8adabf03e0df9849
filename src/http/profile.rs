//! What a client says of a member, checked field by field and brought into normal form: a [`Patch`].
//! Pure: the same rules serve `PUT /v1/members/{id}` and every row of an import.

use super::{problem::FieldError, suppressions::words};
use bellwether_connectors::channels::web_push::{Hosts, Subscription};
use bellwether_processors::{definitions::name_problem, hours, members::MAX_ADDRESSES};
use bellwether_schemas::{
    Channel,
    definitions::QuietHours,
    member::{ByCategory, OptInPatch, Patch},
};
use email_address::{EmailAddress, Options};
use jiff::tz::TimeZoneDatabase;
use serde_json::{Map, Value};
use std::{collections::BTreeMap, sync::LazyLock};

/// Most bytes of a member's id (`client_user_id`); the same as of an event's `subject`.
pub const MAX_ID_BYTES: usize = bellwether_connectors::events::MAX_SUBJECT_BYTES;
/// Most bytes of an e-mail address (RFC 5321 section 4.5.3.1.3, less the angle brackets).
pub const MAX_EMAIL_BYTES: usize = 254;
/// Most bytes of the attributes, as JSON.
pub const MAX_ATTRIBUTES_BYTES: usize = 32 * 1_024;

/// Most characters of a proof: the text that was shown may be part of it.
pub(super) const MAX_PROOF: usize = 4_000;

/// Most bytes of an app's token; those of today have less than 300.
pub const MAX_TOKEN_BYTES: usize = 4_096;

/// The fields that a client may send. A browser's subscription is none of them: only the browser itself sends it.
pub const FIELDS: [&str; 12] = [
    "email",
    "phone",
    "whatsapp",
    "telegram",
    "app_push",
    "webhook",
    "locale",
    "time_zone",
    "quiet_hours",
    "channels",
    "opt_ins",
    "attributes",
];

/// The fields that hold addresses, with their channels.
const ADDRESS_FIELDS: [(&str, Channel); 6] = [
    ("email", Channel::Email),
    ("phone", Channel::Sms),
    ("whatsapp", Channel::Whatsapp),
    ("telegram", Channel::Telegram),
    ("app_push", Channel::AppPush),
    ("webhook", Channel::Webhook),
];

/// Checks the id of a member.
///
/// # Errors
/// It is empty, too long, or has control characters.
pub fn member_id(id: &str) -> Result<(), FieldError> {
    let remedy = format!("use 1 to {MAX_ID_BYTES} bytes of printable text");
    if id.is_empty() {
        return Err(FieldError::new("id", "is empty", remedy));
    }
    if id.len() > MAX_ID_BYTES {
        return Err(FieldError::new("id", format!("has more than {MAX_ID_BYTES} bytes"), remedy));
    }
    if id.chars().any(char::is_control) {
        return Err(FieldError::new("id", "has a control character", remedy));
    }
    if matches!(id, "." | "..") {
        return Err(FieldError::new("id", "is a dot segment, which no URL can carry (RFC 3986 section 5.2.4)", remedy));
    }
    Ok(())
}

/// Takes out of a member's fields what shows that the member said what the others say: the form, a file, an IP address.
///
/// # Errors
/// It is no text, or too long.
pub fn proof(fields: &mut Map<String, Value>) -> Result<Option<String>, FieldError> {
    let given = fields.remove("proof").map_or(Ok(None), |value| text("proof", value))?;
    let given = given.map(|given| words("proof", &given, MAX_PROOF)).transpose()?;
    Ok(given.filter(|given| !given.is_empty()))
}

/// Checks a JSON object of fields: absent stays, null goes. `region` (ISO 3166-1 alpha-2) reads phones without a country code.
///
/// # Errors
/// The first field that is unknown or not acceptable.
pub fn patch(fields: Map<String, Value>, region: Option<&str>) -> Result<Patch, FieldError> {
    let mut patch = Patch::default();
    for (name, value) in fields {
        if let Some((_, channel)) = ADDRESS_FIELDS.into_iter().find(|(field, _)| *field == name) {
            let list = addresses(&name, value, |text| address(channel, text, region))?;
            patch.addresses.insert(channel, list);
            continue;
        }
        match name.as_str() {
            "locale" => patch.locale = Some(text(&name, value)?.map(|v| locale(&v)).transpose()?),
            "time_zone" => patch.time_zone = Some(text(&name, value)?.map(|v| time_zone(&v)).transpose()?),
            "quiet_hours" => patch.quiet_hours = Some(quiet_hours(value)?),
            "channels" => patch.channels = Some(channels(value)?),
            "opt_ins" => patch.opt_ins = opt_ins(value)?,
            "attributes" => patch.attributes = attributes(value)?,
            _ => {
                let name: String = name.chars().take(100).collect();
                let remedy = format!("send {}; what else you keep belongs into `attributes`", FIELDS.join(", "));
                return Err(FieldError::new(name, "is not a field of a member", remedy));
            }
        }
    }
    Ok(patch)
}

/// An address in its channel's normal form. `region` (ISO 3166-1 alpha-2) reads phones without a country code.
///
/// # Errors
/// It is none of this channel.
pub fn address(channel: Channel, text: &str, region: Option<&str>) -> Result<String, FieldError> {
    match channel {
        Channel::Email => email(text),
        Channel::Sms | Channel::Whatsapp => phone(text, region),
        Channel::Telegram => chat(text),
        Channel::WebPush => browser(text),
        Channel::AppPush => app_token(text),
        Channel::Webhook => opaque(text),
    }
}

/// One address or a list of them; null is none.
fn addresses(
    field: &str,
    value: Value,
    normal: impl Fn(&str) -> Result<String, FieldError>,
) -> Result<Vec<String>, FieldError> {
    let given = match value {
        Value::Array(items) if items.len() > MAX_ADDRESSES => {
            let detail = format!("has more than {MAX_ADDRESSES} addresses");
            return Err(FieldError::new(field, detail, "send those that are in use"));
        }
        Value::Array(items) => items,
        Value::Null => Vec::new(),
        one => vec![one],
    };
    let mut list = Vec::new();
    for value in given {
        let Value::String(address) = value else {
            let remedy = "send a JSON string, a list of them, or null to remove all";
            return Err(FieldError::new(field, "is not a string", remedy));
        };
        let address = normal(&address).map_err(|error| FieldError { field: field.to_owned(), ..error })?;
        if !list.contains(&address) {
            list.push(address);
        }
    }
    Ok(list)
}

/// A Telegram chat by its number.
fn chat(text: &str) -> Result<String, FieldError> {
    let bad = || {
        FieldError::new("telegram", "is not a chat's number", "send the number of a private chat, like `\"12345678\"`")
    };
    text.parse::<i64>().ok().filter(|id| *id > 0).map(|id| id.to_string()).ok_or_else(bad)
}

/// A browser's subscription. Whether its host may be called is asked where it comes from a browser, and again when it is called.
fn browser(text: &str) -> Result<String, FieldError> {
    let subscription = Subscription::parse(text, Hosts::Any);
    subscription.map(|known| known.to_string()).map_err(|error| {
        FieldError::new("web_push", error.to_string(), "send the subscription as a member's `addresses` show it")
    })
}

/// An app's token with the platform in front.
fn app_token(text: &str) -> Result<String, FieldError> {
    let known = text.strip_prefix("fcm:").or_else(|| text.strip_prefix("apns:"));
    match known {
        Some(token)
            if !token.is_empty() && text.len() <= MAX_TOKEN_BYTES && token.bytes().all(|b| b.is_ascii_graphic()) =>
        {
            Ok(text.to_owned())
        }
        _ => Err(FieldError::new("app_push", "is not an app's token", "send `fcm:TOKEN` or `apns:TOKEN`")),
    }
}

/// What the system behind a webhook calls the member.
fn opaque(text: &str) -> Result<String, FieldError> {
    if text.is_empty() || text.len() > MAX_ID_BYTES || text.chars().any(char::is_control) {
        let remedy = format!("use 1 to {MAX_ID_BYTES} bytes of printable text");
        return Err(FieldError::new("webhook", "is not an address", remedy));
    }
    Ok(text.to_owned())
}

fn text(field: &str, value: Value) -> Result<Option<String>, FieldError> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        _ => Err(FieldError::new(field, "is not a string", "send a JSON string, or null to remove it")),
    }
}

/// An e-mail address in its normal form: the domain in lower case, the local part as it is (RFC 5321 section 2.4).
///
/// # Errors
/// It is not one.
pub fn email(text: &str) -> Result<String, FieldError> {
    let bad = |detail: String| {
        FieldError::new("email", detail, "send an address like `anna@example.org`, without a display name")
    };
    if text.len() > MAX_EMAIL_BYTES {
        return Err(bad(format!("has more than {MAX_EMAIL_BYTES} bytes")));
    }
    if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(bad("has a space or control character".into()));
    }
    let address =
        EmailAddress::parse_with_options(text, Options::default().without_display_text().without_domain_literal())
            .map_err(|error| bad(format!("is not an e-mail address: {error}")))?;
    Ok(format!("{}@{}", address.local_part(), address.domain().to_lowercase()))
}

/// A phone number in E.164.
///
/// # Errors
/// It is not one.
pub fn phone(text: &str, region: Option<&str>) -> Result<String, FieldError> {
    let bad = |detail: &str| {
        let remedy = match region {
            Some(region) => format!("send it in international form, like `+4915112345678`, or as dialled in {region}"),
            None => "send it in international form, like `+4915112345678`, or set the project's default_region".into(),
        };
        FieldError::new("phone", detail, remedy)
    };
    // Longer than any writing of 15 digits; and the character set keeps the grammar of extensions and letters out.
    if text.len() > 32 || text.chars().any(|c| !(c.is_ascii_digit() || "+()-./ ".contains(c))) {
        return Err(bad("is not a phone number: only digits, spaces and + ( ) - . / may be in it"));
    }
    let region = region.map(|region| {
        let unknown = || {
            FieldError::new(
                "phone",
                format!("cannot be read in the region `{region}`"),
                "correct the project's default_region (ISO 3166-1 alpha-2)",
            )
        };
        region.parse::<phonenumber::country::Id>().map_err(|_| unknown())
    });
    let international = text.trim_start().starts_with('+');
    let region = if international { None } else { region.transpose()? };
    if !international && region.is_none() {
        return Err(bad("has no country code"));
    }
    let number = phonenumber::parse(region, text.trim()).map_err(|_| bad("is not a phone number"))?;
    if !number.is_valid() {
        return Err(bad("is in no range of numbers that its country uses"));
    }
    Ok(number.format().mode(phonenumber::Mode::E164).to_string())
}

/// A locale in the casing of BCP 47 (RFC 5646 section 2.1.1): `de-at` becomes `de-AT`. Only the shape is checked.
///
/// # Errors
/// It has not the shape.
pub fn locale(text: &str) -> Result<String, FieldError> {
    let bad = |detail| FieldError::new("locale", detail, "send a BCP 47 tag like `en`, `de-AT` or `zh-Hant-TW`");
    if text.contains('_') {
        return Err(bad("has an underscore"));
    }
    let shaped = |(index, part): (usize, &str)| {
        let alphabetic = part.bytes().all(|b| b.is_ascii_alphabetic());
        let letters = part.bytes().all(|b| b.is_ascii_alphanumeric());
        if index == 0 { alphabetic && (2..=8).contains(&part.len()) } else { letters && (1..=8).contains(&part.len()) }
    };
    if text.len() > 35 || !text.split('-').enumerate().all(shaped) {
        return Err(bad("is not a BCP 47 tag"));
    }
    let mut singleton = false;
    let cased = text.split('-').enumerate().map(|(index, part)| {
        let after_singleton = singleton;
        singleton |= part.len() == 1;
        let mut lower = part.to_ascii_lowercase();
        match lower.len() {
            2 if index > 0 && !after_singleton => lower.make_ascii_uppercase(),
            4 if index > 0 && !after_singleton && lower.bytes().all(|b| b.is_ascii_alphabetic()) => {
                lower[..1].make_ascii_uppercase();
            }
            _ => {}
        }
        lower
    });
    Ok(cased.collect::<Vec<_>>().join("-"))
}

/// A time zone by its IANA name.
///
/// # Errors
/// The database that travels with this binary has no such zone.
pub fn time_zone(text: &str) -> Result<String, FieldError> {
    static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);
    let zone = ZONES.get(text).ok();
    zone.and_then(|zone| zone.iana_name().map(str::to_owned)).ok_or_else(|| {
        let remedy = "send a name like `Europe/Berlin` or `UTC`";
        FieldError::new("time_zone", "is not in the IANA time zone database", remedy)
    })
}

fn quiet_hours(value: Value) -> Result<Option<QuietHours>, FieldError> {
    const REMEDY: &str =
        "send an object like `{\"from\": \"22:00\", \"to\": \"08:00\"}`, or null for those of the project";
    let bad = |field: &str, detail: String| FieldError::new(field, detail, REMEDY);
    let mut given = match value {
        Value::Null => return Ok(None),
        Value::Object(given) => given,
        _ => return Err(bad("quiet_hours", "is not an object".into())),
    };
    let mut end = |name: &str| {
        let field = format!("quiet_hours.{name}");
        match given.remove(name) {
            Some(Value::String(text)) => match hours::time(&text) {
                Ok(_) => Ok(text),
                Err(problem) => Err(bad(&field, problem.to_string())),
            },
            Some(_) => Err(bad(&field, "is not a string".into())),
            None => Err(bad(&field, "is missing".into())),
        }
    };
    let hours = QuietHours { from: end("from")?, to: end("to")? };
    match given.keys().next() {
        Some(name) => {
            let name: String = name.chars().take(100).collect();
            Err(bad(&format!("quiet_hours.{name}"), "is no end of quiet hours".into()))
        }
        None => Ok(Some(hours)),
    }
}

pub(super) fn channel(field: &str, name: &str) -> Result<Channel, FieldError> {
    name.parse().map_err(|_| {
        let known = Channel::ALL.map(Channel::name).join(", ");
        FieldError::new(field, "is not a channel", format!("use one of {known}"))
    })
}

fn channels(value: Value) -> Result<Option<Vec<Channel>>, FieldError> {
    let bad =
        || FieldError::new("channels", "is not a list of channel names", "send a list like `[\"email\", \"sms\"]`");
    let names = match value {
        Value::Null => return Ok(None),
        Value::Array(names) => names,
        _ => return Err(bad()),
    };
    let mut channels = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let field = format!("channels.{index}");
        let channel = channel(&field, name.as_str().ok_or_else(bad)?)?;
        if channels.contains(&channel) {
            return Err(FieldError::new(field, "is there twice", "name each channel once"));
        }
        channels.push(channel);
    }
    Ok(Some(channels))
}

fn opt_ins(value: Value) -> Result<BTreeMap<Channel, OptInPatch>, FieldError> {
    let Value::Object(given) = value else {
        let remedy = "send an object like `{\"email\": true, \"sms\": null}`";
        return Err(FieldError::new("opt_ins", "is not an object", remedy));
    };
    let mut opt_ins = BTreeMap::new();
    for (name, value) in given {
        let field = format!("opt_ins.{}", name.chars().take(100).collect::<String>());
        let statements = match value {
            Value::Object(each) => OptInPatch::Each(by_category(&field, each)?),
            whole => OptInPatch::Whole(statement(&field, &whole)?),
        };
        opt_ins.insert(channel(&field, &name)?, statements);
    }
    Ok(opt_ins)
}

fn by_category(field: &str, given: Map<String, Value>) -> Result<BTreeMap<String, Option<bool>>, FieldError> {
    let mut each = BTreeMap::new();
    for (name, value) in given {
        let field = format!("{field}.{}", name.chars().take(100).collect::<String>());
        if name != ByCategory::WHOLE {
            category(&field, &name)?;
        }
        each.insert(name, statement(&field, &value)?);
    }
    Ok(each)
}

/// Checks what a category is called; whether the project has it, its definitions say.
///
/// # Errors
/// It is no name.
pub fn category(field: &str, name: &str) -> Result<(), FieldError> {
    match name_problem(name) {
        Some(problem) => Err(FieldError::new(field, problem, "use the category's name as the project declares it")),
        None => Ok(()),
    }
}

fn statement(field: &str, value: &Value) -> Result<Option<bool>, FieldError> {
    match value {
        Value::Null => Ok(None),
        Value::Bool(statement) => Ok(Some(*statement)),
        _ => {
            let remedy = "send true, false, or null where the member never said; or an object of these by category";
            Err(FieldError::new(field, "is not true, false or null", remedy))
        }
    }
}

fn attributes(value: Value) -> Result<Map<String, Value>, FieldError> {
    let Value::Object(attributes) = value else {
        return Err(FieldError::new("attributes", "is not an object", "send an object like `{\"tier\": \"gold\"}`"));
    };
    let size = serde_json::to_string(&attributes).map_or(usize::MAX, |text| text.len());
    if size > MAX_ATTRIBUTES_BYTES {
        let detail = format!("has more than {MAX_ATTRIBUTES_BYTES} bytes");
        return Err(FieldError::new("attributes", detail, "keep only what messages and conditions need"));
    }
    Ok(attributes)
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn check(value: Value) -> Result<Patch, FieldError> {
        let Value::Object(fields) = value else { panic!("an object") };
        patch(fields, Some("DE"))
    }

    #[test]
    fn good_fields_come_out_in_normal_form() {
        let patch = check(json!({
            "email": "Anna@Example.ORG", "phone": "0151 1234 5678", "locale": "de-at", "time_zone": "europe/berlin",
            "quiet_hours": {"from": "21:30", "to": "09:00"}, "channels": ["sms", "email"],
            "opt_ins": {"email": true, "sms": null}, "attributes": {"tier": "gold", "x": null},
        }))
        .unwrap();
        assert_eq!(patch.addresses[&Channel::Email], ["Anna@example.org"]);
        assert_eq!(patch.addresses[&Channel::Sms], ["+4915112345678"]);
        assert_eq!(patch.locale, Some(Some("de-AT".into())));
        assert_eq!(patch.time_zone, Some(Some("Europe/Berlin".into())));
        assert_eq!(patch.quiet_hours, Some(Some(QuietHours { from: "21:30".into(), to: "09:00".into() })));
        assert_eq!(patch.channels, Some(Some(vec![Channel::Sms, Channel::Email])));
        let whole = OptInPatch::Whole;
        assert_eq!(patch.opt_ins, [(Channel::Email, whole(Some(true))), (Channel::Sms, whole(None))].into());
        assert_eq!(patch.attributes.len(), 2);
    }

    #[test]
    fn an_opt_in_is_said_of_a_channel_or_by_category() {
        let patch = check(json!({"opt_ins": {"email": {"newsletter": false, "tips": null, "*": true}}})).unwrap();
        let statements: Vec<_> = patch.opt_ins[&Channel::Email].statements().collect();
        assert_eq!(statements, [("newsletter", Some(false)), ("tips", None), ("*", Some(true))]);
    }

    #[test]
    fn absent_stays_and_null_goes() {
        assert_eq!(check(json!({})).unwrap(), Patch::default());
        let patch = check(json!({"email": null, "phone": null, "channels": null, "quiet_hours": null})).unwrap();
        assert_eq!(patch.addresses, [(Channel::Email, vec![]), (Channel::Sms, vec![])].into());
        assert_eq!(patch.locale, None);
        assert_eq!((patch.channels, patch.quiet_hours, patch.time_zone), (Some(None), Some(None), None));
    }

    #[test]
    fn each_refusal_names_its_field_and_a_remedy() {
        let long = format!("{}@example.org", "x".repeat(250));
        let cases = [
            ("email", json!({"email": "nobody"})),
            ("email", json!({"email": "Anna <anna@example.org>"})),
            ("email", json!({"email": "\"an na\"@example.org"})),
            ("email", json!({"email": "a@b\r\nBcc: c@d"})),
            ("email", json!({"email": "a@[127.0.0.1]"})),
            ("email", json!({"email": long})),
            ("email", json!({"email": 7})),
            ("phone", json!({"phone": "call me"})),
            ("phone", json!({"phone": "+49"})),
            ("phone", json!({"phone": "+999123456789"})),
            ("phone", json!({"phone": "12"})),
            ("locale", json!({"locale": "de_AT"})),
            ("locale", json!({"locale": "d"})),
            ("locale", json!({"locale": "de-"})),
            ("time_zone", json!({"time_zone": "Mars/Olympus"})),
            ("time_zone", json!({"time_zone": ""})),
            ("quiet_hours", json!({"quiet_hours": "22:00-08:00"})),
            ("quiet_hours.from", json!({"quiet_hours": {"to": "08:00"}})),
            ("quiet_hours.from", json!({"quiet_hours": {"from": 22, "to": 8}})),
            ("quiet_hours.to", json!({"quiet_hours": {"from": "22:00", "to": "24:00"}})),
            ("quiet_hours.on", json!({"quiet_hours": {"from": "22:00", "to": "08:00", "on": "monday"}})),
            ("channels", json!({"channels": "email"})),
            ("channels.1", json!({"channels": ["email", "fax"]})),
            ("channels.1", json!({"channels": ["email", "email"]})),
            ("opt_ins", json!({"opt_ins": []})),
            ("opt_ins.fax", json!({"opt_ins": {"fax": true}})),
            ("opt_ins.sms", json!({"opt_ins": {"sms": "yes"}})),
            ("opt_ins.sms.tips", json!({"opt_ins": {"sms": {"tips": "yes"}}})),
            ("opt_ins.sms.Our Tips", json!({"opt_ins": {"sms": {"Our Tips": true}}})),
            ("attributes", json!({"attributes": 1})),
            ("attributes", json!({"attributes": {"x": "y".repeat(MAX_ATTRIBUTES_BYTES)}})),
            ("e-mail", json!({"e-mail": "a@b.org"})),
        ];
        for (field, value) in cases {
            let error = check(value.clone()).expect_err(&value.to_string());
            assert_eq!(error.field, field, "{error}");
            assert!(!error.remedy.is_empty() && !error.detail.is_empty());
        }
    }

    #[test]
    fn a_phone_without_country_code_needs_a_region() {
        assert_eq!(phone("+43 664 1234567", Some("DE")).unwrap(), "+436641234567");
        assert_eq!(phone("0664 1234567", Some("AT")).unwrap(), "+436641234567");
        assert!(phone("0664 1234567", None).unwrap_err().remedy.contains("default_region"));
        assert!(phone("0664 1234567", Some("nowhere")).unwrap_err().remedy.contains("default_region"));
    }

    #[test]
    fn locales_take_the_casing_of_the_standard() {
        for (given, normal) in [
            ("EN", "en"),
            ("zh-hant-tw", "zh-Hant-TW"),
            ("en-us-x-twain", "en-US-x-twain"),
            ("es-419", "es-419"),
            ("de-1996", "de-1996"),
        ] {
            assert_eq!(locale(given).unwrap(), normal);
        }
    }

    #[test]
    fn ids_are_bounded() {
        assert!(member_id("anna@7/β").is_ok());
        for bad in ["", ".", "..", "a\nb", &"x".repeat(257)] {
            assert_eq!(member_id(bad).unwrap_err().field, "id");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_a_check(text in "\\PC{0,40}", digits in "[+()./ 0-9-]{0,33}") {
            for text in [&text, &digits] {
                for region in [None, Some("DE"), Some("US"), Some("IT")] {
                    if let Ok(number) = phone(text, region) {
                        prop_assert_eq!(phone(&number, None), Ok(number.clone()));
                    }
                }
                prop_assert!(email(text).is_ok() || !email(text).unwrap_err().remedy.is_empty());
                if let Ok(tag) = locale(text) {
                    prop_assert_eq!(locale(&tag), Ok(tag.clone()));
                }
                prop_assert!(time_zone(text).is_ok() || !time_zone(text).unwrap_err().remedy.is_empty());
            }
        }
    }
}
