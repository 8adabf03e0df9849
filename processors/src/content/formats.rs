//! Numbers, money, dates and plural forms as a locale writes them: CLDR's data, by ICU4X, compiled into the binary.
//! Reads nothing of the machine, and knows nothing of templates.

use fixed_decimal::Decimal;
use icu_calendar::Gregorian;
use icu_datetime::{
    FixedCalendarDateTimeFormatter, NoCalendarFormatter,
    fieldsets::{T, YMD, YMDE, YMDET, YMDT},
    input::{Date, DateTime, Time},
    options::TimePrecision,
};
use icu_decimal::DecimalFormatter;
use icu_experimental::dimension::currency::{CurrencyType, formatter::CurrencyFormatter};
use icu_locale_core::Locale;
use icu_plurals::{PluralCategory, PluralRules};
use icu_provider::DataError;
use jiff::civil;
use std::fmt;

/// How much a date or time says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// `1/3/26`; of a time, hours and minutes.
    Short,
    /// `1 mar 2026`; of a time, with seconds.
    Medium,
    /// `1 de marzo de 2026`.
    Long,
    /// `domingo, 1 de marzo de 2026`.
    Full,
}

impl Style {
    pub(super) const ALL: [(&str, Self); 4] =
        [("short", Self::Short), ("medium", Self::Medium), ("long", Self::Long), ("full", Self::Full)];

    pub(super) fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, style)| *style)
    }
}

/// A set of formatters of one type, by how much they say.
struct Lengths<F, G> {
    short: F,
    medium: F,
    long: F,
    full: G,
}

/// The formats of one locale, made once.
pub(super) struct Formats {
    locale: Locale,
    number: DecimalFormatter,
    plurals: PluralRules,
    date: Lengths<FixedCalendarDateTimeFormatter<Gregorian, YMD>, FixedCalendarDateTimeFormatter<Gregorian, YMDE>>,
    date_time:
        Lengths<FixedCalendarDateTimeFormatter<Gregorian, YMDT>, FixedCalendarDateTimeFormatter<Gregorian, YMDET>>,
    minutes: NoCalendarFormatter<T>,
    seconds: NoCalendarFormatter<T>,
}

impl fmt::Debug for Formats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Formats").field(&self.locale.to_string()).finish()
    }
}

/// The formats that there are of ICU's own root, where a locale has none.
const NO_DATA: &str = "no formats of this locale are compiled in";

impl Formats {
    /// The formats of a locale; one that CLDR does not know writes as its nearest parent does.
    pub(super) fn of(locale: &str) -> Result<Self, &'static str> {
        let locale: Locale = locale.parse().map_err(|_| NO_DATA)?;
        Self::new(locale).ok_or(NO_DATA)
    }

    fn new(locale: Locale) -> Option<Self> {
        let minute = TimePrecision::Minute;
        let date = |fields| FixedCalendarDateTimeFormatter::try_new((&locale).into(), fields).ok();
        let date_time = |fields: YMDT| {
            FixedCalendarDateTimeFormatter::try_new((&locale).into(), fields.with_time_precision(minute)).ok()
        };
        let time = |fields| NoCalendarFormatter::try_new((&locale).into(), fields).ok();
        Some(Self {
            number: DecimalFormatter::try_new((&locale).into(), Default::default()).ok()?,
            plurals: PluralRules::try_new_cardinal((&locale).into()).ok()?,
            date: Lengths {
                short: date(YMD::short())?,
                medium: date(YMD::medium())?,
                long: date(YMD::long())?,
                full: FixedCalendarDateTimeFormatter::try_new((&locale).into(), YMDE::long()).ok()?,
            },
            date_time: Lengths {
                short: date_time(YMDT::short())?,
                medium: date_time(YMDT::medium())?,
                long: date_time(YMDT::long())?,
                full: FixedCalendarDateTimeFormatter::try_new(
                    (&locale).into(),
                    YMDET::long().with_time_precision(minute),
                )
                .ok()?,
            },
            minutes: time(T::short().with_time_precision(minute))?,
            seconds: time(T::medium())?,
            locale,
        })
    }

    /// With as many digits after the point as the number has.
    pub(super) fn number(&self, number: &Decimal) -> String {
        self.number.format(number).to_string()
    }

    /// An amount of a currency (ISO 4217), with as many digits after the point as the currency has; `None` for what is no code.
    pub(super) fn money(&self, amount: &Decimal, currency: &str) -> Option<String> {
        let currency =
            Some(currency).filter(|code| code.len() == 3 && code.bytes().all(|b| b.is_ascii_alphabetic()))?;
        let currency = CurrencyType::try_from_str(currency).ok()?;
        let formatter: Result<CurrencyFormatter<DecimalFormatter>, DataError> =
            CurrencyFormatter::try_new_symbol((&self.locale).into(), currency, Default::default());
        Some(formatter.ok()?.format_fixed_decimal(amount).to_string())
    }

    /// The plural form that a number takes: `zero`, `one`, `two`, `few`, `many` or `other`.
    pub(super) fn plural(&self, number: &Decimal) -> &'static str {
        match self.plurals.category_for(number) {
            PluralCategory::Zero => "zero",
            PluralCategory::One => "one",
            PluralCategory::Two => "two",
            PluralCategory::Few => "few",
            PluralCategory::Many => "many",
            PluralCategory::Other => "other",
        }
    }

    /// `None` for a date that ICU does not have.
    pub(super) fn date(&self, date: civil::Date, style: Style) -> Option<String> {
        let date = icu_date(date)?;
        Some(match style {
            Style::Short => self.date.short.format(&date).to_string(),
            Style::Medium => self.date.medium.format(&date).to_string(),
            Style::Long => self.date.long.format(&date).to_string(),
            Style::Full => self.date.full.format(&date).to_string(),
        })
    }

    /// `None` for a time that ICU does not have.
    pub(super) fn time(&self, time: civil::Time, style: Style) -> Option<String> {
        let time = icu_time(time)?;
        Some(if style == Style::Short { self.minutes.format(&time) } else { self.seconds.format(&time) }.to_string())
    }

    /// Date and time, to the minute.
    pub(super) fn date_time(&self, at: civil::DateTime, style: Style) -> Option<String> {
        let at = DateTime { date: icu_date(at.date())?, time: icu_time(at.time())? };
        Some(match style {
            Style::Short => self.date_time.short.format(&at).to_string(),
            Style::Medium => self.date_time.medium.format(&at).to_string(),
            Style::Long => self.date_time.long.format(&at).to_string(),
            Style::Full => self.date_time.full.format(&at).to_string(),
        })
    }
}

fn icu_date(date: civil::Date) -> Option<Date<Gregorian>> {
    let part = |n: i8| u8::try_from(n).ok();
    Date::try_new_gregorian(date.year().into(), part(date.month())?, part(date.day())?).ok()
}

fn icu_time(time: civil::Time) -> Option<Time> {
    let part = |n: i8| u8::try_from(n).ok();
    Time::try_new(part(time.hour())?, part(time.minute())?, part(time.second())?, 0).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// One locale a row: what a Spaniard, an Argentine or a Pole would write by hand. Spaces that do not break are shown as `_`.
    #[test]
    fn each_locale_writes_as_its_people_do() {
        let day = civil::date(2026, 3, 1).at(17, 5, 9, 0);
        let mut told = String::new();
        for locale in ["en", "en-GB", "es", "es-AR", "es-419", "pt", "pt-BR", "pl", "ar", "zh-Hant-TW", "qq"] {
            let formats = Formats::of(locale).unwrap();
            let decimal = |text: &str| text.parse::<Decimal>().unwrap();
            let mut row = vec![formats.number(&decimal("-1234567.5")), formats.number(&decimal("1234"))];
            for currency in ["EUR", "USD", "ARS", "BRL", "JPY", "KWD"] {
                row.push(formats.money(&decimal("1234.5"), currency).unwrap());
            }
            for (_, style) in Style::ALL {
                row.push(formats.date(day.date(), style).unwrap());
                row.push(formats.date_time(day, style).unwrap());
            }
            row.push(formats.time(day.time(), Style::Short).unwrap());
            row.push(formats.time(day.time(), Style::Medium).unwrap());
            let forms = ["0", "1", "1.0", "1.5", "2", "3", "5", "11", "22", "100", "1000000"];
            row.push(forms.map(|n| format!("{n} {}", formats.plural(&decimal(n)))).join(", "));
            told += &format!("# {locale}\n{}\n\n", row.join("\n").replace(['\u{a0}', '\u{202f}'], "_"));
        }
        insta::assert_snapshot!(told);
    }

    #[test]
    fn what_is_no_currency_is_no_money() {
        let formats = Formats::of("en").unwrap();
        for code in ["", "E", "EURO", "€", "12A"] {
            assert_eq!(formats.money(&Decimal::from(1), code), None, "{code}");
        }
        assert_eq!(formats.money(&Decimal::from(1), "eur"), formats.money(&Decimal::from(1), "EUR"));
    }
}
