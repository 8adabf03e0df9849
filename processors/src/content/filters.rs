//! The filters that templates have beside the engine's own: numbers, money, plural forms, dates, links and cutting.
//! Each is a function of its arguments, the locale of the text and the member's time zone.

use super::formats::{Formats, Style};
use fixed_decimal::{Decimal, SignedRoundingMode, UnsignedRoundingMode};
use jiff::{
    Timestamp,
    civil::{Date, DateTime},
    fmt::strtime,
    tz::{TimeZone, TimeZoneDatabase},
};
use minijinja::{
    Environment, Error, ErrorKind, State,
    value::{Kwargs, Rest, Value},
};
use std::{
    borrow::Cow,
    sync::{Arc, LazyLock},
};
use unicode_segmentation::UnicodeSegmentation as _;

/// By this name filters find the member's time zone in the context. No template can name it.
pub(super) const ZONE: &str = "$zone";
/// Most digits after the point.
const MAX_DIGITS: u32 = 20;

/// Powers of ten of a number's first and last digit: `1e9999` is short to send, and long to write.
const MAX_MAGNITUDE: i16 = 40;

/// The zones of the world, compiled in.
static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// Gives an engine the filters of a locale.
pub(super) fn add(engine: &mut Environment<'static>, formats: &Arc<Formats>) {
    let with = || Arc::clone(formats);
    let formats = with();
    engine.add_filter("number", move |value: &Value, options: Kwargs| number(&formats, value, &options));
    let formats = with();
    engine.add_filter("money", move |value: &Value, currency: Cow<'_, str>| money(&formats, value, &currency));
    let formats = with();
    engine.add_filter("plural", move |value: &Value, forms: Kwargs| plural(&formats, value, &forms));
    for (name, part) in [("date", Part::Date), ("time", Part::Time), ("datetime", Part::Both)] {
        let formats = with();
        let filter = move |state: &State<'_, '_>, value: &Value, style: Option<Cow<'_, str>>, options: Kwargs| {
            moment(&formats, state, value, part, style.as_deref(), &options)
        };
        engine.add_filter(name, filter);
    }
    engine.add_filter("url", url);
    engine.add_filter("truncate", truncate);
}

/// The words name no value: what is rendered is personal.
fn wrong(words: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, words)
}

fn defined(value: &Value) -> Result<&Value, Error> {
    if value.is_undefined() { Err(Error::from(ErrorKind::UndefinedError)) } else { Ok(value) }
}

/// A number, or a text that is one, as money often travels.
fn decimal(value: &Value) -> Result<Decimal, Error> {
    let value = defined(value)?;
    let text = match value.as_str() {
        Some(text) => Cow::Borrowed(text.trim()),
        None if value.is_integer() => Cow::Owned(value.to_string()),
        // Rust writes the shortest text that is this number, without an exponent.
        None if value.is_number() => Cow::Owned(f64::try_from(value.clone())?.to_string()),
        None => return Err(wrong("a number is expected")),
    };
    let number: Decimal = text.parse().map_err(|_| wrong("a number is expected"))?;
    let magnitudes = number.absolute.magnitude_range();
    if *magnitudes.start() < -MAX_MAGNITUDE || *magnitudes.end() > MAX_MAGNITUDE {
        return Err(wrong("the number has more digits than anybody reads"));
    }
    Ok(number)
}

fn number(formats: &Formats, value: &Value, options: &Kwargs) -> Result<String, Error> {
    let mut number = decimal(value)?;
    if let Some(digits) = options.get::<Option<u32>>("digits")? {
        let digits = i16::try_from(digits.min(MAX_DIGITS)).unwrap_or_default();
        // In the middle away from zero, as ICU rounds money too.
        number.round_with_mode(-digits, SignedRoundingMode::Unsigned(UnsignedRoundingMode::HalfExpand));
        number.absolute.trim_end();
        number.absolute.pad_end(-digits);
    }
    options.assert_all_used()?;
    Ok(formats.number(&number))
}

fn money(formats: &Formats, value: &Value, currency: &str) -> Result<String, Error> {
    formats.money(&decimal(value)?, currency).ok_or_else(|| wrong("the currency is no code of ISO 4217, such as `EUR`"))
}

/// `{{ n | plural(one="# night", other="# nights") }}`: the form that the locale's grammar asks for, `#` being the number.
fn plural(formats: &Formats, value: &Value, forms: &Kwargs) -> Result<String, Error> {
    const FORMS: [&str; 6] = ["zero", "one", "two", "few", "many", "other"];
    let number = decimal(value)?;
    let mut given = [const { None::<Cow<'_, str>> }; 6];
    for (place, name) in given.iter_mut().zip(FORMS) {
        *place = forms.get::<Option<Cow<'_, str>>>(name)?;
    }
    forms.assert_all_used()?;
    let form = |name| FORMS.iter().position(|form| *form == name).and_then(|at| given[at].as_deref());
    let form = form(formats.plural(&number)).or_else(|| form("other"));
    let form = form.ok_or_else(|| wrong("the form `other` is missing"))?;
    Ok(form.replace('#', &formats.number(&number)))
}

/// What is shown of a moment.
#[derive(Clone, Copy, Debug)]
enum Part {
    Date,
    Time,
    Both,
}

/// A moment as RFC 3339 or in Unix seconds is shown in the member's zone, or in the given one; a date or time without an offset as it stands.
fn moment(
    formats: &Formats,
    state: &State<'_, '_>,
    value: &Value,
    part: Part,
    style: Option<&str>,
    options: &Kwargs,
) -> Result<String, Error> {
    const EXPECTED: &str = "a date, a time as RFC 3339, or Unix seconds are expected";
    let zone = || {
        let given = options.get::<Option<Cow<'_, str>>>("zone")?;
        match given.or_else(|| state.lookup(ZONE).and_then(|zone| zone.as_str().map(|z| Cow::Owned(z.to_owned())))) {
            Some(name) => {
                ZONES.get(&name).map_err(|_| wrong("the zone is no name of the IANA database, such as `Europe/Madrid`"))
            }
            None => Ok(TimeZone::UTC),
        }
    };
    let value = defined(value)?;
    let moment = match value.as_str() {
        Some(text) => text.parse::<Timestamp>().ok(),
        None => value.as_i64().and_then(|seconds| Timestamp::from_second(seconds).ok()),
    };
    let zoned = match moment {
        Some(moment) => moment.to_zoned(zone()?),
        None => {
            let text = value.as_str().ok_or_else(|| wrong(EXPECTED))?;
            let local = text.parse::<DateTime>().or_else(|_| text.parse::<Date>().map(DateTime::from));
            // UTC is the zone that leaves it as it stands.
            local.and_then(|local| local.to_zoned(TimeZone::UTC)).map_err(|_| wrong(EXPECTED))?
        }
    };
    options.get::<Option<Value>>("zone")?; // used, also where it changes nothing
    options.assert_all_used()?;
    let style = style.unwrap_or(if matches!(part, Part::Time) { "short" } else { "medium" });
    if style.contains('%') {
        return strtime::format(style, &zoned).map_err(|_| wrong("the format is none of strftime"));
    }
    let style = Style::parse(style).ok_or_else(|| {
        wrong("the format is none of short, medium, long, full, nor one of strftime such as `%d.%m.`")
    })?;
    let at = zoned.datetime();
    let text = match part {
        Part::Date => formats.date(at.date(), style),
        Part::Time => formats.time(at.time(), style),
        Part::Both => formats.date_time(at, style),
    };
    text.ok_or_else(|| wrong(EXPECTED))
}

/// `{{ "https://shop.example/orders" | url(order.number, ref="mail") }}`: more segments of the path and parameters of the query, all encoded.
fn url(base: Cow<'_, str>, segments: Rest<Value>, query: Kwargs) -> Result<String, Error> {
    let (base, fragment) = base.split_once('#').map_or((&*base, None), |(base, fragment)| (base, Some(fragment)));
    let (path, asked) = base.split_once('?').map_or((base, None), |(path, asked)| (path, Some(asked)));
    let mut url = if segments.is_empty() { path } else { path.trim_end_matches('/') }.to_owned();
    for segment in segments.iter() {
        url.push('/');
        encode(&mut url, &defined(segment)?.to_string());
    }
    let mut joint = '?';
    if let Some(asked) = asked {
        url.push('?');
        url.push_str(asked);
        joint = '&';
    }
    for name in query.args() {
        let value = query.peek::<Value>(name)?;
        url.push(std::mem::replace(&mut joint, '&'));
        encode(&mut url, name);
        url.push('=');
        encode(&mut url, &defined(&value)?.to_string());
    }
    if let Some(fragment) = fragment {
        url.push('#');
        url.push_str(fragment);
    }
    Ok(url)
}

/// All but RFC 3986's unreserved characters as `%XX`.
fn encode(url: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => url.push(char::from(byte)),
            _ => url.push_str(&format!("%{byte:02X}")),
        }
    }
}

/// At most `length` of what people see as characters, `end` included where something was cut away.
fn truncate(text: Cow<'_, str>, length: usize, options: Kwargs) -> Result<String, Error> {
    let end = options.get::<Option<Cow<'_, str>>>("end")?.unwrap_or(Cow::Borrowed("…"));
    options.assert_all_used()?;
    if text.graphemes(true).nth(length).is_none() {
        return Ok(text.into_owned());
    }
    let kept = length.saturating_sub(end.graphemes(true).count());
    let mut cut: String = text.graphemes(true).take(kept).collect();
    cut.truncate(cut.trim_end().len());
    Ok(cut + &end)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use minijinja::{UndefinedBehavior, context};
    use proptest::prelude::*;

    fn engine(locale: &str) -> Environment<'static> {
        let mut engine = Environment::new();
        engine.set_undefined_behavior(UndefinedBehavior::Strict);
        add(&mut engine, &Arc::new(Formats::of(locale).unwrap()));
        engine
    }

    /// With the zone of Buenos Aires, and spaces that do not break as plain ones.
    fn rendered(locale: &str, text: &str) -> Result<String, Error> {
        let context = Value::from_pairs([
            (ZONE, Value::from("America/Argentina/Buenos_Aires")),
            ("total", "1234.5".into()),
            ("n", 2.into()),
            ("at", "2026-03-01T01:30:00Z".into()),
            ("day", "2026-03-01".into()),
            ("clock", "2026-03-01T18:45".into()),
            ("family", "👨‍👩‍👧‍👦 and a flag 🇦🇷".into()),
            ("name", "A&B / ñ".into()),
        ]);
        let spaces = |text: String| text.replace(['\u{a0}', '\u{202f}'], " ");
        engine(locale).render_str(text, context).map(spaces)
    }

    #[test]
    fn filters_say_what_people_of_the_locale_say() {
        for (locale, text, said) in [
            ("en", "{{ total | number }}", "1,234.5"),
            ("es-AR", "{{ total | number(digits=2) }}", "1.234,50"),
            (
                "en",
                "{{ 2.345 | number(digits=2) }} {{ 7.0 | number }} {{ 1e21 | number }}",
                "2.35 7 1,000,000,000,000,000,000,000",
            ),
            ("pt-BR", "{{ total | money('BRL') }}", "R$ 1.234,50"),
            ("en", "{{ 3 | money('JPY') }} {{ -3 | money('USD') }}", "¥3 -$3.00"),
            ("en", "{{ n | plural(one='# night', other='# nights') }}", "2 nights"),
            (
                "pl",
                "{% for n in [1, 2, 5] %}{{ n | plural(one='# noc', few='# noce', many='# nocy', other='#') }} {% endfor %}",
                "1 noc 2 noce 5 nocy ",
            ),
            ("ar", "{% for n in [0, 1, 2, 3] %}{{ n | plural(two='both', other='#') }} {% endfor %}", "0 1 both 3 "),
            // The member's zone is three hours behind: it is still February there.
            ("es", "{{ at | date }}, {{ at | time }}", "28 feb 2026, 22:30"),
            ("es", "{{ at | datetime('full') }}", "sábado, 28 de febrero de 2026 a las 22:30"),
            ("en", "{{ at | datetime('short', zone='Asia/Tokyo') }}", "3/1/26, 10:30 AM"),
            ("en-GB", "{{ day | date('long') }} {{ clock | time }}", "1 March 2026 18:45"),
            ("en", "{{ at | date('%d.%m. %H:%M') }} {{ 0 | datetime('%Y') }}", "28.02. 22:30 1969"),
            (
                "en",
                "{{ 'https://a.example/o/' | url(name, n, ref=name) }}",
                "https://a.example/o/A%26B%20%2F%20%C3%B1/2?ref=A%26B%20%2F%20%C3%B1",
            ),
            (
                "en",
                "{{ 'https://a.example/?a=1#top' | url(b=2) }} {{ 'https://a.example/' | url }}",
                "https://a.example/?a=1&b=2#top https://a.example/",
            ),
            (
                "en",
                "{{ family | truncate(6) }} {{ family | truncate(99) }} {{ 'abc' | truncate(2, end='') }}",
                "👨‍👩‍👧‍👦 and… 👨‍👩‍👧‍👦 and a flag 🇦🇷 ab",
            ),
        ] {
            assert_eq!(rendered(locale, text).unwrap(), said, "{locale}: {text}");
        }
    }

    #[test]
    fn what_a_filter_cannot_take_is_an_error_without_the_value() {
        for (text, words) in [
            ("{{ name | number }}", "a number is expected"),
            ("{{ total | money(name) }}", "ISO 4217"),
            ("{{ name | date }}", "RFC 3339"),
            ("{{ at | date(zone='Mars/Olympus') }}", "IANA"),
            ("{{ at | date('tiny') }}", "short, medium, long, full"),
            ("{{ n | plural(one='x') }}", "`other` is missing"),
            ("{{ n | plural(some='x', other='y') }}", "some"),
            ("{{ missing | money('EUR') }}", "undefined"),
            ("{{ missing | date }}", "undefined"),
        ] {
            let error = rendered("en", text).unwrap_err().to_string();
            assert!(error.contains(words) && !error.contains("A&B"), "{text}: {error}");
        }
    }

    proptest! {
        /// A text that is cut is no longer than it was to be, its beginning is the text's, and no character was split.
        #[test]
        fn cutting_keeps_characters_whole(text in "[a-z👨‍👩‍👧🇦🇷é\u{301} ]{0,24}", length in 1_usize..20) {
            let cut = truncate(Cow::Borrowed(&text), length, Kwargs::from_iter(Vec::<(&str, Value)>::new())).unwrap();
            prop_assert!(cut.graphemes(true).count() <= length);
            let whole: Vec<_> = text.graphemes(true).collect();
            let kept = cut.strip_suffix('…').unwrap_or(&cut);
            prop_assert!(kept.graphemes(true).zip(&whole).all(|(a, b)| a == *b));
        }

        /// Whatever a producer sends as a moment or number, the answer is words or an error.
        #[test]
        fn no_value_makes_a_filter_panic(text in "[0-9TZ:+.e -]{0,24}", number in any::<f64>(), seconds in any::<i64>()) {
            let engine = engine("es");
            for filter in ["date", "time", "datetime('full')", "number", "money('EUR')", "plural(other='#')"] {
                for value in [Value::from(text.as_str()), Value::from(number), Value::from(seconds)] {
                    engine.render_str(&format!("{{{{ x | {filter} }}}}"), context! { x => value }).ok();
                }
            }
        }
    }
}
